"""Many prompts in one go: a gateway's own batch mode (`/files` and `/batches`, as OpenAI's API has them)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from hiperrag.answering.generators import background
from hiperrag.answering.generators.base import FinishReason, Message
from hiperrag.answering.generators.events import said
from hiperrag.answering.generators.openai import OpenAIGenerator, chat_body
from hiperrag.errors import UserError

MOST_PROMPTS = 10_000
"""In one batch; OpenAI takes 50,000 and 200 MB."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


class Prompt(NamedTuple):
    """What a generator is asked."""

    messages: list[Message]
    max_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """What it wrote; where `error` is not empty, why it did not."""

    text: str
    finish: FinishReason = "stop"
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchState:
    """How far a batch is."""

    status: str
    done: int
    total: int
    files: tuple[str, ...]
    """Ids of the files with results, errors included."""


class GatewayBatches:
    """The batch mode of the gateway behind a generator."""

    def __init__(self, generator: OpenAIGenerator) -> None:
        self._generator = generator

    def available(self) -> bool:
        """Whether the gateway has one."""
        try:
            return isinstance(self._call("GET", "batches?limit=1").get("data"), list)
        except UserError:
            return False

    def submit(self, prompts: Mapping[str, Prompt]) -> str:
        """The id of a new batch that answers the prompts, at most MOST_PROMPTS."""
        lines = [
            {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": self._body(prompt)}
            for key, prompt in prompts.items()
        ]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        uploaded = self._call(
            "POST", "files", form={"purpose": "batch", "file": ("prompts.jsonl", data, "application/jsonl")}
        )
        made = self._call(
            "POST",
            "batches",
            json={
                "input_file_id": uploaded["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
        return str(made["id"])

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        body = chat_body(self._generator.model, prompt.messages, prompt.max_tokens)
        del body["stream"]
        return body

    def state(self, batch: str) -> BatchState:
        """How far it is."""
        found = self._call("GET", f"batches/{batch}")
        counts = found.get("request_counts") or {}
        files = [found.get("output_file_id"), found.get("error_file_id")]
        return BatchState(
            status=str(found["status"]),
            done=int(counts.get("completed") or 0) + int(counts.get("failed") or 0),
            total=int(counts.get("total") or 0),
            files=tuple(str(one) for one in files if one),
        )

    def results(self, state: BatchState) -> dict[str, Written]:
        """What was written, by the prompts' keys; those without are missing."""
        found: dict[str, Written] = {}
        for file in state.files:
            for line in self._text(f"files/{file}/content").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    row = json.loads(line)
                    found[str(row["custom_id"])] = _written(row)
        return found

    def _call(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        return background.submit(self._generator.gateway.call_json(method, path, **content)).result()

    def _text(self, path: str) -> str:
        return background.submit(self._generator.gateway.call("GET", path)).result().content.decode(errors="replace")


def _written(row: dict[str, Any]) -> Written:
    response = row.get("response") or {}
    body = response.get("body") or {}
    if row.get("error") or response.get("status_code") != 200:
        return Written("", error=said(row) or said(body) or f"status {response.get('status_code')}")
    choice = body["choices"][0]
    reason = choice.get("finish_reason")
    if reason is None:
        return Written("", error="the answer has no end")
    return Written(choice["message"].get("content") or "", "length" if reason == "length" else "stop")
