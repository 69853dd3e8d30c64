"""Generators that many share: the queue before a local one, and fail-over between several."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from answering_helpers import WordEncoder, make_hits
from gateway_helpers import MESSAGES, Handler, Server, in_threads, reading, refused, running, streamed, wait_until

from hiperrag.answering.answer import Answer, Draft, answer
from hiperrag.answering.generators import (
    BusyError,
    GenerationCancelledError,
    GenerationCutError,
    LikelihoodGenerator,
    UnavailableError,
    for_request,
    load_generators,
    reachable,
)
from hiperrag.answering.generators.base import Message, Piece, TokenStream
from hiperrag.answering.generators.failover import LONGEST_REST_S, FailoverGenerator
from hiperrag.answering.generators.openai import OpenAIGenerator
from hiperrag.answering.generators.queued import Line, QueuedGenerator
from hiperrag.answering.generators.scoring import CannotScoreError, TokenScore, scorer
from hiperrag.errors import UserError

PASSAGES = [
    "The sky is blue because of Rayleigh scattering.",
    "Rayleigh scattering makes the sky look blue at noon.",
]


class Local:
    """A stand-in for a local model: notes what is asked, one at a time, and goes on when it is let go."""

    spec = "hf:stand-in"

    def __init__(self, capable: bool = False) -> None:
        self.capable = capable
        self.asked: list[str] = []
        self.at_work = 0
        self.go = threading.Event()
        self.go.set()

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        self.at_work += 1
        assert self.at_work == 1
        self.asked.append(what)
        self.go.wait(20)
        yield
        self.at_work -= 1

    def stream(self, messages: list[Message], max_tokens: int) -> TokenStream:
        return TokenStream(self._pieces(messages), self.spec)

    def _pieces(self, messages: list[Message]) -> Iterator[Piece]:
        with self._alone(messages[0]["content"]):
            yield Piece("a ")
            yield Piece("b", "length")

    def prompt(self, messages: list[Message]) -> str:
        return messages[0]["content"]

    def log_likelihood(self, prompt: str, continuations: Sequence[str]) -> list[float]:
        return self.log_likelihoods([(prompt, continuation) for continuation in continuations])

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        with self._alone(f"likelihood {pairs[0][0]}"):
            return [-1.0] * len(pairs)


def says(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


# The queue


def test_one_at_a_time_in_the_order_of_arrival():
    local = Local()
    queued = QueuedGenerator(local)
    local.go.clear()
    order: list[str] = []
    threads = []
    for name in ("first", "second", "third"):
        threads.append(threading.Thread(target=lambda name=name: order.append("".join(queued.stream(says(name), 9)))))
        threads[-1].start()
        wait_until(lambda: queued.line.n_admitted == len(threads) and queued.line.n_waiting == len(threads) - 1)
    local.go.set()
    for thread in threads:
        thread.join(20)
    assert local.asked == ["first", "second", "third"]
    assert order == ["a b"] * 3
    assert queued.line.n_admitted == 0


def test_the_end_of_a_stream_is_passed_on():
    stream = QueuedGenerator(Local()).stream(says("x"), 9)
    assert list(stream) == ["a ", "b"]
    assert (stream.finish, stream.n_tokens, stream.spec) == ("length", 2, "hf:stand-in")


def test_all_that_a_request_asks_goes_before_later_requests():
    local = Local()
    queued = QueuedGenerator(local)
    early, late = queued.for_request(), queued.for_request()
    local.go.clear()
    blocker = threading.Thread(target=lambda: queued.log_likelihoods([("blocker", "x")]))
    blocker.start()
    wait_until(lambda: local.at_work)
    threads = [
        threading.Thread(target=lambda: late.log_likelihoods([("late", "x")])),
        threading.Thread(target=lambda: early.log_likelihoods([("early", "x")])),
    ]
    for number, thread in enumerate(threads, start=1):
        thread.start()
        wait_until(lambda number=number: queued.line.n_waiting == number)
    local.go.set()
    for thread in (blocker, *threads):
        thread.join(20)
    assert local.asked == ["likelihood blocker", "likelihood early", "likelihood late"]


def test_a_full_queue_refuses_with_the_time_until_a_place_is_free():
    clock = [0.0]
    line = Line(places=2, clock=lambda: clock[0])
    queued = QueuedGenerator(Local(), line)
    for _ in range(4):  # each request has the model for 3 seconds
        with queued.for_request() as request, request.turn():
            clock[0] += 3.0
    held = [queued.for_request(), queued.for_request()]
    waits = []
    for _ in range(3):
        with pytest.raises(BusyError, match="2 requests") as caught:
            for_request(queued)
        waits.append(caught.value.retry_after_s)
    assert waits == [3.0, 6.0, 9.0]
    held[0].close()
    held[0].close()
    with queued.for_request():
        assert line.n_admitted == 2


def test_a_request_that_is_forgotten_gives_its_place_back():
    queued = QueuedGenerator(Local(), Line(places=1))
    request = queued.for_request()
    del request
    gc.collect()
    queued.for_request().close()


def test_one_who_leaves_while_waiting_is_gone_from_the_queue():
    local = Local()
    queued = QueuedGenerator(local)
    local.go.clear()
    working = threading.Thread(target=lambda: queued.log_likelihoods([("first", "x")]))
    working.start()
    wait_until(lambda: local.at_work)
    leaver = queued.for_request()
    waiting, got = reading(leaver.stream(says("gone"), 9))
    wait_until(lambda: queued.line.n_waiting == 1)
    leaver.close()
    waiting.join(10)
    assert isinstance(got[0], GenerationCancelledError)
    assert (queued.line.n_waiting, queued.line.n_admitted) == (0, 1)
    local.go.set()
    working.join(10)
    assert local.asked == ["likelihood first"]
    assert queued.log_likelihoods([("next", "x")]) == [-1.0]


def test_an_error_of_the_model_frees_it_for_the_next():
    class Failing(Local):
        def log_likelihoods(self, pairs):
            raise UserError("too long")

    queued = QueuedGenerator(Failing())
    with pytest.raises(UserError, match="too long"):
        queued.log_likelihoods([("x", "y")])
    assert list(queued.stream(says("x"), 9)) == ["a ", "b"]


def test_many_quoted_answers_share_the_model():
    local = Local()
    queued = QueuedGenerator(local, Line(places=100))

    def ask() -> str:
        with for_request(queued) as bound:
            *_, last = answer("Why is the sky blue?", make_hits(PASSAGES), bound, WordEncoder())
            assert isinstance(last, Answer)
            return last.text

    answers = in_threads([ask] * 24)
    assert len(set(answers)) == 1
    assert "Rayleigh" in answers[0]
    assert queued.line.n_admitted == 0


# Fail-over


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with running() as first, running() as second:
        second.script = [streamed("from the second")]
        yield first, second


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def failing_over(servers: Sequence[Server], clock: Clock | None = None, **more) -> FailoverGenerator:
    members = [OpenAIGenerator(server.spec, patient=False) for server in servers]
    return FailoverGenerator(members, clock=clock or Clock(), **more)


def text_of(generator) -> str:
    return "".join(generator.stream(MESSAGES, 64))


@pytest.mark.parametrize("status", [401, 404, 429, 500, 502, 503])
def test_another_endpoint_answers_where_the_first_cannot(servers, status):
    servers[0].script = [refused(status)]
    stream = failing_over(servers).stream(MESSAGES, 64)
    assert list(stream) == ["from the second"]
    assert stream.spec == servers[1].spec


def test_a_failed_endpoint_is_left_alone_and_used_again_once_it_works(servers):
    first, _ = servers
    clock = Clock()
    generator = failing_over(servers, clock)
    first.script = [refused(500), refused(500), streamed("from the first")]
    assert [text_of(generator) for _ in range(3)] == ["from the second"] * 3
    assert len(first.requests) == 1
    clock.ahead = 1.5
    assert text_of(generator) == "from the second"
    clock.ahead = 2.5  # twice as long after the second failure
    assert text_of(generator) == "from the second"
    assert len(first.requests) == 2
    clock.ahead = 4.5
    assert [text_of(generator) for _ in range(2)] == ["from the first"] * 2


def test_the_rest_of_a_dead_endpoint_is_bounded(servers):
    clock = Clock()
    generator = failing_over(servers, clock)
    servers[0].script = [refused(500)]
    for _ in range(12):
        clock.ahead += LONGEST_REST_S + 0.1
        assert text_of(generator) == "from the second"
    assert len(servers[0].requests) == 12


def test_one_request_tries_an_endpoint_that_failed_while_the_others_go_elsewhere(servers):
    first, _ = servers
    clock = Clock()
    generator = failing_over(servers, clock)
    first.script = [refused(500)]
    text_of(generator)
    clock.ahead = 2
    came, go = threading.Event(), threading.Event()

    def slow(handler: Handler) -> None:
        came.set()
        go.wait(20)
        streamed("from the first")(handler)

    first.script = [slow]
    trial: list[str] = []
    thread = threading.Thread(target=lambda: trial.append(text_of(generator)))
    thread.start()
    assert came.wait(10)
    assert text_of(generator) == "from the second"
    go.set()
    thread.join(10)
    assert trial == ["from the first"]


def test_a_trial_that_is_cancelled_does_not_bar_the_next(servers):
    first, _ = servers
    clock = Clock()
    generator = failing_over(servers, clock)
    first.script = [refused(500), streamed("from the first")]
    text_of(generator)
    clock.ahead = 2
    stream = generator.stream(MESSAGES, 64)
    stream.close()
    with pytest.raises(GenerationCancelledError):
        next(stream)
    assert text_of(generator) == "from the first"


def test_no_switch_once_text_has_come(servers):
    servers[0].script = [streamed("The sky is", reason=None, done=False)]
    pieces = failing_over(servers).stream(MESSAGES, 64)
    assert next(pieces) == "The sky is"
    with pytest.raises(GenerationCutError, match="in the middle"):
        next(pieces)
    assert not servers[1].requests


def test_a_stream_cut_before_its_first_text_is_asked_of_another(servers):
    servers[0].script = [streamed(reason=None, done=False)]
    assert text_of(failing_over(servers)) == "from the second"


def test_what_is_wrong_with_the_request_is_asked_of_nobody_else(servers):
    servers[0].script = [refused(400, "the prompt has too many tokens")]
    with pytest.raises(UserError, match="too many tokens") as caught:
        text_of(failing_over(servers))
    assert not isinstance(caught.value, UnavailableError)
    assert not servers[1].requests


def test_where_all_are_busy_the_first_to_be_free_is_waited_for(servers):
    servers[0].script = [refused(429, headers={"Retry-After": "20"})]
    servers[1].script = [refused(429, headers={"Retry-After": "0.3"}), streamed("at last")]
    began = time.monotonic()
    assert text_of(failing_over(servers)) == "at last"
    assert 0.3 <= time.monotonic() - began < 10
    servers[1].script = [refused(429, headers={"Retry-After": "300"})]
    with pytest.raises(BusyError) as caught:
        text_of(failing_over(servers[1:]))
    assert 290 < caught.value.retry_after_s <= 300


def test_where_none_works_the_reasons_are_told(servers):
    for server in servers:
        server.script = [refused(500, f"trouble {server.server_port}")]
    generator = failing_over(servers)
    for _ in range(2):
        with pytest.raises(BusyError) as caught:
            text_of(generator)
        assert all(f"trouble {server.server_port}" in str(caught.value) for server in servers)
        assert caught.value.retry_after_s >= 0.5
    assert [len(server.requests) for server in servers] == [1, 1]


def test_close_reaches_the_endpoint_that_answers(servers):
    left = threading.Event()

    def run(handler: Handler) -> None:
        handler.begin()
        handler.send_event("piece")
        if handler.client_left():
            left.set()

    servers[0].script = [refused(500)]
    servers[1].script = [run]
    request = for_request(failing_over(servers))
    stream = request.stream(MESSAGES, 64)
    assert next(stream) == "piece"
    request.close()
    assert left.wait(10)
    with pytest.raises(GenerationCancelledError):
        next(stream)


def test_one_that_answers_makes_all_reachable(servers):
    servers[0].stop()
    assert reachable(failing_over(servers)) is None
    servers[1].stop()
    with running() as third:
        third.stop()
        assert "cannot connect" in (reachable(failing_over([third])) or "")


def answered(generator) -> Answer:
    with for_request(generator) as bound:
        *_, last = answer("Why is the sky blue?", make_hits(PASSAGES), bound, WordEncoder())
    assert isinstance(last, Answer)
    return last


def test_passages_are_quoted_where_nobody_can_write(servers):
    local = Local()
    generator = failing_over(servers, stand_in=QueuedGenerator(local))
    servers[0].script = [streamed("The sky is blue because of Rayleigh scattering [1].")]
    written = answered(generator)
    assert (written.mode, written.generator) == ("written", servers[0].spec)
    for server in servers:
        server.script = [refused(500)]
    quoted = answered(generator)
    assert (quoted.mode, quoted.generator) == ("quoted", local.spec)
    assert quoted.supported
    assert "not available" in quoted.notes[0]
    assert generator.stand_in.line.n_admitted == 0


def test_an_answer_begun_is_not_quoted_instead(servers):
    servers[0].script = [streamed("The sky", reason=None, done=False)]
    bound = for_request(failing_over(servers, stand_in=QueuedGenerator(Local())))
    events = answer("Why is the sky blue?", make_hits(PASSAGES), bound, WordEncoder())
    assert isinstance(next(events), Draft)
    with pytest.raises(GenerationCutError):
        list(events)


def test_answers_are_scored_by_the_first_that_can_and_under_its_name(servers):
    class Scoring(Local):
        def score_answers(self, conversations, answer):
            yield 0, [TokenScore(answer, len(answer), -1.0, None)]

    servers[0].script = [refused(404)]  # no log-probabilities
    servers[1].script = [refused(500)]
    stand_in = QueuedGenerator(Scoring())
    with for_request(failing_over(servers, stand_in=stand_in)) as bound:
        assert list(scorer(bound).score_answers([MESSAGES], "blue")) == [(0, [("blue", 4, -1.0, None)])]
        assert bound.spec == Scoring.spec
    assert stand_in.line.n_admitted == 0
    with for_request(failing_over(servers)) as bound, pytest.raises(CannotScoreError):
        list(scorer(bound).score_answers([MESSAGES], "blue"))


def test_a_local_generator_without_a_queue_is_bound_to_a_request_too():
    with for_request(Local()) as bound:
        assert isinstance(bound, LikelihoodGenerator)
        assert list(bound.stream(says("x"), 9)) == ["a ", "b"]
        bound.close()
        with pytest.raises(GenerationCancelledError):
            bound.log_likelihoods([("x", "y")])


def test_generators_are_loaded_with_what_they_need_to_be_shared(servers, monkeypatch):
    from hiperrag.answering import generators

    monkeypatch.setattr(generators, "_default", lambda spec, precision: Local())
    alone = load_generators(["default"])
    assert isinstance(alone, QueuedGenerator)
    assert isinstance(load_generators([servers[0].spec]), OpenAIGenerator)
    several = load_generators([servers[0].spec, servers[1].spec, "default"])
    assert isinstance(several, FailoverGenerator)
    assert isinstance(several.stand_in, QueuedGenerator)
    assert several.capable
    with pytest.raises(UserError, match="last"):
        load_generators(["default", servers[0].spec])
    with pytest.raises(UserError, match="openai:BASE_URL#MODEL"):
        load_generators([])
