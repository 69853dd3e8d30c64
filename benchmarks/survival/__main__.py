"""Strike indexing runs at random instants, and see that nothing is lost, doubled or left lying about.

    python -m hiperrag.benchmarks.survival --kills 50 --seed 1 --to benchmarks/results/workflows

A small run over sample papers and ready text is done once without disturbance, then again and again, each time with its
main process, a worker or a node killed, or with the disk full, at an instant drawn over all its stages. Runs that this
ends are started again; of those, every second is cleaned by `hiperrag doctor --clean` first. At the end passages,
search results, checksums and the list of files have to be those of the undisturbed run. Exit status 1 if any is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hiperrag.benchmarks.survival.strikes import KINDS, STRUCK, Disk
from hiperrag.benchmarks.survival.trials import NOT_STRUCK, Bench, Trial
from hiperrag.files import write_text_atomic
from hiperrag.machine import describe_machine

PAPERS = Path(__file__).resolve().parents[2] / "examples" / "papers"
SITE = """\
extends: local
description: two nodes with a worker each, one for parsing and one for encoding
pools:
  cores: null
  parsing: {workers: 1, stages: [parse, recognise, chunk]}
  encoding: {workers: 1}
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the trials, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=STRUCK, help="taken in turn")
    parser.add_argument("--papers", type=Path, default=PAPERS, help="folder of PDFs")
    parser.add_argument("--n-papers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=60, help="of ready text")
    parser.add_argument("--to", type=Path, help="folder for survival.json and survival.md, written after each trial")
    parser.add_argument("--go-on", action="store_true", help="after the trials in --to, of the same seed")
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    report: dict[str, Any] = {"machine": describe_machine(), "seed": given.seed, "trials": []}
    if given.go_on:
        report["trials"] = json.loads((given.to / "survival.json").read_text(encoding="utf-8"))["trials"]
    with tempfile.TemporaryDirectory(prefix="survival-") as scratch:
        for number, trial in enumerate(_trials(given, Path(scratch), report), len(report["trials"]) + 1):
            report["trials"].append(dataclasses.asdict(trial))
            _say(number, trial)
            if given.to:
                write_text_atomic(given.to / "survival.json", json.dumps(report, indent=1) + "\n")
                write_text_atomic(given.to / "survival.md", "\n".join(_table(report)) + "\n")
    print("\n".join(_table(report)))
    return int(any(trial["problems"] for trial in report["trials"]))


def _trials(given: argparse.Namespace, work: Path, report: dict[str, Any]) -> Iterator[Trial]:
    kinds = list(given.kinds)
    if "disk" in kinds and not Disk.is_permitted(work / "disk"):
        kinds.remove("disk")
        print("survival: this process may not mount a file system, so no disk is filled", file=sys.stderr)
    papers = sorted(given.papers.glob("*.pdf"))[: given.n_papers]
    bench = Bench(work, _write_site(work), [*papers, _write_rows(work, given.rows)])
    seconds = bench.run_undisturbed()
    facts = {"papers": len(papers), "rows": given.rows, "undisturbed_seconds": seconds, "events": len(bench.instants)}
    report |= facts
    for number in range(len(report["trials"]), given.kills):
        rng, trial = random.Random(f"{given.seed}-{number}"), None
        while trial is None or trial.ended == NOT_STRUCK:
            clean_first = number // len(kinds) % 2 == 0
            trial = bench.try_once(kinds[number % len(kinds)], bench.draw(rng), clean_first, rng)
        yield trial


def _say(number: int, trial: Trial) -> None:
    state = "; ".join(trial.problems) or "the same collection"
    print(f"{number} {trial.kind} at {trial.at:.1f} s ({trial.stages}): {trial.ended}; {state}", file=sys.stderr)


def _write_site(work: Path) -> str:
    path = work / "survival.yaml"
    path.write_text(SITE, encoding="utf-8")
    return str(path)


def _write_rows(work: Path, number: int) -> Path:
    rng, path = random.Random(0), work / "rows.jsonl"
    things = ("ore", "granite", "lichen", "copper", "sea ice", "pollen", "basalt", "plankton")
    with path.open("w", encoding="utf-8") as stream:
        for row in range(number):
            text = f"Sample {row} of {rng.choice(things)} was dried at {rng.randrange(30, 90)} degrees and weighed "
            text += f"{rng.randrange(1000) / 10} grams of {rng.choice(things)} afterwards."
            stream.write(json.dumps({"_id": f"r{row}", "text": text}) + "\n")
    return path


def _table(report: dict[str, Any]) -> Iterator[str]:
    trials = report["trials"]
    bad = [trial for trial in trials if trial["problems"]]
    yield (
        f"{len(trials)} strikes, seed {report['seed']}: {len(trials) - len(bad)} ended in the undisturbed collection "
        f"({report['undisturbed_seconds']:.0f} s undisturbed, {report['events']} events)."
    )
    resumed = [trial for trial in trials if trial["ended"] != "finished"]
    again = sum(trial["again"] for trial in resumed)
    done = sum(trial["done_before"] for trial in resumed)
    yield f"Of {done} tasks finished before a run ended, {again} were done again by {len(resumed)} reruns."
    yield ""
    yield "| kind | strikes | as undisturbed | stages in flight | seconds to the end, median |"
    yield "|---|---:|---:|---|---:|"
    for kind in dict.fromkeys(trial["kind"] for trial in trials):
        mine = [trial for trial in trials if trial["kind"] == kind]
        stages = Counter(stage for trial in mine for stage in trial["stages"].split())
        met = ", ".join(f"{stage} {number}" for stage, number in stages.most_common())
        good = sum(not trial["problems"] for trial in mine)
        median = statistics.median(trial["seconds"] for trial in mine)
        yield f"| {kind} | {len(mine)} | {good} | {met} | {median:.0f} |"
    yield ""
    yield "| # | kind | at, s | in flight | tasks done | run ended | cleaned | done again | outcome |"
    yield "|---:|---|---:|---|---:|---|---:|---:|---|"
    for number, trial in enumerate(trials, 1):
        cleaned = "" if trial["cleaned"] is None else trial["cleaned"]
        ended = trial["ended"].partition(":")[0]
        outcome = "; ".join(trial["problems"]) or "same"
        yield (
            f"| {number} | {trial['kind']} | {trial['at']:.1f} | {trial['stages']} | {trial['done_before']} | {ended} "
            f"| {cleaned} | {trial['again']} | {outcome} |"
        )


if __name__ == "__main__":
    sys.exit(main())
