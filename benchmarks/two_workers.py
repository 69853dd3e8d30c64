"""What a second worker brings to a run, beside what a second plain process brings.

    python -m hiperrag.benchmarks.two_workers PDF_DIR [--papers 12] [--rounds 3] [--out FILE.json]

Indexes the same PDFs with `hiperrag index` on one and on two workers, and with the same stage functions called one
after the other by one and by two plain processes, which share the papers out by pages beforehand. The four take turns.
For each the speedup of two over one is taken twice: of everything, start included, and from the first stage's begin to
the last one's end. The bar is that the run's efficiency, half its speedup, is at least 0.9 of that of plain processes;
two plain processes do not reach 1 where cores share a memory bus, or the machine has other work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiperrag.files import write_text_atomic
from hiperrag.machine import describe_machine

FILES_PER_PART = 2
_COMMAND = [sys.executable, "-c", "from hiperrag.cli import main; main()"]
_SITE = "extends: local\npools:\n  cores: {{workers: {}}}\n"


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one way to index all papers: of everything, and of the stages alone."""

    whole: float
    stages: float
    cpu: float
    """CPU seconds of the stages, their child processes included."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; exit status 1 if the median ratio is below the bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pdfs", type=Path, nargs="+", help="folder of PDFs")
    parser.add_argument("--papers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="result file")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.plain:
        print(json.dumps(_work_plainly(given.plain, given.pdfs)))
        return 0
    papers = _spread(sorted(given.pdfs[0].glob("*.pdf"), key=lambda path: path.stat().st_size), given.papers)
    os.environ["OMP_NUM_THREADS"] = "1"
    rounds = []
    for number in range(given.rounds):
        rounds.append(_round(papers, first=number % 4))
        print(json.dumps(rounds[-1]["ratio"]), file=sys.stderr)
    report: dict[str, Any] = {"machine": describe_machine(), "papers": [path.name for path in papers], "rounds": rounds}
    report["ratio"] = {name: statistics.median(one["ratio"][name] for one in rounds) for name in ("whole", "stages")}
    print("\n".join(_table(report)))
    if given.out:
        write_text_atomic(given.out, json.dumps(report, indent=1) + "\n")
    return int(report["ratio"]["whole"] < 0.9)


def _spread(papers: Sequence[Path], number: int) -> list[Path]:
    """So many papers of all sizes."""
    step = max(1.0, len(papers) / number)
    return [papers[int(step * at)] for at in range(min(number, len(papers)))]


def _round(papers: Sequence[Path], first: int) -> dict[str, Any]:
    """Each way once, beginning with number `first`."""
    ways = [("run", 1), ("plain", 1), ("run", 2), ("plain", 2)]
    timings: dict[str, Timing] = {}
    load = os.getloadavg()[0]
    for way, workers in ways[first:] + ways[:first]:
        with tempfile.TemporaryDirectory() as scratch:
            function = _time_run if way == "run" else _time_plain
            timings[f"{way} {workers}"] = function(Path(scratch), papers, workers)
    speedup = {
        way: {
            name: getattr(timings[f"{way} 1"], name) / getattr(timings[f"{way} 2"], name)
            for name in ("whole", "stages")
        }
        for way in ("run", "plain")
    }
    return {
        "load": load,
        "timings": {name: dataclasses.asdict(timing) for name, timing in timings.items()},
        "speedup": speedup,
        "ratio": {name: speedup["run"][name] / speedup["plain"][name] for name in ("whole", "stages")},
    }


def _time_run(scratch: Path, papers: Sequence[Path], workers: int) -> Timing:
    from hiperrag.workflows.observe import run_folders
    from hiperrag.workflows.tasklog import read_tasks

    site, root = scratch / f"workers-{workers}.yaml", scratch / "collection"
    site.write_text(_SITE.format(workers), encoding="utf-8")
    began = time.monotonic()
    subprocess.run([*_COMMAND, "index", *papers, "--to", root, "--site", site, "--quiet"], check=True)
    whole = time.monotonic() - began
    log = read_tasks(run_folders(root)[-1])
    stages = float(log.finished.max() - log.started.min())
    return Timing(whole, stages, float(log.columns["cpu_seconds"].sum()))


def _time_plain(scratch: Path, papers: Sequence[Path], processes: int) -> Timing:
    shares = _share_out(papers, processes)
    began = time.monotonic()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "hiperrag.benchmarks.two_workers", *share, "--plain", scratch / str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, share in enumerate(shares)
    ]
    told = [json.loads(process.communicate()[0]) for process in started]
    whole = time.monotonic() - began
    stages = max(one["finished"] for one in told) - min(one["started"] for one in told)
    return Timing(whole, stages, sum(one["cpu"] for one in told))


def _share_out(papers: Sequence[Path], processes: int) -> list[list[Path]]:
    """The longest first, each to the process that has least."""
    shares: list[list[Path]] = [[] for _ in range(processes)]
    loads = [0.0] * processes
    for pages, path in sorted(((_pages(path), path) for path in papers), reverse=True):
        least = loads.index(min(loads))
        shares[least].append(path)
        loads[least] += pages
    return shares


def _pages(path: Path) -> int:
    from hiperrag.parsing.reading import load_pymupdf

    with load_pymupdf().open(path) as pdf:
        return int(pdf.page_count)


def _work_plainly(root: Path, papers: Sequence[Path]) -> dict[str, float]:
    """All stages over all papers in this process."""
    from hiperrag import encoders
    from hiperrag.parsing.sources import discover
    from hiperrag.workflows import stages
    from hiperrag.workflows.settings import IndexSettings

    settings = IndexSettings()
    encoder = encoders.describe(settings.encode.encoder)
    inputs = discover([str(path) for path in papers]).inputs
    parts = [inputs[start : start + FILES_PER_PART] for start in range(0, len(inputs), FILES_PER_PART)]
    names = [stages.name_part(part, settings, encoder) for part in parts]
    started, cpu = time.time(), _cpu()
    for part, name in zip(parts, names, strict=True):
        stages.parse_part(str(root), name, part, settings)
        stages.chunk_part(str(root), name, settings, encoder)
        stages.encode_part(str(root), name, settings, encoder, 1)
    task = stages.ShardTask(
        name="00000",
        identity=stages.name_shard(names, ""),
        parts=tuple(names),
        n_inputs=tuple(map(len, parts)),
        stored=(None,) * len(parts),
        deleted="",
    )
    stages.build_shard(str(root), task, settings, encoder)
    return {"started": started, "finished": time.time(), "cpu": _cpu() - cpu}


def _cpu() -> float:
    return sum(os.times()[:4])


def _table(report: dict[str, Any]) -> list[str]:
    rounds = report["rounds"]
    lines = ["| way | whole, s | stages, s | CPU, s |", "|---|---:|---:|---:|"]
    for name in rounds[0]["timings"]:
        mine = [one["timings"][name] for one in rounds]
        medians = " | ".join(
            f"{statistics.median(one[field] for one in mine):.1f}" for field in ("whole", "stages", "cpu")
        )
        lines.append(f"| {name} | {medians} |")
    lines.append("")
    for field in ("whole", "stages"):
        speedups = {way: statistics.median(one["speedup"][way][field] for one in rounds) for way in ("run", "plain")}
        ratios = ", ".join(f"{one['ratio'][field]:.2f}" for one in rounds)
        lines += [
            f"{field}: speedup {speedups['run']:.2f} with two workers, {speedups['plain']:.2f} with two processes; "
            f"ratio {report['ratio'][field]:.2f}",
            f"(rounds: {ratios}; n = {len(rounds)}, {len(report['papers'])} PDFs)",
        ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
