"""One question through every arm: retrieval, prompts, answers, cost. A record depends on its own question alone."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

from hiperrag.answering.generators import Generator, Message
from hiperrag.answering.generators.local import LocalGenerator
from hiperrag.answering.hits import Hit
from hiperrag.answering.retrieval import Retriever
from hiperrag.benchmarks.evaluation.answers import LETTERS
from hiperrag.benchmarks.evaluation.items import Item
from hiperrag.benchmarks.evaluation.likelihood import OptionScorer
from hiperrag.benchmarks.evaluation.prompting import Prompts
from hiperrag.benchmarks.evaluation.protocols import CLOSED, ORACLE, RAG, Answering, Given, Protocol
from hiperrag.errors import UserError
from hiperrag.workflows.metering import energy_joules

DEPTH = 10
"""Passages retrieved at least, so that "was the source retrieved" is known for a few numbers of them."""
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Asking:
    """How to ask, whatever the question."""

    protocol: Protocol
    answering: Answering
    arms: tuple[str, ...]
    n_passages: tuple[int, ...]
    """One RAG arm for each number of passages."""
    best_last: bool = False
    """Whether the best passage stands next to the question rather than first."""
    chat: bool = False
    """Whether options are scored after the model's chat form rather than after plain text."""
    seed: int = 0
    search: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options of `Retriever.search`."""


class Asker:
    """Asks questions of a generator, with passages of a collection where an arm wants them."""

    def __init__(self, how: Asking, prompts: Prompts, generator: Generator, retriever: Retriever | None) -> None:
        self._how, self._prompts, self._generator, self._retriever = how, prompts, generator, retriever
        self._scorer = OptionScorer(generator) if isinstance(generator, LocalGenerator) else None
        if how.answering != "generation" and self._scorer is None:
            raise UserError(f"{generator.spec} gives no log-likelihoods; use --answer generation")
        if RAG in how.arms and retriever is None:
            raise UserError("the RAG arm needs --collection; or leave it out: --arms closed-book,oracle")
        if self._scorer is not None and how.chat and how.answering != "generation":
            examples = [self._local().prompt([{"role": "user", "content": text}]) for text in ("Why?", "How?")]
            self._scorer.read_head(examples, chat=True)

    def ask(self, item: Item) -> Record:
        """The record of one question: what was retrieved, asked and answered, and what it cost.

        Prompts of several arms may begin alike (1 passage, then 5): the later ones are read from there on only.
        """
        how = self._how
        if self._scorer is not None:
            self._scorer.forget()
        asked = how.protocol.arrange(item, how.seed)
        record: Record = {
            "item_id": asked.item_id,
            "question": asked.question,
            "options": list(asked.options),
            "gold": asked.gold,
            "sources": list(asked.sources),
        }
        hits: list[Hit] = []
        if RAG in how.arms and self._retriever is not None:
            with _metered(record, "retrieval_cost"):
                depth = max(DEPTH, *how.n_passages)
                hits = self._retriever.search([how.protocol.query(asked, self._prompts)], depth, **how.search)[0]
            record["hits"] = [hit.to_json() for hit in hits]
        record["arms"] = {
            name: self._answered(asked, given) for name, given in self._arms(asked, hits) if given is not None
        }
        return record

    def _arms(self, item: Item, hits: Sequence[Hit]) -> Iterator[tuple[str, list[Given] | None]]:
        """Each arm's name and passages; None where the question has none to give."""
        for arm in self._how.arms:
            if arm == CLOSED:
                yield arm, []
            elif arm == ORACLE:
                yield arm, self._how.protocol.oracle(item)
            else:
                for n in self._how.n_passages:
                    yield f"{RAG}@{n}", [Given(hit.passage.text, hit.passage.title, hit.score) for hit in hits[:n]]

    def _answered(self, item: Item, given: list[Given]) -> Record:
        """One arm's part of the record; the worst passages go where the window is too small for all."""
        arm: Record = {}
        with _metered(arm, "cost"):
            prompt = self._prompt(item, given)
            while len(given) > 1 and not self._fits(prompt):
                given = given[:-1]
                prompt = self._prompt(item, given)
            arm |= {"n_passages": len(given), "prompt": prompt}
            arm |= self._generated(item, prompt) if isinstance(prompt, list) else self._scored(item, prompt)
        if self._scorer is not None and self._scorer.on_gpu:
            arm["cost"]["gpu_s"] = arm["cost"]["wall_s"]
        return arm

    def _prompt(self, item: Item, given: list[Given]) -> str | list[Message]:
        """Plain text for scoring, messages for generation."""
        how = self._how
        ordered = given[::-1] if how.best_last else given
        text = how.protocol.prompt(item, ordered, how.answering, self._prompts)
        messages: list[Message] = [{"role": "user", "content": text}]
        if how.answering != "generation":
            return self._local().prompt(messages) if how.chat else text
        system = how.protocol.system(self._prompts)
        return [{"role": "system", "content": system}, *messages] if system else messages

    def _fits(self, prompt: str | list[Message]) -> bool:
        if self._scorer is None:
            return True
        text = self._local().prompt(prompt) if isinstance(prompt, list) else prompt
        return self._scorer.count(text) + max(64, self._how.protocol.max_tokens) <= self._scorer.window

    def _scored(self, item: Item, prompt: str) -> Record:
        """By the log-likelihood of each option's text or letter; acc_norm divides by the number of characters."""
        assert self._scorer is not None
        names = item.options if self._how.answering == "cloze" else tuple(LETTERS[: len(item.options)])
        space = "" if self._how.chat else " "
        scored = self._scorer.score(prompt, [space + name for name in names], chat=self._how.chat)
        best = _argmax(scored.log_likelihoods)
        normed = _argmax([score / len(name) for score, name in zip(scored.log_likelihoods, names, strict=True)])
        return {
            "scores": [round(score, 6) for score in scored.log_likelihoods],
            "answer": best,
            "correct": best == item.gold,
            "answer_norm": normed,
            "correct_norm": normed == item.gold,
            "truncated": scored.truncated,
            "n_tokens": scored.n_tokens,
            "n_generated": 0,
        }

    def _generated(self, item: Item, messages: list[Message]) -> Record:
        """By a reply, parsed as the protocol says; `answer` is null for one that is none."""
        stream = self._generator.stream(messages, self._how.protocol.max_tokens)
        reply = "".join(stream)
        answer, correct = self._how.protocol.judge(reply, item)
        n_prompt = self._scorer.count(self._local().prompt(messages)) if self._scorer else None
        return {
            "reply": reply,
            "finish": getattr(stream, "finish", None),
            "answer": answer,
            "correct": correct,
            "n_tokens": n_prompt,
            "n_generated": getattr(stream, "n_tokens", None),
        }

    def _local(self) -> LocalGenerator:
        if not isinstance(self._generator, LocalGenerator):
            raise UserError(f"{self._generator.spec} runs elsewhere: its chat form is not known here")
        return self._generator


def _argmax(scores: Sequence[float]) -> int:
    """The first of the best."""
    return max(range(len(scores)), key=lambda i: (scores[i], -i))


@contextlib.contextmanager
def _metered(record: Record, name: str) -> Iterator[None]:
    """Put what the block cost into record[name]: seconds, and joules of the host (null where nothing meters them)."""
    wall, cpu, energy = time.perf_counter(), time.process_time(), energy_joules()
    yield
    after = energy_joules()
    record[name] = {
        "wall_s": round(time.perf_counter() - wall, 4),
        "cpu_s": round(time.process_time() - cpu, 6),
        "gpu_s": None,
        "joules": None if energy is None or after is None else round(after - energy, 3),
    }
