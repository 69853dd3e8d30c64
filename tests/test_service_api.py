"""The service's API, asked by OpenAI's own client and by plain HTTP, over a real collection and a real server."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
import schemathesis
from collection_helpers import SENTENCES
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from service_helpers import (
    HTTP,
    REWRITTEN,
    ListedCollection,
    QuotingGenerator,
    chat_body,
    eventually,
    lines_of,
    serving,
)

from hiperrag.answering.generators.base import BusyError, GenerationCutError
from hiperrag.answering.retrieval import Retriever
from hiperrag.errors import UserError
from hiperrag.service import keys
from hiperrag.service.app import create_app
from hiperrag.service.routes import chat
from hiperrag.service.serving import ServedCollection
from hiperrag.service.settings import ServiceSettings

WHALES = "Male humpback whales sing for hours in the breeding season."
QUESTION = "When do whales sing?"
LEAK = re.compile(r"Traceback|File \"|site-packages|/home/|/root|/tmp|/usr/|\.venv|hrk_")
CONDITIONS = ("year >= 1995", "kind == 'paragraph'", "not exists(year)", "year in (1991, 1992)")
schemathesis.openapi.format("hiperrag-condition", st.sampled_from(CONDITIONS))


@pytest.fixture(scope="module")
def served(built):
    collection = ServedCollection("c", built, threads=1)
    yield collection
    collection.close()


@pytest.fixture(scope="module")
def server(served):
    app = create_app(ServiceSettings(collections={"c": "c"}, requests_per_minute=0), {"c": served}, QuotingGenerator())
    with serving(app) as url:
        yield url


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def listed():
    return ListedCollection("c", ["Whales sing in winter.", "Bees dance."])


def settings(**more) -> ServiceSettings:
    return ServiceSettings(collections={"c": "c"}, **more)


def test_an_answer_cites_what_it_says(client, server):
    completion = client.chat.completions.create(**chat_body(QUESTION))
    message = completion.choices[0].message
    assert message.content == WHALES.replace(".", " [1].")
    assert completion.choices[0].finish_reason == "stop"
    citation = message.annotations[0].url_citation
    assert message.content[citation.start_index : citation.end_index] == "[1]"
    first = completion.model_extra["search_results"][0]
    assert (first["n"], first["text"], first["document"]) == (1, WHALES, "r1")
    assert citation.url == first["url"] == f"{server}/#/c/passages/{first['passage_id']}"
    assert completion.model_extra["citations"][0]["text"] == WHALES
    facts = completion.model_extra["hiperrag"]
    assert facts["supported"]
    assert facts["question"] == QUESTION
    assert facts["notes"] == ["left out as unsupported: 1 sentence"]
    assert facts["shards"] == {"total": 3, "open": 3, "missing": []}
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.usage.completion_tokens == len(WHALES.split()) + 1 + 6


def test_a_stream_has_the_same_answer_in_order(client):
    whole = client.chat.completions.create(**chat_body(QUESTION))
    chunks = list(
        client.chat.completions.create(**chat_body(QUESTION), stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[1].model_extra["search_results"] == whole.model_extra["search_results"]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    *_, last, usage = chunks
    assert last.choices[0].finish_reason == "stop"
    assert last.choices[0].delta.model_extra["annotations"][0]["url_citation"]["title"] == "r1"
    assert last.model_extra["citations"] == whole.model_extra["citations"]
    assert usage.choices == []
    assert usage.usage == whole.usage
    drafts = [
        chunk.model_extra["hiperrag"]["draft"] for chunk in chunks if "draft" in chunk.model_extra.get("hiperrag", {})
    ]
    assert "Teapots" in "".join(drafts)


def test_events_are_framed_as_the_standard_says(server):
    with HTTP.stream("POST", f"{server}/v1/chat/completions", json=chat_body(QUESTION, stream=True)) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        text = response.read().decode()
    assert text.endswith("data: [DONE]\n\n")
    events = text.split("\n\n")
    assert events.pop() == ""
    for event in events[:-1]:
        assert json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_what_changes_nothing_is_accepted(client):
    messages = [
        {"role": "system", "content": "Answer in verse."},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ]
    completion = client.chat.completions.create(
        model="hiperrag/c", messages=messages, temperature=0.9, top_p=0.5, seed=1, user="me", n=1, max_tokens=10_000_000
    )
    assert completion.choices[0].message.content.startswith("Male humpback whales")


def test_a_follow_up_question_is_searched_for_as_it_is_meant(client):
    said = [
        {"role": "user", "content": "Do whales make music?"},
        {"role": "assistant", "content": "They sing [1]."},
        {"role": "user", "content": "When do they?"},
    ]
    completion = client.chat.completions.create(model="hiperrag/c", messages=said)
    assert completion.model_extra["hiperrag"]["question"] == REWRITTEN
    assert completion.choices[0].message.content == WHALES.replace(".", " [1].")


def test_nothing_found_is_said(client):
    more = {"hiperrag": {"where": "year == 1066"}}
    completion = client.chat.completions.create(**chat_body(QUESTION), extra_body=more)
    assert completion.choices[0].message.content == "The collection does not say."
    assert not completion.model_extra["hiperrag"]["supported"]


def test_models_are_the_collections(client):
    assert [model.id for model in client.models.list()] == ["hiperrag/c"]
    assert client.models.retrieve("hiperrag/c").owned_by == "hiperrag"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("hiperrag/other")
    assert error.value.code == "collection_not_found"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**chat_body(QUESTION, model="gpt-5"))


def test_embeddings_are_the_pooled_vectors_of_queries(client, served):
    texts = ["whales", "What do quokkas eat?"]
    expected = served.encoder.encode_queries(texts).pooled
    found = client.embeddings.create(model="hiperrag/c", input=texts)  # this client asks for base64
    np.testing.assert_array_equal(np.array([one.embedding for one in found.data], dtype=np.float32), expected)
    plain = client.embeddings.create(model="hiperrag/c", input=texts[0], encoding_format="float")
    np.testing.assert_allclose(plain.data[0].embedding, expected[0], atol=1e-6)
    assert plain.usage.total_tokens == served.encoder.encode_queries(texts[:1]).offsets[-1]


def test_rerank_orders_texts_by_maxsim(server):
    body = {"model": "hiperrag/c", "query": QUESTION, "documents": [*SENTENCES[:3], {"text": WHALES}, ""], "top_n": 3}
    found = HTTP.post(f"{server}/v1/rerank", json=body | {"return_documents": True}).json()["results"]
    assert [one["index"] for one in found[:2]] == [1, 3]
    assert found[0]["document"] == {"text": WHALES}
    assert 1 >= found[0]["relevance_score"] == found[1]["relevance_score"] > found[2]["relevance_score"]


def test_search_is_that_of_the_command(server, built):
    expected = Retriever(built, 1).search([QUESTION], 4, quality="exact")[0]
    for collection in ({"collection": "c"}, {"model": "hiperrag/c"}):
        body = {**collection, "query": QUESTION, "k": 4, "quality": "exact"}
        found = HTTP.post(f"{server}/v1/search", json=body).json()
        hits = [{name: value for name, value in hit.items() if name != "url"} for hit in found["hits"]]
        assert hits == [hit.to_json() for hit in expected]
        assert found["shards"]["open"] == 3


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("chat/completions", {"model": "hiperrag/c", "messages": []}, 422, "messages"),
        (
            "chat/completions",
            {"model": "hiperrag/c", "messages": [{"role": "system", "content": "x"}]},
            422,
            "messages",
        ),
        ("chat/completions", chat_body("  \n "), 422, "messages.0.user.content"),
        ("chat/completions", chat_body("x" * 10_001), 422, "messages.0.user.content"),
        ("chat/completions", chat_body("x", n=2), 422, "n"),
        ("chat/completions", chat_body("x", hiperrag={"kk": 3}), 422, "hiperrag.kk"),
        ("chat/completions", chat_body("x", hiperrag={"where": "year >"}), 422, "where"),
        ("chat/completions", chat_body("x", hiperrag={"where": "yeer > 1"}), 422, "where"),
        ("chat/completions", chat_body("x", response_format={"type": "json_object"}), 422, "response_format.type"),
        ("search", {"collection": "c", "query": "x", "k": "5"}, 422, "k"),
        ("search", {"query": "x"}, 404, "model"),
        ("search", {"collection": "../c", "query": "x"}, 404, "collection"),
        ("embeddings", {"model": "hiperrag/c", "input": []}, 422, None),
        ("embeddings", {"model": "hiperrag/c", "input": "\ud800"}, 422, None),
        ("rerank", {"model": "hiperrag/c", "query": "x", "documents": []}, 422, "documents"),
    ],
)
def test_mistakes_are_named(server, path, body, status, param):
    response = HTTP.post(f"{server}/v1/{path}", content=json.dumps(body), headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, set(error)) == (status, {"message", "type", "param", "code"})
    assert error["param"] == param or param is None
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/search", b'{"query": ', 400),
        ("POST", "/v1/search", b"[" * 100_000, 400),
        ("POST", "/v1/search", b"\xff\xfe", 400),
        ("POST", "/v1/search", b"", 422),
        ("GET", "/v1/nothing", b"", 404),
        ("GET", "/v1/search", b"", 405),
        ("DELETE", "/v1/models", b"", 405),
    ],
)
def test_what_cannot_be_read_or_is_not_there(server, method, path, content, status):
    headers = {"content-type": "application/json"}
    response = HTTP.request(method, server + path, content=content, headers=headers)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert ("allow" in response.headers) == (status == 405)


def test_health_readiness_and_metrics(server):
    assert HTTP.get(f"{server}/health").json() == {"status": "ok"}
    ready = HTTP.get(f"{server}/ready").json()
    assert ready["status"] == "ready"
    assert ready["collections"]["c"]["open"] == 3
    HTTP.post(f"{server}/v1/search", json={"collection": "c", "query": "x"})
    metrics = HTTP.get(f"{server}/metrics").text
    assert 'hiperrag_requests_total{method="POST",route="/v1/search",status="200"}' in metrics
    assert 'hiperrag_shards{collection="c",state="open"} 3.0' in metrics


def test_streams_of_many_clients_are_not_mixed(server):
    """20 clients, each with a question of its own, which is the only one that finds its sentence first."""

    def ask(sentence: str) -> tuple[str, str, str]:
        body = chat_body(sentence, stream=True)
        text, ids = "", set()
        with HTTP.stream("POST", f"{server}/v1/chat/completions", json=body) as response:
            for line in lines_of(response):
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    ids.add(chunk["id"])
                    text += chunk["choices"][0]["delta"].get("content", "")
        assert line == "data: [DONE]"
        assert len(ids) == 1
        return sentence, text, ids.pop()

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, SENTENCES[:20]))
    for sentence, text, _ in answers:
        assert text == sentence.replace(".", " [1].")
    assert len({identity for _, _, identity in answers}) == 20


def test_the_role_and_heartbeats_come_before_the_search_ends(listed):
    listed.held.clear()
    app = create_app(settings(heartbeat_s=0.02), {"c": listed}, QuotingGenerator())
    with (
        serving(app) as url,
        HTTP.stream("POST", f"{url}/v1/chat/completions", json=chat_body("Whales?", stream=True)) as response,
    ):
        lines = lines_of(response)
        assert '"role":"assistant"' in next(lines)
        assert next(lines) == ": heartbeat"
        listed.held.set()
        rest = [line for line in lines if line != ": heartbeat"]
    assert rest[-1] == "data: [DONE]"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_generation(listed, stream):
    generator = QuotingGenerator()
    generator.held.clear()
    app = create_app(settings(), {"c": listed}, generator)
    with serving(app) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        body = json.dumps(chat_body("Whales?", stream=stream))
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        assert generator.writing.acquire(timeout=20)
        assert app.state.service.slots.taken == 1
        connection.close()
        assert generator.closed.acquire(timeout=20)
        eventually(lambda: app.state.service.slots.taken == 0)
        assert 'hiperrag_answers_total{collection="c",end="cancelled"} 1.0' in HTTP.get(f"{url}/metrics").text


def test_a_client_that_stops_reading_is_not_waited_for():
    class Job:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    async def events():
        yield b"data: {}\n\n"

    async def never(*_):
        await asyncio.Event().wait()

    job = Job()
    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    asyncio.run(chat._AnswerStream(job, events(), 0.05)(scope, never, never))
    assert job.cancelled


def test_a_request_has_limited_time(listed):
    generator = QuotingGenerator()
    generator.held.clear()
    app = create_app(settings(request_timeout_s=0.2), {"c": listed}, generator)
    with serving(app) as url:
        response = HTTP.post(f"{url}/v1/chat/completions", json=chat_body("Whales?"))
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
        generator.held.clear()
        streamed = HTTP.post(f"{url}/v1/chat/completions", json=chat_body("Whales?", stream=True))
        assert json.loads(streamed.text.split("data: ")[-1])["error"]["code"] == "timeout"
        listed.held.clear()
        assert HTTP.post(f"{url}/v1/search", json={"collection": "c", "query": "x"}).status_code == 504
        listed.held.set()
        eventually(lambda: app.state.service.slots.taken == 0)


@pytest.mark.parametrize(
    ("error", "code", "wait"),
    [
        (BusyError("the queue at /srv/secret is full", 7.2), "busy", "8"),
        (UserError("hf:/srv/secret cannot be loaded"), "generator_unavailable", "5"),
        (GenerationCutError("openai: secret.example:8000 sent nothing"), "generator_cut", "5"),
    ],
)
def test_a_generator_that_fails_is_a_503_without_details(listed, error, code, wait):
    with serving(create_app(settings(), {"c": listed}, QuotingGenerator(error=error))) as url:
        response = HTTP.post(f"{url}/v1/chat/completions", json=chat_body("Whales?"))
        streamed = HTTP.post(f"{url}/v1/chat/completions", json=chat_body("Whales?", stream=True))
    assert (response.status_code, response.json()["error"]["code"]) == (503, code)
    assert response.headers["retry-after"] == wait
    assert json.loads(streamed.text.split("data: ")[-1])["error"]["code"] == code
    assert "secret" not in response.text + streamed.text


def test_openai_client_raises_what_breaks_in_mid_stream(listed):
    generator = QuotingGenerator(cut=GenerationCutError("openai: secret.example broke the connection"))
    with serving(create_app(settings(), {"c": listed}, generator)) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.APIError, match="broke off"):
            list(client.chat.completions.create(**chat_body("Whales?"), stream=True))


def test_a_broken_collection_is_a_503_without_its_path():
    broken = ListedCollection("c", [], error=UserError("/srv/secret/shards/1: damaged"))
    with serving(create_app(settings(), {"c": broken}, QuotingGenerator())) as url:
        for path, body in (("chat/completions", chat_body("x")), ("search", {"collection": "c", "query": "x"})):
            response = HTTP.post(f"{url}/v1/{path}", json=body)
            assert response.status_code == 503
            assert "secret" not in response.text


def test_a_bug_is_a_500_without_traceback():
    broken = ListedCollection("c", [], error=ZeroDivisionError("/srv/secret"))
    with serving(create_app(settings(), {"c": broken}, QuotingGenerator())) as url:
        for path, body in (("chat/completions", chat_body("x")), ("search", {"collection": "c", "query": "x"})):
            response = HTTP.post(f"{url}/v1/{path}", json=body)
            assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
            assert "secret" not in response.text
            assert "Traceback" not in response.text


def test_while_starting_and_where_too_much_is_asked(listed):
    app = create_app(settings(concurrent_requests=1))
    with serving(app) as url:
        starting = HTTP.get(f"{url}/v1/models")
        assert (starting.status_code, starting.json()["error"]["code"]) == (503, "starting")
        assert starting.headers["retry-after"]
        assert HTTP.get(f"{url}/ready").status_code == 503
        assert HTTP.get(f"{url}/health").status_code == 200
        app.state.service.open({"c": listed}, QuotingGenerator())
        listed.held.clear()
        body = {"collection": "c", "query": "x"}
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(HTTP.post, f"{url}/v1/search", json=body)
            assert listed.searching.acquire(timeout=20)
            busy = HTTP.post(f"{url}/v1/chat/completions", json=chat_body("x", stream=True))
            listed.held.set()
            assert first.result().status_code == 200
        assert (busy.status_code, busy.json()["error"]["code"]) == (503, "busy")
        assert busy.headers["retry-after"]


def test_a_generator_that_cannot_be_loaded_ends_the_command(hiperrag, built):
    status, out, errors = hiperrag("serve", built, "--port", 0, "--generator", "gguf:none.gguf")
    assert (status, out, len(errors)) == (2, "", 1), errors
    assert "none.gguf" in errors[0]


def operations(app, headers):
    """What the service's OpenAPI description says can be asked."""
    config = schemathesis.Config.from_dict({"headers": headers})
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers=headers)
    return [result.ok() for result in schema.get_all_operations()]


def fuzz(operation, mode: GenerationMode, n: int, headers: dict[str, str], pinned: bool = False) -> int:
    """Send up to n requests made up from the description, right ones or wrong ones, and check the responses.

    Made-up names of collections are of none that is there; `pinned` puts in that of one that is. Returns how many.
    """
    sent = 0

    @given(operation.as_strategy(generation_mode=mode))
    @hypothesis_settings(
        max_examples=n, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    def send(case):
        nonlocal sent
        if pinned and isinstance(case.body, dict):
            case.body |= {"model": "hiperrag/c"} | ({"collection": "c"} if "collection" in case.body else {})
        if pinned and "name" in case.path_parameters:
            case.path_parameters["name"] = "c"
        response = case.call(headers=headers)
        sent += 1
        case.validate_response(response, headers=headers)
        assert not LEAK.search(response.text)

    with contextlib.suppress(Unsatisfiable):  # a request that says nothing cannot be wrong
        send()
    return sent


def fuzz_all(served, folder, n: int, modes: Sequence[tuple[GenerationMode, bool]]) -> int:
    file = folder / "keys.json"
    headers = {"Authorization": f"Bearer {keys.add(file, 'fuzzer', None, None)}"}
    app = create_app(settings(keys_file=file, requests_per_minute=0), {"c": served}, QuotingGenerator())
    return sum(fuzz(one, mode, n, headers, pinned) for one in operations(app, headers) for mode, pinned in modes)


def test_the_description_is_true(served, tmp_path):
    assert fuzz_all(served, tmp_path, 1, [(GenerationMode.POSITIVE, True)]) >= 12


@pytest.mark.slow
def test_the_description_is_true_for_many_requests(served, tmp_path):
    modes = [(GenerationMode.POSITIVE, True), (GenerationMode.POSITIVE, False), (GenerationMode.NEGATIVE, False)]
    assert fuzz_all(served, tmp_path, 100, modes) > 1000
