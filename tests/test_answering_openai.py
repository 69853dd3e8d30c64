"""The OpenAI-compatible generator against a scripted server on a real socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_helpers import MESSAGES, Handler, Server, refused, running, streamed

from hiperrag.answering.generators import GenerationCutError, load_generator
from hiperrag.errors import UserError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with running() as server:
        yield server


def text_of(spec: str) -> str:
    return "".join(load_generator(spec).stream(MESSAGES, 64))


def test_streams_pieces_as_they_come(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.script = [streamed("Rayleigh ", "scattering ", "[1].")]
    generator = load_generator(server.spec)
    pieces = generator.stream(MESSAGES, 64)
    assert "".join(pieces) == "Rayleigh scattering [1]."
    assert (pieces.finish, pieces.n_tokens) == ("stop", 3)  # type: ignore[attr-defined]
    assert generator.capable
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == "Bearer sk-secret"
    assert request["body"]["model"] == "tiny"
    assert request["body"]["messages"] == MESSAGES
    assert request["body"]["max_tokens"] == 64
    assert "sk-secret" not in generator.spec


def test_no_key_sends_no_authorization(server: Server) -> None:
    server.script = [streamed("x")]
    text_of(server.spec)
    assert "Authorization" not in server.requests[0]["headers"]


def test_says_that_the_answer_met_the_token_limit(server: Server) -> None:
    server.script = [streamed("one two", reason="length")]
    pieces = load_generator(server.spec).stream(MESSAGES, 2)
    assert list(pieces) == ["one two"]
    assert pieces.finish == "length"  # type: ignore[attr-defined]


def test_a_cut_stream_is_noticed(server: Server) -> None:
    server.script = [streamed("The sky is", reason=None, done=False)]
    pieces = load_generator(server.spec).stream(MESSAGES, 64)
    assert next(pieces) == "The sky is"
    with pytest.raises(GenerationCutError, match="in the middle"):
        next(pieces)


def test_an_error_event_in_the_stream_is_reported(server: Server) -> None:
    def run(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b'data: {"error": {"message": "out of memory"}}\n\n')
        handler.close_connection = True

    server.script = [run]
    with pytest.raises(GenerationCutError, match="out of memory"):
        text_of(server.spec)


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "does it serve model 'tiny'"), (500, "500")],
)
def test_refusals_are_one_line(server: Server, status: int, says: str) -> None:
    server.script = [refused(status, "nope\nreally")]
    with pytest.raises(UserError, match="nope really") as caught:
        text_of(server.spec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1


def test_the_key_is_never_repeated(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.script = [refused(401, "Incorrect API key provided: sk-secret")]
    with pytest.raises(UserError) as caught:
        text_of(server.spec)
    assert "sk-secret" not in str(caught.value)


def test_busy_is_asked_again_after_the_time_it_names(server: Server) -> None:
    server.script = [
        refused(429, headers={"Retry-After": "0.2"}),
        refused(503, headers={"Retry-After": "0"}),
        streamed("ok"),
    ]
    started = time.monotonic()
    assert text_of(server.spec) == "ok"
    assert time.monotonic() - started >= 0.2
    assert len(server.requests) == 3


def test_busy_for_long_gives_up_with_the_time(server: Server) -> None:
    server.script = [refused(429, "slow down", headers={"Retry-After": "3600"})]
    with pytest.raises(UserError, match="in 3600 seconds"):
        text_of(server.spec)
    assert len(server.requests) == 1


def test_busy_again_and_again_gives_up(server: Server) -> None:
    server.script = [refused(429, headers={"Retry-After": "0"})]
    with pytest.raises(UserError, match="busy"):
        text_of(server.spec)
    assert len(server.requests) == 4


def test_a_model_with_other_parameter_names_is_asked_its_way(server: Server) -> None:
    server.script = [
        refused(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        refused(400, "Unsupported value: 'temperature' does not support 0."),
        streamed("ok"),
    ]
    assert text_of(server.spec) == "ok"
    body = server.requests[-1]["body"]
    assert body["max_completion_tokens"] == 64
    assert "max_tokens" not in body
    assert "temperature" not in body


def test_nobody_listening() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot connect to 127.0.0.1:{port}"):
            text_of(f"openai:http://127.0.0.1:{port}/v1#tiny")


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "gpt",
        "hf:",
        "gguf:",
        "openai:",
        "default:x",
        "http://x#y",
        "openai:localhost#m",
        "openai:http://x/v1",
        "openai:http:///v1#m",
    ],
)
def test_bad_specs_name_the_forms(spec: str) -> None:
    with pytest.raises(UserError, match="openai:BASE_URL#MODEL"):
        load_generator(spec)


def test_a_credential_in_the_url_is_refused() -> None:
    with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
        load_generator("openai:http://me:secret@localhost/v1#m")
    assert "secret" not in str(caught.value)


def test_missing_local_models_are_one_line(tmp_path: Any) -> None:
    for spec in (f"hf:{tmp_path}", f"hf:{tmp_path / 'none'}", f"gguf:{tmp_path / 'none.gguf'}"):
        with pytest.raises(UserError) as caught:
            load_generator(spec)
        assert "\n" not in str(caught.value)
