"""`hiperrag eval`: how good retrieval and answers are, on a task's questions, with intervals and paired tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hiperrag.cli.searching import ExactOption, HybridOption, QualityOption, searching
from hiperrag.errors import UserError


def eval(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="sciq, pubmedqa, choice (a file of your own) or beir.")
    ] = None,
    collection: Annotated[Path | None, typer.Option(metavar="C", help="Collection to retrieve from.")] = None,
    generator: Annotated[
        str, typer.Option(metavar="SPEC", help="default, hf:DIR_OR_NAME, gguf:FILE or openai:BASE_URL#MODEL.")
    ] = "default",
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="The task's files, or `hub` to download.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the task [default: its development split].")] = None,
    protocol: Annotated[str, typer.Option(help="sound, lm-eval, mirage or paper.")] = "sound",
    arms: Annotated[
        str | None, typer.Option(metavar="A,B", help="Of closed-book, rag, oracle [default: all that can be had].")
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(help="cloze (likelihood of the options), letters (of their letters) or generation."),
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option("-k", min=1, max=50, help="Passages given; again for more arms.")
    ] = None,
    best_last: Annotated[bool, typer.Option("--best-last", help="The best passage next to the question.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Score options after the model's chat form.")] = False,
    prompts: Annotated[Path | None, typer.Option(metavar="DIR", help="Prompt files that replace ours.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="A seeded random sample of N.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample and of the options' order.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the run; the same command goes on where it stands.")
    ] = None,
    site: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.yaml", help="Spread the questions over a site's workers.")
    ] = None,
    leakage: Annotated[bool, typer.Option(help="Look for the questions in the collection.")] = True,
    exact: ExactOption = False,
    quality: QualityOption = None,
    hybrid: HybridOption = False,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Compare two runs' folders instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate retrieval and answers on a task, or compare two evaluations."""
    if (task is None) == (compare is None):
        raise UserError("give either a TASK (sciq, pubmedqa, choice, beir) or --compare A B")
    if compare is not None:
        from hiperrag.benchmarks.evaluation.compare import compare as compare_runs

        found = compare_runs(*compare)
        typer.echo(json.dumps(found, ensure_ascii=False) if as_json else _comparison(found))
        return
    how = searching(exact, quality, None, hybrid)
    from hiperrag.benchmarks.evaluation.evaluate import Request, evaluate

    assert task is not None
    request = Request(
        task=task,
        data=data,
        split=split,
        collection=collection,
        generator=generator,
        protocol=protocol,
        arms=tuple(arm.strip() for arm in arms.split(",")) if arms else (),
        answering=answer,
        n_passages=tuple(k or (5,)),
        best_last=best_last,
        chat=chat,
        leakage=leakage,
        prompts=prompts,
        limit=limit,
        seed=seed,
        out=out,
        site=site,
        search={"quality": how.quality, "hybrid": how.hybrid},
    )
    folder, results = evaluate(request, _Progress())
    typer.echo(json.dumps(results, ensure_ascii=False) if as_json else _summary(results))
    print(f"{folder}: items.jsonl, results.json, report.html", file=sys.stderr)


class _Progress:
    """One line on a terminal's standard error, rewritten; every hundredth question elsewhere."""

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {total} questions", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif done % 100 == 0 or done == total:
            print(f"{done} of {total} questions", file=sys.stderr, flush=True)


def _summary(results: dict[str, Any]) -> str:
    from hiperrag.benchmarks.evaluation.report import arm_table, interval

    if "figures" in results:
        means = [(name, interval(value)) for name, value in results["figures"].items()]
        return _aligned([("figure", "mean [95%]"), *means])
    header, rows = arm_table(results)
    lines = [_aligned([header, *rows])]
    if results["majority"]:
        lines.append(f"always {results['majority']['label']!r}: {results['majority']['accuracy']:.3f}")
    for name, arm in (results["calibrated"] or {"arms": {}})["arms"].items():
        lines.append(f"calibrated {name}: {interval(arm['accuracy'])}, macro-F1 {interval(arm['macro_f1'])}")
    if results["retrieval"]:
        found = results["retrieval"]
        lines.append(f"the collection {found['corpus']}")
        lines += [f"  {name} {interval(value)}" for name, value in found.items() if isinstance(value, dict)]
    lines += [_compared(one) for one in results["comparisons"]]
    if results["leakage"]:
        from hiperrag.benchmarks.evaluation.leakage import KINDS

        leaks = [(kind.replace("_", " "), results["leakage"][kind]) for kind in KINDS]
        counts = (f"{count['contained']} of {count['checked']} {kind}" for kind, count in leaks)
        lines.append(f"in the collection: {', '.join(counts)}")
    return "\n".join(lines)


def _comparison(found: dict[str, Any]) -> str:
    lines = [f"a = {found['a']}", f"b = {found['b']}"]
    for one in found["comparisons"]:
        lines.append(_compared(one) if "mcnemar" in one else _figure_compared(one))
    return "\n".join(lines)


def _compared(one: dict[str, Any]) -> str:
    from hiperrag.benchmarks.evaluation.report import interval

    tested = (
        f"bootstrap p {one['difference']['p']:.2g}, McNemar p {one['mcnemar']['p']:.2g}" if one["n"] else "no items"
    )
    name = one["a"] if one["a"] == one["b"] else f"{one['b']} - {one['a']}"
    return f"{name}: {interval(one['difference'])} over {one['n']} questions ({tested})"


def _figure_compared(one: dict[str, Any]) -> str:
    from hiperrag.benchmarks.evaluation.report import interval

    figures = f"{one['a']:.3f} -> {one['b']:.3f}, {interval(one['difference'])}"
    return f"{one['figure']}: {figures} over {one['n']} queries (bootstrap p {one['difference']['p']:.2g})"


def _aligned(rows: list[Any]) -> str:
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
