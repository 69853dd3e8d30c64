"""Plan an index too large for this machine from growth measured on it.

    python -m hiperrag.benchmarks.index_scale [--vectors DIR] [--data DIR] [--work DIR] [--out FILE.json]

Builds shards of several sizes from synthetic growth (`late_interaction.growth`) of the token vectors in --vectors, a
folder of the late-interaction benchmark; without it, of random vectors around random topics. Measures bytes, build
time, peak memory and a single query's CPU time in candidates and MaxSim; searches the same passages over 1, 2 and 4 MPI
ranks, and compares every result with one process; fits the models of `scale_model`, and prints the table that they give
for --passages. --data: a folder of BEIR or PubMedQA data, to measure the bytes of passages' text and words too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hiperrag.benchmarks import scale_measure as measure
from hiperrag.benchmarks.late_interaction.vectors import read_vectors
from hiperrag.benchmarks.scale_model import Measured, Model
from hiperrag.files import write_text_atomic
from hiperrag.index import VERSION
from hiperrag.index.kernels import kernel
from hiperrag.machine import describe_machine

NODES, SHARD_PASSAGES = (1, 4, 16, 64), (100_000, 1_000_000)
_COLUMNS = (
    *("shard_passages", "nodes", "memory_gb_per_node", "disk_gb", "latency_ms_p50", "queries_per_s"),
    *("message_kb_received_by_a_rank", "build_cpu_hours", "build_peak_gb"),
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, extrapolate, write the report and its picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vectors", type=Path, help="folder of token vectors (default: random ones)")
    parser.add_argument("--data", type=Path, help="folder of BEIR or PubMedQA data, for the bytes of text")
    parser.add_argument("--work", type=Path, help="where shards are kept for the next time (default: nowhere)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000], help="passages in a shard")
    parser.add_argument("--passages", type=int, default=16_400_000, help="to extrapolate to")
    parser.add_argument("--cores", type=int, default=32, help="of a node, in the extrapolation")
    parser.add_argument("--pooled-dim", type=int, default=384, help="bytes of a passage's pooled vector")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("index_scale.json"))
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes started from here: CPU time is one thread's
    with tempfile.TemporaryDirectory() as scratch:
        report = _report(given, given.work or Path(scratch))
    write_text_atomic(given.out, json.dumps(report, indent=1) + "\n")
    _plot(report, given.out.with_suffix(".png"))
    _print(report)
    return 0


def _report(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    vectors = read_vectors(given.vectors) if given.vectors else measure.random_vectors()
    folder = work / f"{vectors.identity}-{'-'.join(map(str, VERSION))}-{given.sizes[-1]}"
    sizes = sorted(given.sizes)
    _say(f"building {measure.N_PARTS} shards with {sizes[-1]:,} passages together")
    parts = measure.once(folder / "parts", partial(measure.alone, measure.build_parts, given.vectors, sizes[-1]))
    builds = []
    parts_folder = folder / "parts"
    for size in sizes:
        _say(f"building one shard of {size:,} passages")
        builds.append(measure.once(folder / str(size), partial(measure.alone, measure.build_shard, parts_folder, size)))
    chosen = vectors.sample_queries(given.queries)
    queries = [vectors.query(number) for number in chosen]
    _say(f"searching, {len(queries)} queries")
    points, stand_ins = measure.measure_queries(folder, sizes, builds, queries)
    ranks = measure.measure_ranks(folder / "parts", queries)
    text = measure.text_bytes(given.data) if given.data else None
    per_token, per_passage = measure.bytes_of(folder / str(sizes[-1]))
    exchange = ranks[0]["cpu_ms_p50"] - ranks[0]["one_process_cpu_ms_p50"] if ranks else 0.0
    measured = Measured(
        points,
        stand_ins,
        measure.measure_cuts(measure.default_effort().n),
        per_token,
        per_passage + given.pooled_dim + sum((text or {}).values()),
        1000 * parts["encode_cpu_s"] / sizes[-1],
        statistics.mean(len(query) for query in queries),
        vectors.dim,
        measure.alone(measure.peak_bytes),
        max(exchange, 0.0),
    )
    model = Model(measured)
    rows = [model.predict(given.passages, size, nodes, given.cores) for size in SHARD_PASSAGES for nodes in NODES]
    return {
        "benchmark": "index_scale",
        "vectors": {**vectors.about, "real_passages": vectors.n_passages, "growth": "synthetic"},
        "machine": describe_machine()
        | {"kernels": kernel(), "load_average": [round(one, 1) for one in os.getloadavg()]},
        "measured": _rounded(measured) | {"text_bytes_per_passage": text, "ranks": ranks},
        "model": {
            "coefficients": model.coefficients(),
            "tokens_per_passage": round(model.tokens_per_passage, 2),
            "relative_errors_of_candidate_times_held_out": model.held_out_errors(),
        },
        "extrapolated": {"passages": given.passages, "cores_per_node": given.cores, "rows": rows},
        "curve": [
            [n, model.candidates_ms(n)] for n in np.geomspace(sizes[0], SHARD_PASSAGES[-1], 60).astype(int).tolist()
        ],
    }


def _rounded(measured: Measured) -> dict[str, Any]:
    rounded: dict[str, Any] = json.loads(
        json.dumps(dataclasses.asdict(measured)), parse_float=lambda text: float(f"{float(text):.5g}")
    )
    return rounded


def _plot(report: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    points, rows = report["measured"]["points"], report["extrapolated"]["rows"]
    lists, stand_ins = [point["lists"] for point in points], report["measured"]["stand_ins"]
    left.plot(*zip(*report["curve"], strict=True), color="#0072B2", linestyle="--", label="candidates, model")
    for measured, marker, label in ((lists, "o", "measured"), (stand_ins, "x", "stand-ins with too few centroids")):
        times = [one["candidates_ms"] for one in measured]
        left.plot([one["passages"] for one in measured], times, marker, color="#0072B2", label=f"candidates, {label}")
    maxsim = [point["maxsim_ms"] for point in points]
    left.plot([one["passages"] for one in lists], maxsim, "s", color="#D55E00", label="MaxSim, measured")
    left.set(
        xscale="log", xlabel="passages in the shard", ylabel="CPU ms per query, median", title="One shard, one thread"
    )
    left.set_ylim(0, 1.6 * max(one["candidates_ms"] for one in [*lists, *stand_ins]))
    left.legend(loc="upper left")
    for size, colour in zip(SHARD_PASSAGES, ("#0072B2", "#009E73"), strict=True):
        chosen = [row for row in rows if row["shard_passages"] == size]
        nodes, label = [row["nodes"] for row in chosen], f"shards of {size:,} passages"
        middle.plot(nodes, [row["latency_ms_p50"] for row in chosen], "o--", color=colour, label=label)
        right.plot(nodes, [row["memory_gb_per_node"] for row in chosen], "o--", color=colour, label=label)
    total = f"{report['extrapolated']['passages'] / 1e6:g} M passages, extrapolated"
    middle.set(xlabel="nodes", ylabel="latency of one query, ms, p50", title=total)
    right.set(xlabel="nodes", ylabel="memory per node, GB", title=total, yscale="log")
    middle.set_ylim(bottom=0)
    for axes in (middle, right):
        axes.set_xscale("log", base=4)
        axes.set_xticks(NODES, [str(n) for n in NODES])
        axes.legend()
    for axes in (left, middle, right):
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _print(report: dict[str, Any]) -> None:
    for point in report["measured"]["points"]:
        times = f"candidates {point['lists']['candidates_ms']:.2f} ms, MaxSim {point['maxsim_ms']:.2f} ms"
        print(f"{point['lists']['passages']:>9,} passages: {times}")
    for ranks in report["measured"]["ranks"]:
        print(ranks)
    print(" | ".join(_COLUMNS))
    for row in report["extrapolated"]["rows"]:
        print(" | ".join(f"{row[column]:,}" for column in _COLUMNS))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
