"""Does attribution find the passage that an answer came from?

    python -m hiperrag.benchmarks.attribution --out DIR [--questions 100] [--seed 7] [--generator default]

Invented facts (`planted_facts`) stand in one of five passages, and half of the answers repeat the fact word for word.
Two bars: the planted passage ranks first in 95% of the questions; and in 95% taking away the passage with the largest
effect makes the answer less likely than taking away another one, drawn by chance. The second is measured afresh, as a
reader would try it: the passages that stay are shuffled and numbered anew. A third figure has the fact in a second
passage in other words: the two must come first, as one cause or one after the other. Intervals are Wilson's, 95%.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hiperrag.answering.attribution import SentenceAttribution, attribute
from hiperrag.answering.generators import load_generator
from hiperrag.answering.generators.base import Generator
from hiperrag.answering.generators.scoring import scorer
from hiperrag.answering.hits import Hit
from hiperrag.answering.prompts import answer_messages
from hiperrag.benchmarks.planted_facts import Planted, planted_questions
from hiperrag.files import write_text_atomic
from hiperrag.machine import describe_machine
from hiperrag.workflows.progress import Progress, StageProgress

BAR = 0.95
_SAVED_EVERY = 10
_GENERATORS: list[Generator] = []
"""That of this worker process."""
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one question; effects in nats."""

    question: str
    verbatim: bool
    first: bool
    planted: float
    others: list[float]
    """Effects of the other passages."""
    log_p_without_top: float
    """Of the answer, in a prompt of the other passages, shuffled."""
    log_p_without_random: float
    entropy: float | None
    cpu_s: float
    """CPU time of the attribution."""


@dataclasses.dataclass(frozen=True, slots=True)
class TwinOutcome:
    """The same question where two passages have the fact."""

    verbatim: bool
    first: bool
    """Whether both come before all others, as one cause or one after the other."""
    one_cause: bool
    alone: list[float]
    """Effect of each of the two, left out alone."""
    together: float | None
    """And both left out, where they were seen to say the same."""


def measure(planted: Planted, generator: Generator, rng: np.random.Generator) -> Outcome:
    """One question with one passage that has the fact."""
    started = time.process_time()
    [found] = attribute(planted.question, planted.hits, [planted.answer], generator).sentences
    cpu_s = time.process_time() - started
    effects = {one.ns[0]: one.effect for one in found.passages}
    top = max(effects, key=effects.__getitem__)
    other = int(rng.choice([n for n in effects if n != top]))
    without_top, without_random = _shuffled(planted, generator, (top, other), rng)
    return Outcome(
        question=planted.question,
        verbatim=planted.verbatim,
        first=found.causes[0].ns == (planted.n,),
        planted=effects.pop(planted.n),
        others=list(effects.values()),
        log_p_without_top=without_top,
        log_p_without_random=without_random,
        entropy=found.entropy,
        cpu_s=cpu_s,
    )


def measure_twins(planted: Planted, generator: Generator) -> TwinOutcome:
    """One question with two passages that have the fact."""
    [found] = attribute(planted.question, planted.twin_hits, [planted.answer], generator).sentences
    copies = _copies(planted)
    together = [group.effect for group in found.groups if set(group.ns) == copies]
    return TwinOutcome(
        verbatim=planted.verbatim,
        first=_come_first(found, copies),
        one_cause=set(found.causes[0].ns) == copies,
        alone=[one.effect for one in found.passages if one.ns[0] in copies],
        together=together[0] if together else None,
    )


def _copies(planted: Planted) -> set[int]:
    """Numbers of the two passages with the fact, among `twin_hits`."""
    return {planted.twin_n, planted.n + (planted.twin_n <= planted.n)}


def _come_first(found: SentenceAttribution, copies: set[int]) -> bool:
    """Whether the best causes are the copies, and nothing else before they are complete."""
    seen: set[int] = set()
    for cause in found.causes:
        seen |= set(cause.ns)
        if not seen <= copies:
            return False
        if seen == copies:
            return True
    return False


def _shuffled(planted: Planted, generator: Generator, ns: Sequence[int], rng: np.random.Generator) -> list[float]:
    """For each of the passages `ns`, the answer's log-probability where it is not shown and the others are shuffled."""
    order = [int(i) for i in rng.permutation(len(planted.hits))]
    shown: list[list[Hit]] = [[planted.hits[i] for i in order if i + 1 != n] for n in ns]
    conversations = [answer_messages(planted.question, hits) for hits in shown]
    log_p = {
        i: sum(token.log_p for token in tokens)
        for i, tokens in scorer(generator).score_answers(conversations, planted.answer)
    }
    return [log_p[i] for i in range(len(shown))]


def summarise(outcomes: Sequence[Outcome], twins: Sequence[TwinOutcome]) -> dict[str, Any]:
    """Shares with intervals, by kind of answer and in all, and whether both bars are met."""
    kinds = {"all": (True, False), "verbatim": (True,), "own words": (False,)}
    shares: dict[str, dict[str, dict[str, float]]] = {}
    for name, verbatim in kinds.items():
        singles = [one for one in outcomes if one.verbatim in verbatim]
        pairs = [one for one in twins if one.verbatim in verbatim]
        shares[name] = {
            "planted_first": share([one.first for one in singles]),
            "top_matters_more": share([one.log_p_without_top < one.log_p_without_random for one in singles]),
        }
        if pairs:
            shares[name]["twins_first"] = share([one.first for one in pairs])
            shares[name]["twins_are_one_cause"] = share([one.one_cause for one in pairs])
    return {
        "bar": BAR,
        "bars_met": all(shares["all"][name]["share"] >= BAR for name in ("planted_first", "top_matters_more")),
        "shares": shares,
        "cpu_s_median": float(np.median([one.cpu_s for one in outcomes])),
    }


def share(values: Sequence[bool]) -> dict[str, float]:
    """Share of true values with Wilson's 95% interval (Wilson 1927)."""
    n, p, z = len(values), sum(values) / len(values), 1.96
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (float((middle + sign * half) / (1 + z * z / n)) for sign in (-1, 1))
    return {"share": p, "low": low, "high": high, "n": n}


def main() -> None:
    """Measure, and write attribution.json and attribution.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--twins", type=int, default=20, help="of them also with the fact in two passages")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--generator", default="default")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a generator of its own")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    planted = list(planted_questions(options.questions, options.seed))
    tasks = [(number, False, one) for number, one in enumerate(planted)]
    tasks += [(number, True, one) for number, one in enumerate(planted[: options.twins])]
    outcomes: dict[int, Outcome] = {}
    twins: dict[int, TwinOutcome] = {}
    stage = StageProgress("attribute", "answers", len(tasks))
    pool = ProcessPoolExecutor(options.workers, get_context("spawn"), _load, (options.generator,))
    with Progress([stage]) as progress, pool:
        progress.begin(stage.name)
        for done in as_completed([pool.submit(_work, *task, options.seed) for task in tasks]):
            number, outcome = done.result()
            if isinstance(outcome, Outcome):
                outcomes[number] = outcome
            else:
                twins[number] = outcome
            progress.advance(stage.name, 1)
            if stage.done % _SAVED_EVERY == 0 or stage.done == stage.total:
                summary = _write(options, _in_order(outcomes), _in_order(twins))
    print(_table(summary))


def _load(spec: str) -> None:
    _GENERATORS.append(load_generator(spec))


def _work(number: int, twin: bool, planted: Planted, seed: int) -> tuple[int, Outcome | TwinOutcome]:
    [generator] = _GENERATORS
    if twin:
        return number, measure_twins(planted, generator)
    return number, measure(planted, generator, np.random.default_rng([seed, number]))


def _in_order(found: dict[int, _T]) -> list[_T]:
    return [found[number] for number in sorted(found)]


def _write(options: argparse.Namespace, outcomes: list[Outcome], twins: list[TwinOutcome]) -> dict[str, Any]:
    summary = summarise(outcomes, twins)
    report = {
        "complete": (len(outcomes), len(twins)) == (options.questions, options.twins),
        "summary": summary,
        "settings": {name: getattr(options, name) for name in ("questions", "twins", "seed", "generator", "workers")},
        "machine": describe_machine(),
        "outcomes": [dataclasses.asdict(one) for one in outcomes],
        "twins": [dataclasses.asdict(one) for one in twins],
    }
    write_text_atomic(options.out / "attribution.json", json.dumps(report, indent=1) + "\n")
    _plot(outcomes, twins, summary, options.out)
    return summary


def _table(summary: dict[str, Any]) -> str:
    lines = [f"bars {'met' if summary['bars_met'] else 'NOT met'} ({BAR})"]
    for group, shares in summary["shares"].items():
        for name, one in shares.items():
            lines.append(
                f"  {group:<10}{name:<28}{one['share']:.3f} [{one['low']:.3f}, {one['high']:.3f}]  n={one['n']}"
            )
    return "\n".join(lines)


def _plot(outcomes: Sequence[Outcome], twins: Sequence[TwinOutcome], summary: dict[str, Any], folder: Path) -> None:
    """Each question's planted passage against its best other one; shares with the bar."""
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    from hiperrag.benchmarks import pictures

    colours = {True: "#0072B2", False: "#D55E00"}
    names = {True: "answer word for word", False: "answer in words of its own"}

    def draw() -> Iterator[tuple[str, Figure]]:
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.6, 3.9), width_ratios=(1, 1, 1))
        for verbatim, name in names.items():
            found = [one for one in outcomes if one.verbatim == verbatim]
            look: dict[str, Any] = {"s": 14, "alpha": 0.75, "color": colours[verbatim], "linewidths": 0}
            left.scatter([max(one.others) for one in found], [one.planted for one in found], label=name, **look)
            paired = [one for one in twins if one.verbatim == verbatim and one.together is not None]
            middle.scatter([max(one.alone) for one in paired], [one.together for one in paired], **look)
        for ax in (left, middle):
            ax.axline((0, 0), slope=1, color="#888888", linewidth=0.8, linestyle=":")
            ax.set_xlim(-5, 30)
            ax.set_ylim(-5, 30)
        left.set_xlabel("largest effect of another passage (nats)")
        left.set_ylabel("effect of the planted passage (nats)")
        left.set_title("One passage has the fact")
        left.legend(loc="lower right")
        middle.set_xlabel("larger effect of the two, left out alone (nats)")
        middle.set_ylabel("effect of both, left out together (nats)")
        middle.set_title("Two passages have it")
        _shares(right, summary)
        figure.tight_layout()
        yield "attribution", figure

    pictures.write(draw, folder)


def _shares(ax: Any, summary: dict[str, Any]) -> None:
    labels = {
        "planted_first": "planted passage first",
        "top_matters_more": "top one matters more\nthan a random one",
        "twins_first": "both copies first",
    }
    known = {name: label for name, label in labels.items() if name in summary["shares"]["all"]}
    for place, (name, label) in enumerate(reversed(known.items())):
        one = summary["shares"]["all"][name]
        ax.errorbar(
            one["share"],
            place,
            xerr=[[max(0.0, one["share"] - one["low"])], [max(0.0, one["high"] - one["share"])]],
            fmt="o",
            color="#333333",
            capsize=3,
        )
        ax.annotate(
            f"{one['share']:.2f} (n={one['n']})", (one["share"], place), (0, 7), textcoords="offset points", ha="right"
        )
        ax.text(0.03, place + 0.18, label, transform=ax.get_yaxis_transform(), va="bottom")
    ax.axvline(BAR, color="#888888", linewidth=0.8, linestyle=":")
    ax.set_yticks([])
    ax.set_ylim(-0.5, len(labels) - 0.2)
    ax.set_xlim(0.7, 1.01)
    ax.set_xlabel("share of the questions, 95% interval (dotted: the bar)")
    ax.set_title("How often")


if __name__ == "__main__":
    main()
