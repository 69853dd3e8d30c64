"""`POST /v1/attributions`, over a collection and a generator that are stand-ins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from answering_helpers import make_hits
from fastapi.testclient import TestClient
from service_helpers import ListedCollection, QuotingGenerator

from hiperrag.answering.generators.base import Message
from hiperrag.answering.generators.scoring import TokenScore
from hiperrag.service.app import create_app
from hiperrag.service.settings import ServiceSettings

TEXTS = ["Bees dance.", "Whales sing in winter.", "Terns migrate."]


class Scorer(QuotingGenerator):
    """A word is likely where a passage has it."""

    def score_answers(
        self, conversations: Sequence[list[Message]], answer: str
    ) -> Iterator[tuple[int, list[TokenScore]]]:
        for i, messages in enumerate(conversations):
            shown = messages[-1]["content"].rpartition("Question:")[0]
            ends = [at for at, character in enumerate(f"{answer} ") if character == " "]
            words = zip(answer.split(" "), ends, strict=True)
            yield i, [TokenScore(word, end, -1.0 if word.strip(".") in shown else -6.0, 2.0) for word, end in words]


def client(generator: QuotingGenerator) -> TestClient:
    settings = ServiceSettings(collections={"c": "c"}, requests_per_minute=0)
    app = create_app(settings, {"c": ListedCollection("c", TEXTS)}, generator)
    passages = {hit.passage.passage_id: SimpleNamespace(passage=hit.passage) for hit in make_hits(TEXTS)}
    app.state.reading = SimpleNamespace(catalogue=lambda served: SimpleNamespace(find=passages.get), close=lambda: None)
    return TestClient(app, base_url="http://127.0.0.1")


def body(**changes: Any) -> dict[str, Any]:
    whole = {"model": "hiperrag/c", "question": "Who sings?", "answer": "Whales sing in winter [2]. Bees dance [1]."}
    return whole | {"passages": ["p1", "p2", "p3"]} | changes


def test_the_sentences_have_their_causes() -> None:
    reply = client(Scorer("hf:/home/somebody/model")).post("/v1/attributions", json=body())
    assert reply.status_code == 200
    found = reply.json()
    assert found["generator"] == "hf:model"
    assert [one["text"] for one in found["sentences"]] == ["Whales sing in winter [2].", "Bees dance [1]."]
    first, second = found["sentences"]
    assert first["causes"][0] == {"ns": [2], "effect": 20.0}
    assert first["entropy"] == 2.0
    assert second["causes"][0] == {"ns": [1], "effect": 10.0}
    assert second["log_p_no_context"] == second["log_p"] - 10
    assert [one["passage_id"] for one in first["passages"]] == ["p1", "p2", "p3"]


def test_sentences_may_be_given_one_by_one() -> None:
    reply = client(Scorer()).post("/v1/attributions", json=body(answer=["Whales sing. Bees dance [1]."]))
    assert reply.status_code == 200, reply.text
    assert [one["text"] for one in reply.json()["sentences"]] == ["Whales sing. Bees dance [1]."]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"passages": ["p1", "p9"]}, 404, "passage_not_found"),
        ({"passages": []}, 422, "invalid_request"),
        ({"answer": " "}, 422, "invalid_request"),
        ({"answer": "[1]"}, 422, "attribution_unavailable"),
        ({"question": ""}, 422, "invalid_request"),
        ({"model": "hiperrag/other"}, 404, "collection_not_found"),
    ],
)
def test_what_cannot_be_attributed_is_refused(changes: dict[str, Any], status: int, code: str) -> None:
    reply = client(Scorer()).post("/v1/attributions", json=body(**changes))
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_a_generator_without_log_probabilities_is_refused() -> None:
    reply = client(QuotingGenerator()).post("/v1/attributions", json=body())
    assert reply.status_code == 422
    error = reply.json()["error"]
    assert error["code"] == "attribution_unavailable"
    assert "no log-probabilities" in error["message"]
