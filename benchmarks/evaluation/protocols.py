"""Protocols: what a question becomes before a model sees it, and how its reply is judged.

- `sound`: all options, shuffled by seed; retrieval by the bare question; closed-book, RAG and oracle arms.
- `lm-eval`: lm-evaluation-harness's SciQ (v1.0) and PubMedQA: gold text given, options scored as continuations.
- `mirage`: PubMedQA as in MIRAGE (Xiong et al. 2024): no contexts, question-only retrieval, reasoning, then an answer.
- `paper`: the quirks of the public code behind arXiv 2505.04846, for comparison only: SciQ's right answer is always
  first and its fourth option dropped; PubMedQA's gold abstract is part of the question; retrieval takes the whole
  prompt; predictions are lower-cased and gold answers are not.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Literal

from hiperrag.benchmarks.evaluation.answers import LETTERS, json_answer, letter_answer, paper_answer
from hiperrag.benchmarks.evaluation.items import Item
from hiperrag.benchmarks.evaluation.prompting import Prompts
from hiperrag.errors import UserError

CLOSED, RAG, ORACLE = "closed-book", "rag", "oracle"
Answering = Literal["cloze", "letters", "generation"]
"""Options' texts scored as continuations, their letters scored as continuations, or a generated reply."""


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """A passage for a prompt."""

    text: str
    title: str = ""
    score: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Protocol:
    """One way of asking; `sound` unless a method says otherwise."""

    name: str = "sound"
    tasks: tuple[str, ...] = ()
    """Tasks it is defined for; empty for all."""
    arms: tuple[str, ...] = (CLOSED, RAG, ORACLE)
    answering: tuple[Answering, ...] = ("cloze", "letters", "generation")
    """How it may be answered; the first is meant where none is named."""
    max_tokens: int = 16
    """Of a generated reply."""

    def check(self, task: str, answering: str | None, arms: Sequence[str]) -> Answering:
        """How to answer; UserError for what the protocol does not define."""
        if self.tasks and task not in self.tasks:
            raise UserError(f"--protocol {self.name} is defined for {' and '.join(self.tasks)} only, not for {task}")
        for arm in arms:
            if arm not in self.arms:
                raise UserError(f"--arms {arm}: protocol {self.name} has {', '.join(self.arms)}")
        for known in self.answering:
            if answering in (None, known):
                return known
        raise UserError(f"--answer {answering}: protocol {self.name} takes {', '.join(self.answering)}")

    def arrange(self, item: Item, seed: int) -> Item:
        """The item with the options it is asked with, in their order: a permutation of its own for each item."""
        order = list(range(len(item.options)))
        random.Random(f"{seed}:{item.item_id}").shuffle(order)
        return item.reordered(order)

    def oracle(self, item: Item) -> list[Given] | None:
        """The passages of the oracle arm; None for an item that has no gold text, which the arm then leaves out."""
        return [Given(item.support)] if item.support.strip() else None

    def query(self, item: Item, prompts: Prompts) -> str:
        """What is searched for."""
        del prompts
        return item.question

    def system(self, prompts: Prompts) -> str:
        """The system message of a generated reply; empty for none."""
        return prompts.fill("generation_system")

    def prompt(self, item: Item, given: Sequence[Given], answering: Answering, prompts: Prompts) -> str:
        """The prompt, up to where the answer begins."""
        return prompts.fill(
            answering, question=item.question, options=lettered(item), passages=passages(given, prompts)
        )

    def judge(self, reply: str, item: Item) -> tuple[int | None, bool]:
        """The option a generated reply names, if any, and whether it counts as right."""
        answer = letter_answer(reply, item)
        return answer, answer == item.gold


class LmEval(Protocol):
    """Prompts and options as the harness has them."""

    def arrange(self, item: Item, seed: int) -> Item:
        """Options in the harness's order, which is that of the task files."""
        del seed
        return item

    def oracle(self, item: Item) -> list[Given] | None:
        """Every item is asked, without gold text where it has none."""
        return [Given(item.support)]

    def prompt(self, item: Item, given: Sequence[Given], answering: Answering, prompts: Prompts) -> str:
        """The gold text, the question, and "Answer:"."""
        del answering
        name = f"lm-eval_{item.item_id.partition(':')[0]}"
        return prompts.fill(name, question=item.question, support=given[0].text)


class Mirage(Protocol):
    """Reasoning and an option's letter, in JSON."""

    def arrange(self, item: Item, seed: int) -> Item:
        """A. yes, B. no, C. maybe."""
        del seed
        return item

    def system(self, prompts: Prompts) -> str:
        """Says what to reply."""
        return prompts.fill("mirage_system")

    def prompt(self, item: Item, given: Sequence[Given], answering: Answering, prompts: Prompts) -> str:
        """Passages, question, options."""
        del answering
        return prompts.fill("mirage", question=item.question, options=lettered(item), passages=passages(given, prompts))

    def judge(self, reply: str, item: Item) -> tuple[int | None, bool]:
        """By `answer_choice`."""
        answer = json_answer(reply, item)
        return answer, answer == item.gold


class Paper(Protocol):
    """The published quirks."""

    def arrange(self, item: Item, seed: int) -> Item:
        """SciQ: right answer first, then the first two distractors. PubMedQA: yes, no, maybe."""
        del seed
        if item.item_id.startswith("sciq:"):
            return item.reordered([item.gold, 0, 1])
        return item

    def query(self, item: Item, prompts: Prompts) -> str:
        """The question as asked, with its options (and, for PubMedQA, its gold abstract)."""
        mark = "" if item.question.endswith("?") else "?"
        options = "\n".join(f"{n}. {option}" for n, option in enumerate(item.options, start=1))
        name = f"paper_{item.item_id.partition(':')[0]}"
        return prompts.fill(name, question=item.question + mark, options=options, support=item.support)

    def system(self, prompts: Prompts) -> str:
        """None."""
        del prompts
        return ""

    def prompt(self, item: Item, given: Sequence[Given], answering: Answering, prompts: Prompts) -> str:
        """The query, after passages with their scores where there are any."""
        del answering
        question = self.query(item, prompts)
        if not given:
            return prompts.fill("paper_closed-book", question=question)
        return prompts.fill("paper", question=question, passages=passages(given, prompts, "paper_passage"))

    def judge(self, reply: str, item: Item) -> tuple[int | None, bool]:
        """By the whole reply in lower case against the gold answer as it is written."""
        said = paper_answer(reply)
        options = [option.lower() for option in item.options]
        return options.index(said) if said in options else None, said == item.options[item.gold]


def lettered(item: Item) -> str:
    """The options, a line each."""
    return "\n".join(f"{LETTERS[n]}. {option}" for n, option in enumerate(item.options))


def passages(given: Sequence[Given], prompts: Prompts, name: str = "passage") -> str:
    """The passages of a prompt, a line feed after each."""
    fill: Callable[..., str] = prompts.fill
    return "".join(
        fill(name, n=n, title=passage.title, text=passage.text.strip(), score=passage.score) + "\n"
        for n, passage in enumerate(given, start=1)
    )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(),
        LmEval("lm-eval", ("sciq", "pubmedqa"), (ORACLE,), ("cloze",)),
        Mirage("mirage", ("pubmedqa",), (CLOSED, RAG), ("generation",), max_tokens=512),
        Paper("paper", ("sciq", "pubmedqa"), (CLOSED, RAG), ("generation",), max_tokens=64),
    )
}
