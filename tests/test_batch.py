"""`hiperrag batch`: files in OpenAI's batch format, answered by the service's application; stopped and gone on with."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from gateway_helpers import Handler, Server, replied, running, streamed, whole
from service_helpers import ListedCollection, QuotingGenerator, chat_body

from hiperrag.answering.generators import BusyError, UnavailableError
from hiperrag.answering.generators.batches import GatewayBatches
from hiperrag.answering.generators.openai import OpenAIGenerator
from hiperrag.batching import deferred, run
from hiperrag.batching.deferred import DeferredGenerator
from hiperrag.batching.requests import Requests
from hiperrag.batching.results import Results
from hiperrag.batching.run import answer_all
from hiperrag.cli import batch as command
from hiperrag.errors import UserError
from hiperrag.service import serving
from hiperrag.service.app import create_app
from hiperrag.service.settings import ServiceSettings

TEXTS = ["Quokkas eat leaves and swamp peppermint.", "Terns fly from pole to pole every year."]


def request(custom_id: str, question: str = "What do quokkas eat?", **more: object) -> dict[str, object]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": chat_body(question),
        **more,
    }


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_custom_id(path: Path) -> dict[str, dict]:
    rows = read(path)
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture
def app():
    return make_app(QuotingGenerator())


def make_app(generator):
    """The application, made once and given another generator."""
    app = _app()
    app.state.service.open({"c": ListedCollection("c", TEXTS)}, generator)
    return app


@functools.cache
def _app():
    collections = {"c": Path("c")}
    return create_app(
        ServiceSettings(collections=collections, requests_per_minute=0, concurrent_requests=4, base_url="http://host:1")
    )


def answer(app, source: Path, to: Path, default_model: str = "", writer: DeferredGenerator | None = None) -> list[dict]:
    requests = Requests(source, default_model)
    results = Results(to, requests.lines)
    told = []
    try:
        answer_all(
            app,
            requests,
            results,
            concurrency=4,
            deferred=writer,
            advance=lambda: told.append(1),
            say=lambda text: None,
        )
    finally:
        results.close()
    return read(to)


def test_results_have_openais_shape_and_the_services_bodies(app, tmp_path):
    source = write(
        tmp_path / "in",
        [
            request("a"),
            "",
            {
                "custom_id": "b",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": "hiperrag/c", "input": ["quokka", "tern"]},
            },
        ],
    )
    answer(app, source, tmp_path / "out")
    found = by_custom_id(tmp_path / "out")
    chat, embeddings = found["a"], found["b"]
    assert set(chat) == {"id", "custom_id", "response", "error"}
    assert chat["error"] is None
    assert chat["id"].startswith("batch_req_")
    assert set(chat["response"]) == {"status_code", "request_id", "body"}
    assert chat["response"]["status_code"] == 200
    body = chat["response"]["body"]
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "Quokkas eat leaves and swamp peppermint [1]."
    assert body["citations"][0]["url"].startswith("http://host:1/#/c/passages/p1")
    assert len(embeddings["response"]["body"]["data"]) == 2


def test_a_model_is_only_added_where_there_is_none(app, tmp_path):
    without = request("a")
    del without["body"]["model"]
    rows = answer(app, write(tmp_path / "in", [without]), tmp_path / "out", default_model="hiperrag/c")
    assert rows[0]["response"]["body"]["model"] == "hiperrag/c"
    other = request("a", body=chat_body("x", model="hiperrag/other"))
    rows = answer(app, write(tmp_path / "in2", [other]), tmp_path / "out2", default_model="hiperrag/c")
    assert rows[0]["response"]["status_code"] == 404


BAD = {
    "{not json": "not JSON",
    "[1]": "not an object",
    '{"custom_id": "x"': "not JSON",
    json.dumps({"method": "POST"}): "custom_id",
    json.dumps(request("get", method="GET")): "POST",
    json.dumps(request("url", url="/v1/completions")): "/v1/embeddings",
    json.dumps(request("body", body="text")): "body",
    json.dumps(request("stream", body={"stream": True})): "stream",
    "[" * 100_000: "",
}


def test_bad_lines_are_errors_with_their_numbers_and_the_rest_is_answered(app, tmp_path):
    source = write(tmp_path / "in", [request("good"), *BAD])
    rows = answer(app, source, tmp_path / "out")
    assert len(rows) == len(BAD) + 1
    errors = {row["error"]["message"].partition(":")[0]: row["error"] for row in rows if row["error"]}
    for number, words in enumerate(BAD.values(), start=2):
        assert words in errors[f"line {number}"]["message"]
        assert errors[f"line {number}"]["code"] == "invalid_line"
    assert {row["custom_id"] for row in rows} == {"good", None, "get", "url", "body", "stream"}
    before = (tmp_path / "out").read_bytes()
    answer(app, source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == before


def test_what_the_service_refuses_is_a_result_with_its_status(app, tmp_path):
    rows = answer(app, write(tmp_path / "in", [request("a", body=chat_body(" "))]), tmp_path / "out")
    assert rows[0]["response"]["status_code"] == 422
    assert rows[0]["response"]["body"]["error"]["param"].startswith("messages")


def test_a_custom_id_used_twice_is_refused_with_both_lines(tmp_path):
    source = write(tmp_path / "in", [request("a"), request("b"), request("a")])
    with pytest.raises(UserError, match=r"line 3: custom_id 'a' is that of line 1"):
        Requests(source)


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_nothing_to_do_is_said(tmp_path, content):
    if content is not None:
        (tmp_path / "in").write_text(content)
    with pytest.raises(UserError, match=r"in: (cannot be read|holds no requests)"):
        Requests(tmp_path / "in")


# Going on


class Counting(QuotingGenerator):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.n_asked = 0

    def stream(self, messages, max_tokens):
        self.n_asked += 1
        return super().stream(messages, max_tokens)


def test_only_what_has_no_result_is_asked(tmp_path):
    generator = Counting()
    source = write(tmp_path / "in", [request(f"r{number}") for number in range(6)])
    answer(make_app(generator), source, tmp_path / "out")
    lines = (tmp_path / "out").read_text().splitlines(keepends=True)
    (tmp_path / "out").write_text("".join(lines[:2]) + lines[2][:-1])  # all of a line but its end
    generator.n_asked = 0
    answer(make_app(generator), source, tmp_path / "out")
    assert generator.n_asked == 4
    assert set(by_custom_id(tmp_path / "out")) == {f"r{number}" for number in range(6)}
    assert (tmp_path / "out").read_text().startswith("".join(lines[:2]))


def test_a_result_cut_anywhere_is_mended(app, tmp_path):
    source = write(tmp_path / "in", [request("a"), request("b")])
    answer(app, source, tmp_path / "out")
    data = (tmp_path / "out").read_bytes()
    lines = Requests(source).lines
    ends = [position + 1 for position, byte in enumerate(data) if byte == 10]
    for cut in {*range(0, len(data), 97), *(end + shift for end in ends for shift in (-2, -1, 0))}:
        (tmp_path / "out").write_bytes(data[:cut])
        results = Results(tmp_path / "out", lines)
        results.close()
        n_whole = sum(end <= cut for end in ends)
        assert len(results.done) == n_whole
        assert (tmp_path / "out").read_bytes() == data[: ends[n_whole - 1] if n_whole else 0]


def test_changed_requests_and_passing_failures_are_asked_again(tmp_path):
    generator = Counting()
    rows = [request("same"), request("changed"), request("failed"), request("refused", body=chat_body(" "))]
    source, to = tmp_path / "in", tmp_path / "out"
    answer(make_app(generator), write(source, rows), to)
    stored = read(to)
    for row in stored:
        if row["custom_id"] == "failed":
            row["response"] = {"status_code": 503, "request_id": "x", "body": {"error": {}}}
    write(to, stored)
    generator.n_asked = 0
    rows[1] = request("changed", "And terns?")
    answer(make_app(generator), write(source, rows), to)
    assert generator.n_asked == 2
    assert len(by_custom_id(to)) == 4
    assert not list(tmp_path.glob(".tmp-*"))


def test_results_of_another_input_are_not_touched(app, tmp_path):
    answer(app, write(tmp_path / "in", [request("a")]), tmp_path / "out")
    before = (tmp_path / "out").read_bytes()
    other = Requests(write(tmp_path / "other", [request("b")]))
    with pytest.raises(UserError, match="another input"):
        Results(tmp_path / "out", other.lines)
    write(tmp_path / "notes", ["dear diary"])
    with pytest.raises(UserError, match="line 1: no result of a batch"):
        Results(tmp_path / "notes", other.lines)
    assert (tmp_path / "out").read_bytes() == before
    assert (tmp_path / "notes").read_text() == "dear diary\n"


def test_two_batches_do_not_write_the_same_file(tmp_path):
    lines = Requests(write(tmp_path / "in", [request("a")])).lines
    first = Results(tmp_path / "out", lines)
    with pytest.raises(UserError, match="another batch"):
        Results(tmp_path / "out", lines)
    first.close()
    Results(tmp_path / "out", lines).close()


# Generators that fail


class Failing(QuotingGenerator):
    """Raises `error` the first `times` times that it is asked."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self._failure, self._left = error, times
        self._lock = threading.Lock()

    def stream(self, messages, max_tokens):
        with self._lock:
            self._left -= 1
            if self._left >= 0:
                raise self._failure
        return super().stream(messages, max_tokens)


@pytest.mark.parametrize(("error", "times"), [(BusyError("busy", 0.01), 30), (UnavailableError("down"), 3)])
def test_a_request_is_asked_again_while_the_generator_cannot(error, times, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(run, "seconds", lambda text: 0.001 if text else None)
    source = write(tmp_path / "in", [request("a")])
    (row,) = answer(make_app(Failing(error, times)), source, tmp_path / "out")
    assert row["response"]["status_code"] == 200


def test_a_dead_generator_ends_the_batch_and_a_later_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TRIES", 1)
    source = write(tmp_path / "in", [request(f"r{number}") for number in range(60)])
    with pytest.raises(UserError, match="32 failures in a row"):
        answer(make_app(Failing(UnavailableError("down"), 10_000)), source, tmp_path / "out")
    stored = read(tmp_path / "out")
    assert 32 <= len(stored) < 60
    assert {row["response"]["status_code"] for row in stored} == {503}
    answer(make_app(QuotingGenerator()), source, tmp_path / "out")
    assert {row["response"]["status_code"] for row in by_custom_id(tmp_path / "out").values()} == {200}


# A gateway's own batch mode


class Gateway:
    """`/files` and `/batches`: each batch is in progress when first looked at, and done after that."""

    def __init__(self, server: Server) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: list[dict] = []
        self.looks = 0
        self.fails: set[str] = set()
        """Questions that it has no answer for."""
        server.script = [self.post]
        server.on_get = self.get

    def post(self, handler: Handler) -> None:
        if handler.path == "/v1/files":
            name = f"file-{len(self.files)}"
            self.files[name] = handler.request_body.split(b"\r\n\r\n")[-1].rsplit(b"\r\n--", 1)[0]
            replied({"id": name})(handler)
        elif handler.path == "/v1/batches":
            self.batches.append({"input": handler.request_body["input_file_id"]})
            replied({"id": f"batch-{len(self.batches) - 1}"})(handler)
        else:
            streamed("asked directly")(handler)

    def get(self, handler: Handler) -> None:
        if handler.path == "/v1/batches?limit=1":
            replied({"object": "list", "data": []})(handler)
        elif handler.path.startswith("/v1/batches/"):
            self.looks += 1
            number = int(handler.path.rpartition("-")[2])
            done = self.looks > 1
            status = {"status": "completed", "output_file_id": f"out-{number}"} if done else {"status": "in_progress"}
            replied({"id": f"batch-{number}", **status})(handler)
        else:
            number = int(handler.path.split("out-")[1].partition("/")[0])
            self.reply_with(handler, [self.answer(row) for row in self.prompts(number)])

    def reply_with(self, handler: Handler, rows: list[dict]) -> None:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def prompts(self, number: int) -> list[dict]:
        return [json.loads(line) for line in self.files[self.batches[number]["input"]].splitlines()]

    def answer(self, row: dict) -> dict:
        asked = row["body"]["messages"][-1]["content"]
        if any(question in asked for question in self.fails):
            return {"custom_id": row["custom_id"], "response": None, "error": {"message": "no room"}}
        body = whole("Quokkas eat leaves and swamp peppermint [1].")
        return {"custom_id": row["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(deferred, "FIRST_POLL_S", 0.01)
    with running() as server:
        yield server


def writer_of(server: Server, file: Path) -> DeferredGenerator:
    generator = OpenAIGenerator(server.spec)
    return DeferredGenerator(generator.spec, GatewayBatches(generator), file)


def test_many_prompts_are_written_in_one_go(server, tmp_path):
    gateway = Gateway(server)
    source = write(tmp_path / "in", [request(f"r{number}", f"Question {number} on quokkas?") for number in range(20)])
    writer = writer_of(server, tmp_path / "prompts")
    answer(make_app(writer), source, tmp_path / "out", writer=writer)
    found = by_custom_id(tmp_path / "out")
    assert len(found) == 20
    for row in found.values():
        assert row["response"]["body"]["choices"][0]["message"]["content"].endswith("swamp peppermint [1].")
        assert row["response"]["body"]["hiperrag"]["supported"]
    assert len(gateway.batches) == 1
    assert len(gateway.prompts(0)) == 20
    assert all("stream" not in row["body"] for row in gateway.prompts(0))
    assert not (tmp_path / "prompts").exists()


def test_what_the_gateway_could_not_write_is_an_error_and_asked_for_again(server, tmp_path):
    gateway = Gateway(server)
    gateway.fails = {"Question 3"}
    source = write(tmp_path / "in", [request(f"r{number}", f"Question {number}?") for number in range(5)])
    for n_batches, status in ((1, 503), (2, 200)):
        writer = writer_of(server, tmp_path / "prompts")
        answer(make_app(writer), source, tmp_path / "out", writer=writer)
        assert by_custom_id(tmp_path / "out")["r3"]["response"]["status_code"] == status
        assert len(gateway.batches) == n_batches
        gateway.fails = set()
    assert len(gateway.prompts(1)) == 1


def test_a_killed_run_goes_on_with_the_batch_at_the_gateway(server, tmp_path, monkeypatch):
    gateway = Gateway(server)
    source = write(tmp_path / "in", [request(f"r{number}", f"Question {number}?") for number in range(5)])

    class KilledError(BaseException):
        pass

    def die(seconds: float) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(deferred.time, "sleep", die)
        writer = writer_of(server, tmp_path / "prompts")
        with pytest.raises(KilledError):
            answer(make_app(writer), source, tmp_path / "out", writer=writer)
    with (tmp_path / "prompts").open("a") as stream:
        stream.write('{"key": "cut in the wri')
    writer = writer_of(server, tmp_path / "prompts")
    answer(make_app(writer), source, tmp_path / "out", writer=writer)
    assert {row["response"]["status_code"] for row in by_custom_id(tmp_path / "out").values()} == {200}
    assert len(gateway.batches) == 1


# The command


@pytest.fixture
def batch(hiperrag, monkeypatch):
    """`hiperrag batch` on a collection of two texts."""
    monkeypatch.setattr(command, "named_collections", lambda names: {name: Path(name) for name in names})
    monkeypatch.setattr(serving, "ServedCollection", lambda name, root, **_: ListedCollection(name, TEXTS))
    return lambda *arguments: hiperrag("batch", *arguments, "--collection", "c")


def test_the_command_answers_and_goes_on(batch, server, tmp_path):
    server.script = [streamed("Quokkas eat leaves and swamp peppermint [1].")]
    without = request("b", "And terns?")
    del without["body"]["model"]
    source = write(tmp_path / "in", [request("a"), without, "{"])
    status, out, err = batch(source, tmp_path / "out", "--generator", server.spec)
    assert (status, out) == (0, "")
    assert err[-1] == f"{tmp_path}/out: 3 of 3 results, of which 1 error"
    assert any("3/3 requests" in line and "/s" in line for line in err)
    assert [row["response"]["status_code"] for row in by_custom_id(tmp_path / "out").values() if row["response"]] == [
        200
    ] * 2
    n_asked = len(server.requests)
    assert batch(source, tmp_path / "out", "--strict", "--generator", server.spec)[0] == 3
    assert len(server.requests) == n_asked


def test_the_command_uses_a_gateways_batches_for_many(batch, server, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "GATEWAY_BATCH_FROM", 3)
    gateway = Gateway(server)
    source = write(tmp_path / "in", [request(f"r{number}", f"Question {number}?") for number in range(4)])
    status, _, err = batch(source, tmp_path / "out", "--generator", server.spec)
    assert status == 0
    assert any("gateway batch batch-0: 4 prompts" in line for line in err)
    assert len(gateway.batches) == 1
    assert len(by_custom_id(tmp_path / "out")) == 4
    few = write(tmp_path / "few", [request("r0")])
    assert batch(few, tmp_path / "out2", "--generator", server.spec)[0] == 0
    assert len(gateway.batches) == 1


@pytest.mark.parametrize("wrong", ["missing", "same", "folder"])
def test_the_command_says_what_is_wrong_in_one_line(batch, tmp_path, wrong):
    source = write(tmp_path / "in", [request("a")])
    arguments = {
        "missing": (tmp_path / "none", tmp_path / "out"),
        "same": (source, source),
        "folder": (source, tmp_path),
    }[wrong]
    status, _, err = batch(*arguments)
    assert status == 2
    assert len(err) == 1
    assert err[0].startswith("hiperrag: ")


# Killed at any instant

N_REQUESTS = 150
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["hiperrag.service.app", "hiperrag.batching.run", "service_helpers"])


class Slow(QuotingGenerator):
    """Takes some milliseconds, and notes in a file that it was asked."""

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def stream(self, messages, max_tokens):
        os.write(self._notes, b"x")
        time.sleep(0.004)
        return super().stream(messages, max_tokens)


def _answer_all(source: Path, to: Path, notes: Path) -> None:
    answer(make_app(Slow(notes)), source, to)


@pytest.mark.slow
def test_kill_9_at_any_instant_costs_only_what_was_in_the_making(tmp_path):
    source = write(tmp_path / "in", [request(f"r{number}", f"Question {number}?") for number in range(N_REQUESTS)])
    to, notes = tmp_path / "out", tmp_path / "notes"
    dice = random.Random(0)
    kills = 0
    while True:
        before = notes.stat().st_size if notes.exists() else 0
        process = _CONTEXT.Process(target=_answer_all, args=(source, to, notes))
        process.start()
        wanted = before + dice.randrange(1, 20)
        while process.is_alive() and (not notes.exists() or notes.stat().st_size < wanted):
            time.sleep(0.001)
        time.sleep(dice.random() * 0.02)
        if process.is_alive() and kills < 12:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
            process.join(60)
            continue
        process.join(120)
        assert process.exitcode == 0
        break
    assert kills >= 8
    found = by_custom_id(to)
    assert set(found) == {f"r{number}" for number in range(N_REQUESTS)}
    assert all(row["response"]["status_code"] == 200 for row in found.values())
    assert notes.stat().st_size <= N_REQUESTS + 5 * kills  # four at a time, and one that was being written


def test_collections_are_the_folders_that_the_requests_name(tmp_path, monkeypatch):
    for folder in ("papers", "other"):
        (tmp_path / folder).mkdir()
    models = ["hiperrag/papers", "hiperrag/absent", "hiperrag/../other", "hiperrag/", "gpt", 7]
    lines = [json.dumps({"body": {"model": model}}) for model in models]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, "broken", '{"body": {}}']) + "\n")
    monkeypatch.chdir(tmp_path)
    assert command._named_in(Path("in.jsonl")) == ["papers"]
    (tmp_path / "in.jsonl").write_text('{"body": {"model": "gpt"}}\n')
    with pytest.raises(UserError, match="give --collection"):
        command._named_in(Path("in.jsonl"))
