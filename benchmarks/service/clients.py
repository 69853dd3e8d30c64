"""Clients of the service in a process of their own: reads what to do from standard input, writes what became of it.

`python -m hiperrag.benchmarks.service.clients` takes a `Plan` as JSON and prints one `Asked` as JSON a line.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import string
import sys
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from hiperrag.answering.prompts import REFUSAL
from hiperrag.benchmarks.service.stub import MARK

GIVE_UP_S = 240.0


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What the clients do. Each asks again as soon as it has its answer, until `seconds` are over."""

    address: str
    model: str
    questions: list[str]
    clients: int
    seconds: float
    ramp_s: float
    """The clients begin one after the other over so long."""
    max_tokens: int
    leave_share: float = 0.0
    """Of the requests whose client goes away in mid-stream."""
    seed: int = 0


@dataclasses.dataclass(slots=True)
class Asked:
    """One request. Times are of CLOCK_MONOTONIC, seconds; 0 for what never came."""

    mark: str
    client: int
    began: float
    role: float = 0.0
    """First chunk."""
    results: float = 0.0
    """The passages."""
    first_text: float = 0.0
    ended: float = 0.0
    status: int = 0
    sentences: int = 0
    unmarked: int = 0
    """Sentences without the question's own mark, but for the service's own refusal."""
    foreign: int = 0
    """Marks of other questions, drafts included."""
    done: bool = False
    left: bool = False
    """The client went away on purpose."""
    error: str = ""
    missing: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    timings_ms: dict[str, float] = dataclasses.field(default_factory=dict)


def mark_of(chance: random.Random) -> str:
    """A word that is in no other question."""
    return "zq" + "".join(chance.choices(string.ascii_lowercase, k=8))


async def ask(plan: Plan, question: str, asked: Asked, leave_after: int | None) -> None:
    """One request from its connection to its last chunk; everything that happens is noted in `asked`."""
    url = urlsplit(plan.address)
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(GIVE_UP_S):
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            writer.write(_request(plan, f"{question} ({asked.mark})", url.netloc))
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            asked.status = int(head.split(" ", 2)[1])
            if asked.status != 200:
                asked.error = f"HTTP {asked.status}"
                return
            n_chunks = 0
            async for chunk in _chunks(reader):
                _note(chunk, asked)
                n_chunks += 1
                if leave_after is not None and n_chunks >= leave_after:
                    asked.left = True
                    return
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        asked.error = f"{type(error).__name__}: {error}"[:200]
    finally:
        asked.ended = time.monotonic()
        if writer:
            writer.close()


def _request(plan: Plan, question: str, host: str) -> bytes:
    body = json.dumps(
        {
            "model": plan.model,
            "messages": [{"role": "user", "content": question}],
            "stream": True,
            "max_tokens": plan.max_tokens,
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The data of a chunked response's server-sent events, heartbeats left out; IncompleteReadError if it is cut."""
    rest = b""
    while size := int(await reader.readline() or b"x", 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        while b"\n\n" in rest:
            event, rest = rest.split(b"\n\n", 1)
            if event.startswith(b"data: "):
                yield event[6:]


def _note(data: bytes, asked: Asked) -> None:
    now = time.monotonic()
    asked.role = asked.role or now
    if data == b"[DONE]":
        asked.done = True
        return
    chunk: dict[str, Any] = json.loads(data)
    if "error" in chunk:
        asked.error = str(chunk["error"].get("message"))
        return
    if "search_results" in chunk:
        asked.results = now
        return
    about = chunk.get("hiperrag") or {}
    text = "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", []))
    marks = MARK.findall(text + about.get("draft", ""))
    asked.foreign += sum(mark != asked.mark for mark in marks)
    if text:
        asked.first_text = asked.first_text or now
        asked.sentences += 1
        asked.unmarked += asked.mark not in text and text.strip() != REFUSAL
    if "timings_ms" in about:
        asked.timings_ms, asked.notes = about["timings_ms"], about["notes"]
        asked.missing = about["shards"]["missing"]


async def run(plan: Plan) -> list[Asked]:
    """All clients to their end."""
    began = time.monotonic()
    done: list[Asked] = []

    async def client(number: int) -> None:
        chance = random.Random(f"{plan.seed} {number}")
        await asyncio.sleep(plan.ramp_s * number / plan.clients)
        while time.monotonic() - began < plan.seconds:
            asked = Asked(mark_of(chance), number, time.monotonic())
            leave_after = chance.randrange(3, 40) if chance.random() < plan.leave_share else None
            await ask(plan, chance.choice(plan.questions), asked, leave_after)
            done.append(asked)
            if asked.error:
                await asyncio.sleep(1.0)

    await asyncio.gather(*map(client, range(plan.clients)))
    return done


def main() -> None:
    """What the module does when it is run."""
    plan = Plan(**json.load(sys.stdin))
    for asked in asyncio.run(run(plan)):
        print(json.dumps(dataclasses.asdict(asked)))


if __name__ == "__main__":
    main()
