"""`hiperrag train questions` and `hiperrag train mine`: pairs from a collection, and negatives for pairs."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from hiperrag.cli.stopping import exit_status, heed_sigterm
from hiperrag.errors import UserError

_REPORT_SECONDS = 15.0
_NOT_LEFT_OUT = frozenset({"passages", "searched", "written"})

OutOption = Annotated[
    Path,
    typer.Option(metavar="FILE.jsonl", help="Pairs to write; the same command goes on where it was stopped."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress display.")]


def questions(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION", help="The passages to ask about.")],
    out: OutOption,
    generator: Annotated[
        str, typer.Option(metavar="SPEC", help="default, hf:DIR_OR_NAME, gguf:FILE or openai:BASE_URL#MODEL.")
    ] = "default",
    per_passage: Annotated[int, typer.Option(metavar="N", help="Questions about each passage, 1 to 3.")] = 1,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Passages asked about, spread over documents [all].")
    ] = None,
    round_trip: Annotated[
        int, typer.Option(metavar="K", min=1, help="A question has to find its passage among the K best results.")
    ] = 3,
    seed: Annotated[int, typer.Option(help="Of the choice of passages.")] = 0,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, help="Requests to a server at a time.")] = 8,
    quiet: QuietOption = False,
) -> None:
    """Have a generator write questions that the passages of a collection answer, as pairs for `hiperrag train`.

    Kept are questions that are understood without the passage and find it again in the collection. A card of what
    was asked, left out and kept is written beside the pairs.
    """
    from hiperrag.training_data.questions import QuestionSettings, write_questions

    settings = QuestionSettings(per_passage, limit, seed, round_trip)
    progress: dict[str, Progress] = {}

    def say(unit: str, done: int, total: int) -> None:
        progress.setdefault(unit, Progress(unit, quiet))(done, total)

    with _Interruptible():
        card = write_questions(collection, out, generator, settings, concurrency=concurrency, say=say)
    counts = card["counts"]
    print(f"{out}: {counts['written']} pairs from {counts['passages']} passages", file=sys.stderr)
    left_out = [f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if name not in _NOT_LEFT_OUT and n]
    if left_out:
        print(f"left out: {', '.join(left_out)}", file=sys.stderr)


def mine(
    pairs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PAIRS... [COLLECTION]",
            help="Files of pairs, or of text to make pairs of, as for `hiperrag train --pairs`; last, the collection "
            "to search. Without one, negatives are other pairs' positives.",
        ),
    ],
    out: OutOption,
    negatives: Annotated[int, typer.Option(metavar="N", help="Of each pair, at most.")] = 4,
    depth: Annotated[int, typer.Option(metavar="D", help="Passages of a query's results that are looked at.")] = 50,
    margin: Annotated[
        float, typer.Option(metavar="M", help="The most a negative may score, as a share of the positive's score.")
    ] = 0.95,
    unfound: Annotated[
        str, typer.Option(metavar="keep|drop", help="Pairs whose positive is not among the D best.")
    ] = "keep",
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="To search with, where no COLLECTION is given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the pairs that are made of text.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Add hard negatives to pairs: passages that a search ranks high for the query and that do not answer it.

    Left out are passages of the positive's document, near-duplicates of the positive, passages that contain the query,
    and those that score too close to the positive. Pairs that have negatives keep them.
    """
    from hiperrag.training_data.mining import MineSettings, Unfound
    from hiperrag.training_data.mining import mine as run

    if unfound not in ("keep", "drop"):
        raise UserError(f"--unfound {unfound}: choose keep or drop")
    files, collection = _split(pairs)
    settings = MineSettings(negatives, depth, margin, cast(Unfound, unfound))
    with _Interruptible():
        card = run(
            files, collection, out, settings, encoder=encoder, seed=seed, quiet=quiet, say=Progress("pairs", quiet)
        )
    counts = card["pairs"]
    print(
        f"{out}: {counts['written']} pairs, {card['candidates']['taken']} negatives; "
        f"{counts['positive_not_found']} positives not found, {counts['without_negatives']} pairs without a negative",
        file=sys.stderr,
    )
    left_out = ", ".join(
        f"{n} {reason.replace('_', ' ')}" for reason, n in card["candidates"].items() if reason != "taken"
    )
    print(f"passages left out: {left_out}", file=sys.stderr)


def _split(given: list[Path]) -> tuple[list[Path], Path | None]:
    """Files, and the collection if the last argument is one."""
    files, last = given[:-1], given[-1]
    if last.is_file():
        return given, None
    if not files:
        raise UserError(f"no such file of pairs: {last}")
    return files, last


class _Interruptible:
    """Ctrl-C and SIGTERM within this context end the command with one line that says how to go on."""

    def __enter__(self) -> None:
        heed_sigterm()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> Literal[False]:
        if isinstance(error, KeyboardInterrupt):
            command = shlex.join(["hiperrag", *sys.argv[1:]])
            print(f"\nhiperrag: interrupted; what was done is kept, go on with `{command}`", file=sys.stderr)
            raise typer.Exit(exit_status(error)) from None
        return False


class Progress:
    """Done, rate and time left: one line rewritten on a terminal, one every 15 seconds elsewhere."""

    def __init__(self, unit: str, quiet: bool) -> None:
        self._unit, self._quiet = unit, quiet
        self._first: tuple[int, float] | None = None
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        from hiperrag.workflows.progress import duration

        now = time.monotonic()
        first, started = self._first = self._first or (done, now)
        terminal, end = sys.stderr.isatty(), done == total
        if self._quiet or not (terminal or end or now - self._last >= _REPORT_SECONDS):
            return
        self._last = now
        line = f"{done} of {total} {self._unit}"
        if done > first:
            rate = (done - first) / max(now - started, 1e-3)
            line += f", {rate:.2g}/s, {duration((total - done) / rate)} left"
        print(f"\r{line}" if terminal else line, end="" if terminal and not end else "\n", file=sys.stderr, flush=True)
