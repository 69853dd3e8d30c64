"""Our late-interaction index and its peers on the same token vectors, taking turns.

    python -m hiperrag.benchmarks.late_interaction --data DEVELOPMENT_DATA --work DIR --out benchmarks/results
    python -m hiperrag.benchmarks.late_interaction --vectors VECTORS_DIR --sizes 3000 all --growth 10000 100000 1000000

Peers come from `benchmarks/install_peers.sh late-interaction`. Truth and built indexes stay in --work and are used
again. Writes late_interaction.json, late_interaction.md and pictures to --out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hiperrag.benchmarks.late_interaction.bars import bars
from hiperrag.benchmarks.late_interaction.engines import choose
from hiperrag.benchmarks.late_interaction.growing import measure_growth
from hiperrag.benchmarks.late_interaction.growth import NOISE
from hiperrag.benchmarks.late_interaction.measure import Plan, measure_corpus, say
from hiperrag.benchmarks.late_interaction.report import markdown
from hiperrag.benchmarks.late_interaction.vectors import TokenVectors, make_vectors, read_vectors
from hiperrag.errors import UserError
from hiperrag.machine import describe_machine
from hiperrag.models import DEFAULT_ENCODER


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; exit code 2 and one line where the arguments are unusable."""
    given = _parser().parse_args(arguments)
    try:
        report = json.loads(given.redraw.read_text(encoding="utf-8")) if given.redraw else run(given)
        report["bars"] = bars(report)
        write(report, given.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hiperrag.benchmarks.late_interaction",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--vectors", type=Path, help="vectors folder (see vectors.py)")
    source.add_argument("--data", type=Path, help="folder with BEIR folders and PubMedQA files to encode")
    source.add_argument("--redraw", type=Path, metavar="JSON", help="only write table and pictures of earlier results")
    parser.add_argument(
        "--encoder", default=DEFAULT_ENCODER, help="packaged model or folder, with --data (default: %(default)s)"
    )
    parser.add_argument("--dim", type=int, default=128, help="dimensions after rotation, with --data (default: 128)")
    parser.add_argument("--limit", type=int, help="at most this many passages and queries, with --data")
    parser.add_argument(
        "--work", type=Path, default=Path("late-interaction-work"), help="indexes and truth are kept here"
    )
    parser.add_argument("--out", type=Path, default=Path("late-interaction-results"), help="results are written here")
    parser.add_argument("--sizes", nargs="*", default=["3000", "all"], help="passages, or all (default: 3000 all)")
    parser.add_argument(
        "--growth", nargs="*", type=int, default=[], help="passages of grown, synthetic corpora, ours only"
    )
    parser.add_argument("--growth-noise", type=float, default=NOISE, help=f"norm of their noise (default: {NOISE})")
    parser.add_argument("--growth-queries", type=int, default=50, help="default: 50")
    parser.add_argument("--engines", nargs="*", default=[], help="only engines whose names begin so (default: all)")
    parser.add_argument("--queries", type=int, default=200, help="default: 200")
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns; each answers its share of the queries (default: 5)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of builds and batches (default: 2)")
    parser.add_argument("--build-limit", type=int, default=480, help="CPU-seconds (default: 480)")
    parser.add_argument("--rebuild", nargs="*", default=[], metavar="ENGINE", help="build these again (names begin so)")
    parser.add_argument("--growth-limit", type=int, default=3600, help="CPU-seconds, for grown corpora (default: 3600)")
    parser.add_argument("--peers", type=Path, default=Path(".peers"), help="folder of the peers' environments")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    engines = choose(given.engines)
    vectors = _vectors(given)
    plan = _plan(given, vectors, given.queries, given.build_limit)
    corpora = []
    for size in _sizes(given.sizes, vectors.n_passages):
        say(f"{size:,} passages")
        corpora.append(measure_corpus(plan, size, engines))
    grown = []
    if given.growth:
        growth_plan = _plan(given, vectors, given.growth_queries, given.growth_limit)
        growing = [engine for engine in engines if engine.grows]
        grown = measure_growth(growth_plan, given.growth, growing, given.growth_noise, given.seed)
    return {
        "benchmark": "late_interaction",
        "machine": describe_machine(),
        "vectors": {
            **vectors.about,
            "identity": vectors.identity,
            "passages": vectors.n_passages,
            "tokens": len(vectors.tokens),
            "query_tokens_mean": round(float(np.mean(np.diff(vectors.query_offsets)[plan.queries])), 1),
        },
        "queries": len(plan.queries),
        "growth_queries": given.growth_queries,
        "growth_noise": given.growth_noise,
        "rounds": given.rounds,
        "threads": given.threads,
        "build_limit_cpu_s": given.build_limit,
        "seed": given.seed,
        "corpora": corpora,
        "growth": grown,
    }


def _vectors(given: argparse.Namespace) -> TokenVectors:
    if given.vectors:
        return read_vectors(given.vectors)
    folder = given.work / f"vectors-{given.encoder.replace('/', '-')}-{given.dim}-{given.limit or 'all'}"
    if not folder.is_dir():
        say(f"encoding {given.data}")
        make_vectors(folder, given.data, given.encoder, given.dim, given.limit, given.seed)
    return read_vectors(folder)


def _plan(given: argparse.Namespace, vectors: TokenVectors, queries: int, build_limit: int) -> Plan:
    numbers = vectors.sample_queries(queries, given.seed)
    rounds = min(given.rounds, len(numbers))
    again = tuple(given.rebuild)
    return Plan(vectors, given.work, given.peers, numbers, rounds, given.threads, build_limit, again)


def _sizes(asked: list[str], n_passages: int) -> list[int]:
    sizes = []
    for size in asked:
        if size != "all" and not (size.isdigit() and 0 < int(size) <= n_passages):
            raise UserError(f"--sizes: {size!r} is neither all nor a number from 1 to {n_passages}")
        sizes.append(n_passages if size == "all" else int(size))
    return sorted(set(sizes))


def write(report: dict[str, Any], out: Path) -> None:
    """Write JSON, Markdown and pictures; print the Markdown."""
    from hiperrag.benchmarks.late_interaction.plots import write_plots

    out.mkdir(parents=True, exist_ok=True)
    (out / "late_interaction.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = markdown(report)
    (out / "late_interaction.md").write_text(text, encoding="utf-8")
    for picture in write_plots(report, out):
        say(f"wrote {picture}")
    print(text)


if __name__ == "__main__":
    sys.exit(main())
