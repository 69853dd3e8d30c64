"""The service and the generators behind it: who leaves ends the request upstream, who finds them full is told when."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx
import pytest
from gateway_helpers import Handler, refused, running, streamed
from service_helpers import SECONDS, ListedCollection, chat_body, eventually, serving

from hiperrag.answering.generators import load_generators
from hiperrag.answering.generators.queued import Line, QueuedGenerator
from hiperrag.service.app import create_app
from hiperrag.service.settings import ServiceSettings

TEXTS = ["Quokkas eat leaves and swamp peppermint."]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def make_app(generator):
    settings = ServiceSettings(collections={"c": Path("c")}, heartbeat_s=0.1)
    return create_app(settings, {"c": ListedCollection("c", TEXTS)}, generator)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_request_upstream(stream):
    left = threading.Event()

    def run(handler: Handler) -> None:
        handler.begin()
        handler.send_event("Quokkas eat")
        if handler.client_left():
            left.set()

    with running() as upstream:
        upstream.script = [run]
        app = make_app(load_generators([upstream.spec]))
        with serving(app) as url:
            body = chat_body("What do quokkas eat?", stream=stream)
            with httpx.Client() as client:
                request = client.build_request("POST", f"{url}/v1/chat/completions", json=body)
                if stream:
                    response = client.send(request, stream=True)
                    lines = response.iter_lines()
                    eventually(lambda: "Quokkas eat" in next(lines) and upstream.requests)
                    response.close()
                else:
                    with pytest.raises(httpx.ReadTimeout):
                        client.post(f"{url}/v1/chat/completions", json=body, timeout=1.0)
            assert left.wait(SECONDS)
            eventually(lambda: not app.state.service.answering)


def test_a_full_queue_is_a_503_with_the_time_to_come_back_even_for_a_stream():
    class Never:
        spec, capable = "never", False

        def stream(self, messages, max_tokens):
            raise AssertionError

        prompt = log_likelihood = log_likelihoods = stream

    queued = QueuedGenerator(Never(), Line(places=1))
    with serving(make_app(queued)) as url, queued.for_request():
        body = chat_body("What do quokkas eat?", stream=True)
        response = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["code"] == "busy"


def test_the_generator_dies_and_comes_back_under_the_same_service(monkeypatch):
    with running() as first, running() as second:
        first.script = [streamed("Quokkas eat leaves and swamp peppermint [1].")]
        second.script = first.script
        with serving(make_app(load_generators([first.spec, second.spec]))) as url:

            def ask() -> str:
                response = httpx.post(f"{url}/v1/chat/completions", json=chat_body("What do quokkas eat?"))
                return response.json()["hiperrag"]["generator"] if response.status_code == 200 else response.text

            assert ask() == "openai:tiny"
            first.script = [refused(500)]
            assert ask() == "openai:tiny"
            assert (len(first.requests), len(second.requests)) == (2, 1)
            second.script = [refused(500)]
            failed = json.loads(ask())["error"]
            assert failed["code"] == "busy"
            assert str(first.server_port) not in failed["message"]
            first.script = second.script = [streamed("Quokkas eat leaves and swamp peppermint [1].")]
            eventually(lambda: ask() == "openai:tiny")
