"""Answers in the shape of OpenAI's chat completions, whole and in chunks."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Callable
from typing import Any

from hiperrag.answering.citations import MARKER, marker_numbers
from hiperrag.answering.generators.base import FinishReason
from hiperrag.answering.result import Answer, Sentence
from hiperrag.records import Passage
from hiperrag.service.answers import Found
from hiperrag.service.schemas import (
    Annotation,
    AnswerFacts,
    AnswerMessage,
    ChatCompletion,
    Choice,
    CitationBody,
    FoundPassage,
    Shards,
    UrlCitation,
    Usage,
)
from hiperrag.service.serving import SearchResult
from hiperrag.service.state import shown_generator

_BYTES_PER_TOKEN = 4
DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": heartbeat\n\n"


def shards_of(result: SearchResult) -> Shards:
    """Which shards of the collection a search asked; empty ones do not count."""
    total = sum(entry.n_passages > entry.n_deleted for entry in result.manifest.shards)
    return Shards(total=total, open=total - len(result.missing), missing=result.missing)


class Completion:
    """One answer, from its first event to its last. `url` says where a passage is shown."""

    def __init__(self, model: str, url: Callable[[Passage], str]) -> None:
        self._url = url
        self._id = f"chatcmpl-{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._model = model
        self._text = ""
        self._annotations: list[Annotation] = []
        self._found: Found | None = None
        self._urls: dict[str, str] = {}
        self._answer: Answer | None = None
        self.attribution: dict[str, Any] | None = None

    @property
    def found(self) -> Found:
        """What was found."""
        assert self._found is not None, "the search comes first"
        return self._found

    @property
    def answer(self) -> Answer:
        """The end."""
        assert self._answer is not None, "an answer ends with an Answer"
        return self._answer

    def search(self, found: Found) -> list[FoundPassage]:
        """Take the passages; returns them as they are sent."""
        self._found = found
        self._urls = {hit.passage.passage_id: self._url(hit.passage) for hit in found.result.hits[0]}
        return [
            FoundPassage(
                n=n,
                title=hit.passage.title,
                url=self._urls[hit.passage.passage_id],
                document=hit.passage.document,
                pages=hit.passage.pages,
                kind=hit.passage.kind,
                score=hit.score,
                passage_id=hit.passage.passage_id,
                text=hit.passage.text,
            )
            for n, hit in enumerate(found.result.hits[0], start=1)
        ]

    def add(self, sentence: Sentence) -> str:
        """Take a sentence; returns what it adds to the text, the space before it included."""
        start = len(self._text) + bool(self._text)
        added = f" {sentence.text}" if self._text else sentence.text
        self._text += added
        cited = {citation.n: citation for citation in sentence.citations}
        for match in MARKER.finditer(sentence.text):
            for n in marker_numbers(match[1]):
                if n in cited:
                    citation = cited[n]
                    place = UrlCitation(
                        start_index=start + match.start(),
                        end_index=start + match.end(),
                        url=self._urls[citation.passage_id],
                        title=citation.title or citation.document,
                    )
                    self._annotations.append(Annotation(url_citation=place))
        return added

    def end(self, answer: Answer) -> str:
        """Take the answer; returns what the text still lacks, which is all of it where nothing supports one."""
        self._answer = answer
        rest = answer.text[len(self._text) :] if answer.text.startswith(self._text) else ""
        self._text += rest
        return rest

    @property
    def annotations(self) -> list[Annotation]:
        """One for each [n] of the text."""
        return self._annotations

    @property
    def citations(self) -> list[CitationBody]:
        """The supporting sentences, with where they are shown."""
        return [
            CitationBody(**dataclasses.asdict(citation), url=self._urls[citation.passage_id])
            for citation in self.answer.citations
        ]

    @property
    def facts(self) -> AnswerFacts:
        """How the answer came about."""
        answer, found = self.answer, self.found
        timings = {**found.result.timings_ms, **{f"answer_{name}": ms for name, ms in answer.timings_ms.items()}}
        timings.pop("answer_tokens", None)
        return AnswerFacts(
            question=found.question,
            supported=answer.supported,
            mode=answer.mode,
            notes=[_without_hosts(note) for note in answer.notes],
            generator=shown_generator(answer.generator),
            timings_ms={name: round(ms, 1) for name, ms in timings.items()},
            shards=shards_of(found.result),
        )

    @property
    def usage(self) -> Usage:
        """Tokens: the generator's own count where it wrote, else an estimate from the text's length."""
        read = [self.found.question, *(hit.passage.text for hit in self.found.result.hits[0])]
        prompt = sum(map(_tokens, read))
        written = int(self.answer.timings_ms.get("tokens", 0)) or _tokens(self._text)
        return Usage(prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written)

    def whole(self, results: list[FoundPassage]) -> ChatCompletion:
        """The answer in one piece."""
        message = AnswerMessage(content=self._text, annotations=self.annotations)
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[Choice(message=message, finish_reason=self.answer.finish)],
            usage=self.usage,
            search_results=results,
            citations=self.citations,
            hiperrag=self.facts,
            attribution=self.attribution,
        )

    def chunk(self, delta: dict[str, Any], finish: FinishReason | None = None, **more: Any) -> bytes:
        """One event of the stream; `more` are fields beside OpenAI's."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._event([choice], more)

    def usage_chunk(self) -> bytes:
        """The event that says the usage, and nothing else."""
        return self._event([], {"usage": self.usage.model_dump()})

    def _event(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> bytes:
        head = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
        return sse(head | more)


def sse(body: dict[str, Any]) -> bytes:
    """A server-sent event. JSON has no line breaks of its own; half a character, which a piece may end with, is "?"."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


def _tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)


def _without_hosts(note: str) -> str:
    """A note of a stream that broke off says which host it was; that is not for clients."""
    return note.partition(":")[0] if note.startswith("the answer broke off") else note
