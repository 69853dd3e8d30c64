"""What can be said about an OpenAI-compatible endpoint behind its model name in a spec."""

from __future__ import annotations

from typing import Annotated, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hiperrag.errors import UserError, first_mistake

KEY_VARIABLE = "OPENAI_API_KEY"
COMMAND_VARIABLE = "HIPERRAG_TOKEN_COMMAND"

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class EndpointOptions(BaseModel):
    """Settings of one endpoint: `openai:BASE_URL#MODEL?name=value&name=value`, values URL-encoded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key_env: str = KEY_VARIABLE
    """Environment variable that holds the bearer token; empty: none is sent to this endpoint."""
    token_command: str = ""
    """Command that prints a bearer token, without a shell; otherwise HIPERRAG_TOKEN_COMMAND where it is set."""
    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    """Prompt and answer together. None, for both: what the server's x-ratelimit headers say, if anything."""
    wait_s: Seconds = 60.0
    """The most seconds that a request waits in all for a busy server, before it fails."""
    warm_up_s: Seconds = 600.0
    """The same for a server that is loading the model."""
    idle_s: Seconds = 120.0
    """Seconds without a sign of life after which a connection is given up."""


class Endpoint(NamedTuple):
    """Where to ask, and how. `spec` names it without its options, which may be nobody else's business."""

    base_url: str
    model: str
    options: EndpointOptions

    @property
    def spec(self) -> str:
        return f"openai:{self.base_url}#{self.model}"


def parse_endpoint(spec: str) -> Endpoint:
    """The endpoint of an `openai:` spec; UserError, without its options' values, where it makes no sense."""
    base_url, _, rest = spec.removeprefix("openai:").partition("#")
    model, _, query = rest.partition("?")
    parts = urlsplit(base_url)
    if parts.username or parts.password:
        raise UserError("openai: put the credential in OPENAI_API_KEY, not in the URL")
    if parts.scheme not in ("http", "https") or not parts.hostname or not model:
        raise UserError(
            f"--generator {spec.partition('?')[0]!r}: give openai:BASE_URL#MODEL, "
            "such as openai:http://localhost:8000/v1#my-model"
        )
    try:
        options = EndpointOptions.model_validate(
            dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        )
    except ValidationError as error:
        known = ", ".join(EndpointOptions.model_fields)
        raise UserError(f"--generator openai:{base_url}#{model}: {first_mistake(error)} (options: {known})") from None
    except ValueError:
        raise UserError(f"--generator openai:{base_url}#{model}: give options as ?name=value&name=value") from None
    return Endpoint(base_url, model, options)
