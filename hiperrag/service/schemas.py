"""Bodies of requests and responses: OpenAI's, with what this service adds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hiperrag.answering.result import Mode
from hiperrag.records import BlockKind

MOST_PASSAGES = 50
MOST_HITS = 1000
MOST_CANDIDATES = 100_000
MOST_TEXTS = 256
MOST_DOCUMENTS = 1000
LONGEST_QUESTION = 10_000
LONGEST_TEXT = 100_000
MODEL_PREFIX = "hiperrag/"
NOT_BLANK = r"[^\s\x1c-\x1f\x85]"
"""What `str.split` would leave something of, in every dialect of regular expressions."""


def _whole(value: object) -> object:
    """JSON does not tell 7.0 from 7."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)

Model = Annotated[str, Field(description="`hiperrag/NAME`; NAME is the collection.", examples=["hiperrag/papers"])]
Quality = (
    Literal["fast", "balanced", "exact"]
    | Annotated[int, Field(ge=1, le=MOST_CANDIDATES, description="How many candidates get their MaxSim."), _WHOLE]
)
Where = Annotated[
    str | None,
    Field(
        max_length=2000,
        description="Only passages that meet a condition.",
        examples=["year >= 2015 and kind == 'table'"],
        json_schema_extra={"format": "hiperrag-condition"},
    ),
]
Question = Annotated[str, Field(min_length=1, max_length=LONGEST_QUESTION, pattern=NOT_BLANK)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]


class _Request(BaseModel):
    """Read strictly: a number in quotes is a string. What is not known is ignored, as OpenAI's clients expect."""

    model_config = ConfigDict(strict=True)


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every response that is an error."""

    error: ErrorDetail


class TextPart(_Request):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: Question


class UserMessage(_Request):
    """What the user said. The last of these is the question, what comes before it is its history."""

    role: Literal["user"]
    content: Question | Annotated[list[TextPart], Field(min_length=1, max_length=100)]

    @property
    def text(self) -> str:
        """Its text, in one piece."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class OtherMessage(_Request):
    """What was said by others; only an assistant's answers matter."""

    role: Literal["system", "developer", "assistant", "tool", "function"]
    content: str | list[Any] | None = None

    @property
    def text(self) -> str:
        """Its text, if it is nothing but that."""
        return self.content if isinstance(self.content, str) else ""


ChatMessage = Annotated[UserMessage | OtherMessage, Field(discriminator="role")]
_ONE_OF_THE_USER = {"type": "object", "properties": {"role": {"const": "user"}}, "required": ["role"]}


class StreamOptions(_Request):
    """How to stream."""

    include_usage: bool | None = None


class ResponseFormat(_Request):
    """Answers are text."""

    type: Literal["text"]


class ChatOptions(_Request):
    """How to search for the answer's passages, and whether to say which passage caused which sentence."""

    model_config = ConfigDict(strict=True, extra="forbid")

    k: Annotated[int, Field(ge=1, le=MOST_PASSAGES), _WHOLE] = 5
    quality: Quality = "balanced"
    where: Where = None
    hybrid: bool = False
    attribute: bool = False


class ChatRequest(_Request):
    """A chat completion is asked for. Sampling parameters, tools and penalties change nothing here."""

    model: Model
    messages: Annotated[
        list[ChatMessage],
        Field(min_length=1, max_length=1000, json_schema_extra={"contains": _ONE_OF_THE_USER}),
    ]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1), _WHOLE] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1), _WHOLE] | None = None
    n: Annotated[Literal[1], _WHOLE] | None = None
    response_format: ResponseFormat | None = None
    hiperrag: ChatOptions | None = None


class UrlCitation(BaseModel):
    """Where in the answer, and what is cited."""

    start_index: int
    end_index: int
    url: str
    title: str


class Annotation(BaseModel):
    """One [n] in the answer."""

    type: Literal["url_citation"] = "url_citation"
    url_citation: UrlCitation


class FoundPassage(BaseModel):
    """Passage [n] that the answer may draw on."""

    n: int
    title: str
    url: str
    document: str
    pages: list[int]
    kind: BlockKind
    score: float
    passage_id: str
    text: str


class CitationBody(BaseModel):
    """A sentence of passage [n] that supports the answer."""

    n: int
    passage_id: str
    document: str
    title: str
    pages: list[int]
    text: str
    url: str


class Shards(BaseModel):
    """Which part of the collection was searched."""

    total: int
    open: int
    missing: list[str]


class AnswerFacts(BaseModel):
    """How an answer came about."""

    question: str
    """As it was searched for: a follow-up question is rewritten to stand alone."""
    supported: bool
    mode: Mode
    notes: list[str]
    generator: str
    timings_ms: dict[str, float]
    shards: Shards


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Annotation]


class Choice(BaseModel):
    """The one there is."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens; `prompt_tokens` is estimated at four bytes of text a token."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    search_results: list[FoundPassage]
    citations: list[CitationBody]
    hiperrag: AnswerFacts
    attribution: dict[str, Any] | None = None


class ModelBody(BaseModel):
    """A collection as a model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "hiperrag"


class ModelList(BaseModel):
    """Those the caller may ask."""

    object: Literal["list"] = "list"
    data: list[ModelBody]


class SearchRequest(_Request):
    """A search; `model` may be given for `collection`."""

    model_config = ConfigDict(
        strict=True, json_schema_extra={"anyOf": [{"required": ["collection"]}, {"required": ["model"]}]}
    )

    collection: Annotated[str, Field(description="Its name.", examples=["papers"])] = ""
    model: Model = ""
    query: Question
    k: Annotated[int, Field(ge=1, le=MOST_HITS), _WHOLE] = 10
    quality: Quality = "balanced"
    where: Where = None
    hybrid: bool = False
    per_document: bool = False
    """Each document once, by its best passage."""


class SearchHit(BaseModel):
    """A passage found."""

    rank: int
    score: float
    passage_id: str
    document: str
    title: str
    pages: list[int]
    kind: BlockKind
    metadata: dict[str, Any]
    text: str
    url: str


class SearchResponse(BaseModel):
    """Best first."""

    query: str
    hits: list[SearchHit]
    timings_ms: dict[str, float]
    shards: Shards


class EmbeddingsRequest(_Request):
    """Pooled vectors of questions, as the collection's encoder makes them."""

    model: Model
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]
    encoding_format: Literal["float", "base64"] | None = "float"


class Embedding(BaseModel):
    """A unit vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """Tokens encoded."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """In the order of the inputs."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage


class RerankDocument(_Request):
    """A text to rank."""

    text: Text


class RerankRequest(_Request):
    """Texts of the caller's own, to be ranked by the collection's encoder."""

    model: Model
    query: Question
    documents: Annotated[list[Text | RerankDocument], Field(min_length=1, max_length=MOST_DOCUMENTS)]
    top_n: Annotated[int, Field(ge=1), _WHOLE] | None = None
    return_documents: bool | None = None


class RerankedText(BaseModel):
    """As it was given."""

    text: str


class RerankResult(BaseModel):
    """`relevance_score` is MaxSim a query token: the mean over the query's tokens of the best cosine, at most 1."""

    index: int
    relevance_score: float
    document: RerankedText | None = None


class RerankResponse(BaseModel):
    """Best first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: EmbeddingsUsage


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class CollectionState(BaseModel):
    """The shards of a collection."""

    total: int
    open: int
    missing: list[str]
    ready: bool
    problem: str = ""
    """Why no newer version of the collection is served, where one is there."""


class GeneratorState(BaseModel):
    """Whether the generator can be reached."""

    name: str
    reachable: bool


class Readiness(BaseModel):
    """`ready`: everything is; `degraded`: some shards or the generator are not; `not ready`: no answers."""

    status: Literal["ready", "degraded", "not ready"]
    collections: dict[str, CollectionState]
    generator: GeneratorState | None = None
