"""A generator of known speed behind OpenAI's protocol: `python -m hiperrag.benchmarks.service.stub --speed 5`.

It answers with sentences of the passages in the prompt, each with its citation and the mark of the question, so that
what checks answers has its real work, and a stream that reaches the wrong client shows. GET /arrivals tells when each
prompt arrived (CLOCK_MONOTONIC, which the machine's processes share); GET /state how many streams are open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import Any

MARK = re.compile(r"\bzq[a-z]{8}\b")
"""What every question of these benchmarks carries, and every sentence of its answer: no other word is like it."""
_PASSAGE = re.compile(r'<passage number="(\d+)">\n(.*?)\n(.*?)\n</passage>', re.DOTALL)
_SENTENCE = re.compile(r"[A-Z][^.?!\[\]]{30,300}(?=\.\s|\.$)")
_HEAD = "HTTP/1.1 {}\r\nContent-Type: {}\r\nConnection: close\r\n"


class Stub:
    """The server: `speed` tokens a second and `tokens` an answer, unless the request wants fewer."""

    def __init__(self, speed: float, tokens: int) -> None:
        self._speed, self._tokens = speed, tokens
        self.arrivals: dict[str, float] = {}
        self.state = {"open": 0, "finished": 0, "cut": 0}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"(?i)content-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            arrived = time.monotonic()
            path = head.split(" ", 2)[1]
            if path.endswith("/chat/completions"):
                await self._stream(json.loads(body), arrived, reader, writer)
            else:
                found: dict[str, Any] = {
                    "/arrivals": self.arrivals,
                    "/state": self.state,
                    "/v1/models": {"object": "list", "data": [{"id": "stub", "object": "model"}]},
                }
                content = json.dumps(found.get(path, {})).encode()
                writer.write(_HEAD.format("200 OK", "application/json").encode() + b"\r\n" + content)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _stream(
        self, body: dict[str, Any], arrived: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        prompt = body["messages"][-1]["content"]
        mark = MARK.findall(prompt)
        if mark:
            self.arrivals[mark[-1]] = arrived
        leaving = asyncio.create_task(reader.read(1))
        self.state["open"] += 1
        how = "cut"
        try:
            writer.write((_HEAD.format("200 OK", "text/event-stream") + "Transfer-Encoding: chunked\r\n\r\n").encode())
            due = time.monotonic()
            for piece in pieces(prompt, mark[-1] if mark else "", min(self._tokens, body.get("max_tokens", 1 << 30))):
                due += 1 / self._speed
                await asyncio.sleep(due - time.monotonic())
                if leaving.done():
                    return
                writer.write(_chunk(_event({"content": piece}, None)))
            writer.write(_chunk(_event({}, "stop") + b"data: [DONE]\n\n") + b"0\r\n\r\n")
            await writer.drain()
            how = "finished"
        finally:
            leaving.cancel()
            self.state["open"] -= 1
            self.state[how] += 1


def pieces(prompt: str, mark: str, tokens: int) -> Iterator[str]:
    """Whole sentences of the passages, word by word, of at most `tokens` words and at least one sentence."""
    n_words, first = 0, True
    for sentence in sentences(prompt, mark):
        words = sentence.split()
        if not first and n_words + len(words) > tokens:
            return
        for word in words:
            yield word if first else f" {word}"
            first = False
        n_words += len(words)


def sentences(prompt: str, mark: str) -> Iterator[str]:
    """The passages' sentences with the mark and the citation, over and over."""
    found = [
        f"{text}, as {mark} asked [{number}]."
        for number, _, passage in _PASSAGE.findall(prompt)
        for text in _SENTENCE.findall(passage)
    ]
    while found:
        yield from found
    yield f"The collection does not say, as {mark} asked."


def _event(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "stub", "object": "chat.completion.chunk", "model": "stub", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def serve(port: int, speed: float, tokens: int) -> None:
    """Until the process is ended; prints the port."""
    server = await asyncio.start_server(Stub(speed, tokens).answer, "127.0.0.1", port, backlog=1024, limit=1 << 22)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """What the module does when it is run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--speed", type=float, default=5.0, help="tokens a second of each stream")
    parser.add_argument("--tokens", type=int, default=150, help="of an answer")
    given = parser.parse_args()
    asyncio.run(serve(given.port, given.speed, given.tokens))


if __name__ == "__main__":
    main()
