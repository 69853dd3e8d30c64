"""A scripted OpenAI-compatible server on a real socket, with the faults that gateways have."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
Script = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers each POST with the next step of the server's script (the last one again and again)."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        plain = "json" in self.headers.get("Content-Type", "")
        request = {
            "path": self.path,
            "headers": dict(self.headers),
            "body": json.loads(raw) if plain else raw,
            "from": self.client_address,
        }
        with self.server.lock:
            self.server.requests.append(request)
            step = min(len(self.server.requests), len(self.server.script)) - 1
        self.request_body = request["body"]
        self.server.script[step](self)

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.gets.append(self.path)
        self.server.on_get(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def send_event(self, text: str, reason: str | None = None, **more: Any) -> None:
        event = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **more}
        self.wfile.write(f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()

    def begin(self, **headers: str) -> None:
        """The headers of a stream."""
        self.send_response(200)
        for name, value in {"Content-Type": "text/event-stream", "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True

    def client_left(self) -> bool:
        """Whether the client closes the connection within some seconds."""
        self.connection.settimeout(10)
        try:
            return self.connection.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Script] = []
        self.requests: list[dict[str, Any]] = []
        self.gets: list[str] = []
        self.on_get: Script = refused(404)
        self.lock = threading.Lock()

    def stop(self) -> None:
        """No connection is accepted any more."""
        self.shutdown()
        self.server_close()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def spec(self) -> str:
        return f"openai:{self.base}#tiny"


@contextlib.contextmanager
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


def streamed(
    *pieces: str, reason: str | None = "stop", done: bool = True, headers: dict[str, str] | None = None, **last: Any
) -> Script:
    def run(handler: Handler) -> None:
        handler.begin(**(headers or {}))
        handler.wfile.write(b": keep-alive\n\n")
        for piece in pieces:
            handler.send_event(piece)
        if reason:
            handler.send_event("", reason, **last)
        if done:
            handler.wfile.write(b"data: [DONE]\n\n")

    return run


def replied(payload: Any, headers: dict[str, str] | None = None) -> Script:
    """One JSON document, on a connection that stays open."""

    def run(handler: Handler) -> None:
        data = json.dumps(payload).encode()
        handler.send_response(200)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return run


def whole(text: str, reason: str = "stop") -> dict[str, Any]:
    """A chat completion that is not streamed."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}]}


def refused(status: int, message: str = "", headers: dict[str, str] | None = None) -> Script:
    def run(handler: Handler) -> None:
        payload = json.dumps({"error": {"message": message}} if message else {}).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(payload)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(payload)

    return run


def served_models(*names: str) -> Script:
    return replied({"object": "list", "data": [{"id": name} for name in names]})


def in_threads(work: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each gives, or the exception that it raises, all at the same time."""
    results: list[Any] = [None] * len(work)

    def run(number: int) -> None:
        try:
            results[number] = work[number]()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def reading(stream: Iterator[str]) -> tuple[threading.Thread, list[object]]:
    """Read in a thread; the list gets the pieces and what ended it."""
    got: list[object] = []

    def read() -> None:
        try:
            for piece in stream:
                got.append(piece)
        except BaseException as error:
            got.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, got


def wait_until(happened: Callable[[], object]) -> None:
    """Return once it has; fail where it does not."""
    ends = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.005)
