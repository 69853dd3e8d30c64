"""Follow-up questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from follow_ups import BY_ITSELF, FOLLOW_UPS, FollowUp

from hiperrag.answering.conversation import completed, standalone_question
from hiperrag.answering.generators.base import Message


class Rewriter:
    """Says what it is told to, and keeps what it was asked."""

    spec = "rewriter"

    def __init__(self, says: str = "", capable: bool = True) -> None:
        self.says, self.capable = says, capable
        self.asked: list[str] = []

    def stream(self, messages: list[Message], max_tokens: int) -> Iterator[str]:
        self.asked.append(messages[-1]["content"])
        yield from self.says


HISTORY: list[Message] = [
    {"role": "system", "content": "Be nice."},
    {"role": "user", "content": "How late was the fifth transit of KSO-417?"},
    {"role": "assistant", "content": "It came 3.6 minutes late [1]."},
]


def test_a_first_question_is_taken_as_it_is() -> None:
    generator = Rewriter("something else")
    assert standalone_question([], " Why  is that? ", generator) == "Why is that?"
    assert standalone_question(HISTORY[:1], "Why is that?", generator) == "Why is that?"
    assert generator.asked == []


def test_a_capable_generator_rewrites() -> None:
    generator = Rewriter('<think>hm</think>Question: "How far away is KSO-417?"\nI hope this helps.')
    assert standalone_question(HISTORY, "How far away is it?", generator) == "How far away is KSO-417?"
    [asked] = generator.asked
    assert "Question: How late was the fifth transit of KSO-417?\nAnswer: It came 3.6 minutes late [1]." in asked
    assert "Next question: How far away is it?" in asked
    assert "Be nice" not in asked


@pytest.mark.parametrize("says", ["", "\n", "...", "word " * 500])
def test_what_is_no_question_is_not_taken(says: str) -> None:
    assert standalone_question(HISTORY, "How far away is it?", Rewriter(says)) == "How far away is it?"


def test_a_small_generator_is_not_asked() -> None:
    generator = Rewriter("nonsense", capable=False)
    assert standalone_question(HISTORY, "How far away is it?", generator) == "How far away is it? KSO-417"
    assert generator.asked == []


@pytest.mark.parametrize(
    ("questions", "question", "whole"),
    [
        (["How late was the transit of KSO-417?"], "How far away is KSO-417?", "How far away is KSO-417?"),
        (
            ["How late was the transit of KSO-417?", "How far away is it?"],
            "How old is it?",
            "How old is it? far away KSO-417",
        ),
        (["Which animals dance?"], "Why?", "Why? animals dance"),
        (["Which animals dance?"], "What do they eat in winter?", "What do they eat in winter? animals dance"),
        (["How late was the transit of KSO-417?"], "And in the r band?", "And in the r band? late transit KSO-417"),
        (
            ["How late was the transit of KSO-417?"],
            "Which additive raises the capacity of lithium cells?",
            "Which additive raises the capacity of lithium cells?",
        ),
        (["?!"], "Why?", "Why?"),
    ],
)
def test_questions_are_completed(questions: list[str], question: str, whole: str) -> None:
    assert completed(questions, question) == whole


@pytest.mark.slow
def test_completed_follow_ups_find_more_and_other_questions_no_less(examples: Path, tmp_path: Path, in_process) -> None:
    from collection_helpers import index

    from hiperrag.answering.retrieval import Retriever

    index(examples, tmp_path / "c")
    retriever = Retriever(tmp_path / "c")
    rows = (examples.parent / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = {row["_id"]: row["question"] for row in map(json.loads, rows)}

    def reciprocal_rank(follow_ups: tuple[FollowUp, ...], complete: bool) -> float:
        questions = [completed([asked[one.first]], one.question) if complete else one.question for one in follow_ups]
        total = 0.0
        for one, hits in zip(follow_ups, retriever.search(questions, 10, quality="exact"), strict=True):
            total += next((1 / hit.rank for hit in hits if answers(one, hit.passage)), 0.0)
        return total / len(follow_ups)

    def answers(one: FollowUp, passage) -> bool:
        return passage.document.endswith(one.document) and one.gold in " ".join(passage.text.split())

    assert reciprocal_rank(FOLLOW_UPS, complete=True) > reciprocal_rank(FOLLOW_UPS, complete=False) + 0.1
    assert reciprocal_rank(BY_ITSELF, complete=True) == reciprocal_rank(BY_ITSELF, complete=False)
