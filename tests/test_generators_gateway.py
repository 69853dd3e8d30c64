"""Gateways: tokens, limits, warm-up, truncated streams and cancellation, against a scripted server."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from gateway_helpers import (
    MESSAGES,
    Handler,
    Server,
    in_threads,
    reading,
    refused,
    replied,
    running,
    served_models,
    streamed,
    wait_until,
    whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hiperrag.answering.generators import (
    BusyError,
    GenerationCancelledError,
    GenerationCutError,
    UnavailableError,
    for_request,
    load_generator,
    reachable,
)
from hiperrag.answering.generators.base import WarmingUpError
from hiperrag.answering.generators.events import Events
from hiperrag.answering.generators.options import EndpointOptions
from hiperrag.answering.generators.rate import MINUTE, Pace, seconds
from hiperrag.answering.generators.tokens import Tokens, expiry
from hiperrag.errors import UserError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("HIPERRAG_TOKEN_COMMAND", raising=False)
    with running() as server:
        yield server


def text_of(spec: str) -> str:
    return "".join(load_generator(spec).stream(MESSAGES, 64))


def authorization(server: Server) -> list[str | None]:
    return [request["headers"].get("Authorization") for request in server.requests]


# Tokens


@pytest.fixture
def command(tmp_path: Path) -> str:
    """A command that prints token-1, token-2, ... behind a line of talk, and talks on standard error."""
    script = tmp_path / "token.sh"
    script.write_text(
        f"cd {tmp_path}\necho run >> runs\necho chatter\necho top-secret-chatter >&2\necho token-$(wc -l < runs)\n"
    )
    return f"sh {script}"


def n_runs(tmp_path: Path) -> int:
    return len((tmp_path / "runs").read_text().splitlines())


def test_a_refused_token_is_fetched_anew_once(server, command, monkeypatch):
    monkeypatch.setenv("HIPERRAG_TOKEN_COMMAND", command)
    server.script = [streamed("a"), refused(401), streamed("b"), refused(401), refused(401, "bad token-3")]
    generator = load_generator(server.spec)
    assert "".join(generator.stream(MESSAGES, 64)) == "a"
    assert "".join(generator.stream(MESSAGES, 64)) == "b"
    assert authorization(server) == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
    with pytest.raises(UnavailableError, match="token command") as caught:
        list(generator.stream(MESSAGES, 64))
    assert "token-3" not in str(caught.value)
    assert len(server.requests) == 5


def test_requests_at_the_same_time_run_the_command_once(server, command, tmp_path, monkeypatch):
    monkeypatch.setenv("HIPERRAG_TOKEN_COMMAND", command)
    server.script = [streamed("x")]
    generator = load_generator(server.spec)
    assert in_threads([lambda: "".join(generator.stream(MESSAGES, 64))] * 12) == ["x"] * 12
    assert n_runs(tmp_path) == 1
    assert set(authorization(server)) == {"Bearer token-1"}


def jwt(expires: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires}).encode()).decode().rstrip("=")
    return f"header.{claims}.signature"


def test_a_token_near_its_end_is_replaced_before_it_is_used(tmp_path):
    now = [1000.0]
    file = tmp_path / "token"
    tokens = Tokens(EndpointOptions(token_command=f"cat {file}"), clock=lambda: now[0])
    file.write_text(jwt(2000.0))
    first = asyncio.run(tokens.current())
    file.write_text(jwt(3000.0))
    now[0] = 1930.0
    assert asyncio.run(tokens.current()) == first
    now[0] = 1950.0
    assert expiry(asyncio.run(tokens.current()) or "") == 3000.0
    file.unlink()  # the command fails: what is left of the old token's life is used
    now[0] = 2990.0
    assert expiry(asyncio.run(tokens.current()) or "") == 3000.0
    now[0] = 3001.0
    with pytest.raises(UnavailableError, match="exit status 1"):
        asyncio.run(tokens.current())


@pytest.mark.parametrize(
    "token", ["a.b", "a.b.c", "x.e30.y", "..", "sk-plain", f"a.{base64.b64encode(b'[]').decode()}.c"]
)
def test_other_tokens_have_no_known_end(token):
    assert expiry(token) is None


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("no-such-command-anywhere", "cannot be run"),
        ("'unbalanced", "cannot be run"),
        ("false", "exit status 1"),
        ("true", "is no token"),
        ("echo secret words", "is no token"),
    ],
)
def test_a_token_command_that_fails_is_one_line_without_its_output(server, command, says, monkeypatch):
    monkeypatch.setenv("HIPERRAG_TOKEN_COMMAND", command)
    with pytest.raises(UnavailableError, match=says) as caught:
        text_of(server.spec)
    assert "secret" not in str(caught.value)
    assert not server.requests


def test_each_endpoint_has_its_own_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    server.script = [streamed("x")]
    for options in ("", "?key_env=OTHER_KEY", "?key_env="):
        text_of(server.spec + options)
    assert authorization(server) == ["Bearer sk-mine", "Bearer sk-other", None]


def test_options_are_checked_and_are_no_part_of_the_spec(server):
    generator = load_generator(f"{server.spec}?token_command=cat+%2Fsecret&wait_s=5")
    assert generator.spec == server.spec
    for options in ("wait=5", "wait_s=0", "wait_s", "tokens_per_minute=many"):
        with pytest.raises(UserError, match="options"):
            load_generator(f"{server.spec}?{options}")


# Limits


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=40)
@given(
    limit=st.integers(1, 20),
    token_limit=st.integers(50, 500),
    requests=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 200)), min_size=1, max_size=60),
)
def test_no_minute_has_more_than_the_limits(limit, token_limit, requests):
    clock = Clock()
    pace = Pace(limit, token_limit, clock)
    sent = []
    for later, tokens in requests:
        clock.now += later
        reservation = pace.reserve(tokens)
        sent.append((clock.now + pace.wait_s(reservation), min(tokens, token_limit)))
    assert [at for at, _ in sent] == sorted(at for at, _ in sent)
    for end, _ in sent:
        minute = [tokens for at, tokens in sent if end - MINUTE + 1e-6 < at <= end]
        assert len(minute) <= limit
        assert sum(minute) <= token_limit


def test_what_is_not_used_of_an_estimate_is_given_back():
    clock = Clock()
    pace = Pace(tokens_per_minute=100, clock=clock)
    first = pace.reserve(90)
    assert pace.wait_s(pace.reserve(50)) == MINUTE
    clock.now += 2 * MINUTE
    first = pace.reserve(90)
    first.settle(20)
    assert pace.wait_s(pace.reserve(50)) == 0
    pace.reserve(30).withdraw()
    assert pace.wait_s(pace.reserve(30)) == 0


def test_the_servers_own_count_is_heeded():
    clock = Clock()
    pace = Pace(clock=clock)
    pace.learn({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "6s"})
    pace.learn(
        {"x-ratelimit-limit-tokens": "100", "x-ratelimit-remaining-tokens": "100", "x-ratelimit-reset-tokens": "0s"}
    )
    assert pace.wait_s(pace.reserve(10)) == 0
    assert pace.wait_s(pace.reserve(10)) == 6
    assert pace.counts_tokens
    assert pace.wait_s(pace.reserve(90)) == MINUTE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("2000000007", 7.0),
        (formatdate(2_000_000_030, usegmt=True), 30.0),
        (formatdate(1_000_000_000, usegmt=True), 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("1e400", None),
    ],
)
def test_waits_are_read_in_every_form(text, expected):
    assert seconds(text, now=lambda: 2_000_000_000.0) == expected


def test_retry_after_may_be_a_date(server):
    server.script = [refused(429, headers={"Retry-After": formatdate(time.time() - 5, usegmt=True)}), streamed("ok")]
    assert text_of(server.spec) == "ok"
    server.requests.clear()
    server.script = [refused(429, headers={"Retry-After": formatdate(time.time() + 900, usegmt=True)})]
    with pytest.raises(BusyError) as caught:
        text_of(server.spec)
    assert 800 < caught.value.retry_after_s <= 900


def test_others_wait_too_while_the_server_asks_for_a_pause(server):
    server.script = [refused(429, headers={"Retry-After": "0.6"}), streamed("ok")]
    generator = load_generator(server.spec)
    began = time.monotonic()
    first = threading.Thread(target=lambda: list(generator.stream(MESSAGES, 64)))
    first.start()
    while not server.requests or generator.gateway._pace._paused_until < began:  # until the refusal has arrived
        time.sleep(0.005)
    assert list(generator.stream(MESSAGES, 64)) == ["ok"]
    assert time.monotonic() - began >= 0.6
    first.join()


def test_headers_that_leave_nothing_hold_the_next_request_back(server):
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"}
    server.script = [streamed("a", headers=spent), streamed("b")]
    generator = load_generator(server.spec)
    assert list(generator.stream(MESSAGES, 64)) == ["a"]
    began = time.monotonic()
    assert list(generator.stream(MESSAGES, 64)) == ["b"]
    assert time.monotonic() - began >= 0.25


def test_tokens_per_minute_are_counted_as_the_server_counts_them(server):
    server.script = [streamed("a", usage={"total_tokens": 30})]
    generator = load_generator(f"{server.spec}?tokens_per_minute=120&wait_s=1")
    assert list(generator.stream(MESSAGES, 64)) == ["a"]  # estimated at about 80
    assert list(generator.stream(MESSAGES, 64)) == ["a"]
    with pytest.raises(BusyError, match=r"in (59|60) seconds") as caught:
        list(generator.stream(MESSAGES, 64))
    assert 55 < caught.value.retry_after_s <= 60
    assert len(server.requests) == 2
    assert server.requests[0]["body"]["stream_options"] == {"include_usage": True}


# Warming up


def test_a_model_being_loaded_is_waited_for_with_a_message(server, capsys):
    loading = refused(503, "Model tiny is currently loading", {"Retry-After": "0.51"})
    server.script = [loading, loading, streamed("ok")]
    assert text_of(server.spec) == "ok"
    said = capsys.readouterr().err
    assert said.count("is being loaded") == 1
    assert "waiting up to 600 seconds" in said


def test_the_wait_for_a_model_is_bounded(server):
    server.script = [refused(503, "model is warming up", {"Retry-After": "30"})]
    with pytest.raises(WarmingUpError, match="loaded") as caught:
        text_of(f"{server.spec}?warm_up_s=1&wait_s=1")
    assert caught.value.retry_after_s == 30


# Streams that break off


def test_the_end_without_a_reason_is_a_cut_even_if_it_says_done(server):
    server.script = [streamed("The sky is", reason=None, done=True)]
    with pytest.raises(GenerationCutError, match="in the middle"):
        text_of(server.spec)


def test_a_reason_that_is_no_proper_end_is_a_cut(server):
    server.script = [streamed("The sky is", reason="abort")]
    with pytest.raises(GenerationCutError, match="abort"):
        text_of(server.spec)


def test_a_finished_answer_needs_no_done(server):
    server.script = [streamed("ok", done=False)]
    assert text_of(server.spec) == "ok"


def test_fewer_bytes_than_announced_are_a_cut(server):
    def run(handler: Handler) -> None:
        handler.begin(**{"Content-Length": "5000"})
        handler.send_event("The sky is", "stop")

    server.script = [run]
    with pytest.raises(GenerationCutError, match="broke the connection"):
        text_of(server.spec)


@pytest.mark.parametrize("keep_alives", [True, False])
def test_silence_is_a_cut(server, keep_alives):
    ended = threading.Event()

    def run(handler: Handler) -> None:
        handler.begin()
        handler.send_event("The sky is")
        while not ended.wait(0.05):
            if keep_alives:
                handler.wfile.write(b": keep-alive\n\n")

    server.script = [run]
    pieces = load_generator(f"{server.spec}?idle_s=0.4").stream(MESSAGES, 64)
    assert next(pieces) == "The sky is"
    with pytest.raises(GenerationCutError, match=r"0\.4 seconds"):
        next(pieces)
    ended.set()


@pytest.mark.parametrize("data", [b"data: {broken\n\n", b"data: [1]\n\n", b"data: " + b"x" * (1 << 21)])
def test_garbage_is_a_cut(server, data):
    def run(handler: Handler) -> None:
        handler.begin()
        handler.wfile.write(data)

    server.script = [run]
    with pytest.raises(GenerationCutError):
        text_of(server.spec)


def test_line_separators_within_the_text_are_text(server):
    text = "one\u2028two\x85three\x0cfour"
    server.script = [streamed(text)]
    assert text_of(server.spec) == text


def test_a_server_that_does_not_stream_is_understood(server):
    server.script = [replied(whole("Rayleigh [1].", "length"))]
    pieces = load_generator(server.spec).stream(MESSAGES, 64)
    assert list(pieces) == ["Rayleigh [1]."]
    assert pieces.finish == "length"


def test_a_web_page_is_no_answer(server):
    server.script = [replied("<html>log in</html>", {"Content-Type": "text/html"})]
    with pytest.raises(UnavailableError, match="web page"):
        text_of(server.spec)


# Connections


def test_connections_are_used_again_and_one_that_died_is_replaced(server):
    def dying(handler: Handler) -> None:
        replied(whole("ok"))(handler)
        handler.close_connection = True

    server.script = [replied(whole("ok")), replied(whole("ok")), dying, replied(whole("ok"))]
    generator = load_generator(server.spec)
    for _ in range(5):
        assert "".join(generator.stream(MESSAGES, 64)) == "ok"
    ports = [request["from"][1] for request in server.requests]
    assert ports[0] == ports[1] == ports[2]
    assert ports[3] == ports[4] != ports[2]


def test_a_connection_dropped_before_the_answer_is_tried_once_more(server):
    def drop(handler: Handler) -> None:
        handler.connection.close()
        handler.close_connection = True

    server.script = [drop, replied(whole("ok"))]
    assert text_of(server.spec) == "ok"
    server.requests.clear()
    server.script = [drop]
    with pytest.raises(GenerationCutError, match="broke the connection"):
        text_of(server.spec)
    assert len(server.requests) == 2


def test_many_streams_at_once_are_not_mixed(server):
    def run(handler: Handler) -> None:
        word = handler.request_body["messages"][0]["content"]
        streamed(*[f"{word} "] * 20)(handler)

    server.script = [run]
    generator = load_generator(server.spec)

    def ask(number: int) -> str:
        return "".join(generator.stream([{"role": "user", "content": f"w{number}"}], 64))

    answers = in_threads([lambda number=number: ask(number) for number in range(60)])
    assert answers == [f"w{number} " * 20 for number in range(60)]


@pytest.mark.parametrize(
    ("get", "says"),
    [
        (served_models("tiny", "large"), None),
        (served_models(), None),
        (refused(404), None),
        (served_models("large"), "does not serve model 'tiny'"),
        (refused(401), "OPENAI_API_KEY"),
        (refused(503, "loading"), "loaded"),
        (refused(500), "500"),
    ],
)
def test_whether_it_is_reachable(server, get, says):
    server.on_get = get
    generator = load_generator(server.spec)
    reason = reachable(generator)
    assert reason is None if says is None else says in (reason or "")
    assert reachable(generator) == reason
    assert server.gets == ["/v1/models"]  # asked once for both


def test_a_dead_server_is_not_reachable(server):
    spec = server.spec
    server.stop()
    assert "cannot connect" in (reachable(load_generator(spec)) or "")


# Cancellation


class Watched:
    """A script that streams a piece (or nothing at all) and then notices whether the client leaves."""

    def __init__(self, headers: bool = True, pieces: int = 1) -> None:
        self.headers, self.pieces = headers, pieces
        self.left = threading.Event()

    def __call__(self, handler: Handler) -> None:
        if self.headers:
            handler.begin()
            for _ in range(self.pieces):
                handler.send_event("piece")
        handler.close_connection = True
        if handler.client_left():
            self.left.set()


@pytest.mark.parametrize(("headers", "pieces"), [(True, 1), (True, 0), (False, 0)])
def test_close_ends_a_blocked_read_and_the_request_upstream(server, headers, pieces):
    watched = Watched(headers, pieces)
    server.script = [watched]
    request = for_request(load_generator(server.spec))
    thread, got = reading(request.stream(MESSAGES, 64))
    wait_until(lambda: server.requests and len(got) == pieces)
    request.close()
    request.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(got[-1], GenerationCancelledError)
    assert watched.left.wait(10)
    with pytest.raises(GenerationCancelledError):
        request.stream(MESSAGES, 64)


def test_close_ends_the_wait_for_a_busy_server(server):
    server.script = [refused(429, headers={"Retry-After": "30"})]
    stream = load_generator(server.spec).stream(MESSAGES, 64)
    thread, got = reading(stream)
    wait_until(lambda: server.requests)
    stream.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(got[-1], GenerationCancelledError)
    assert len(server.requests) == 1


def test_a_stream_closed_before_it_is_read_sends_nothing(server):
    stream = load_generator(server.spec).stream(MESSAGES, 64)
    stream.close()
    with pytest.raises(GenerationCancelledError):
        next(stream)
    assert not server.requests


def test_a_forgotten_stream_ends_its_request(server):
    watched = Watched()
    server.script = [watched]
    stream = load_generator(server.spec).stream(MESSAGES, 64)
    assert next(stream) == "piece"
    del stream
    gc.collect()
    assert watched.left.wait(10)


def test_closing_one_stream_leaves_the_others(server):
    watched = Watched()
    server.script = [watched, streamed("ok")]
    generator = load_generator(server.spec)
    first = generator.stream(MESSAGES, 64)
    assert next(first) == "piece"
    second = generator.stream(MESSAGES, 64)
    first.close()
    assert list(second) == ["ok"]


def test_many_open_streams_are_read_in_larger_pieces(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Events, "_open", 1_000)
    words = [f"word{number} " for number in range(60)]

    def slowly(handler: Handler) -> None:
        handler.begin()
        for word in words:
            handler.send_event(word)
            time.sleep(0.005)
        handler.send_event("", "stop")

    server.script = [slowly]
    stream = load_generator(server.spec).stream(MESSAGES, 64)
    pieces = list(stream)
    assert "".join(pieces) == "".join(words)
    assert len(pieces) < len(words) / 4
    assert stream.n_tokens == len(words)  # type: ignore[attr-defined]
    assert Events._open == 1_000
