"""Many clients that stream answers at once: `python -m hiperrag.benchmarks.service.load COLLECTION --out FOLDER`.

The search is real, in a real collection; the generator is a stub of known speed (`stub.py`), which cites passages, so
that the checking is real. First one client alone, then all of them, who begin spread over one answer's time.

Search overhead is the time from the client's connecting to the generator's receiving the prompt: reading the request,
encoding, search, the prompt, the connection to the generator, and all waiting in between, in the service or for a core.
Bars: no error, no lost or mixed stream, p95 of the overhead at most 3 times the p50 of a lone client, flat memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiperrag.benchmarks.service.clients import Asked, Plan
from hiperrag.benchmarks.service.rig import Sample, Service, Stub, Watch, clients, questions
from hiperrag.machine import describe_machine

MODEL = "hiperrag/c"
ALONE_S, ALONE_TOKENS = 40.0, 20
MOST_GROWTH = 0.02
"""Of memory a minute, in the last minute: what counts as flat."""


def main() -> None:
    """What the module does when it is run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--speed", type=float, default=5.0, help="the generator's tokens a second, of each stream")
    parser.add_argument("--tokens", type=int, default=150, help="of an answer")
    parser.add_argument("--processes", type=int, default=0, help="shard processes")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    report = measure(given)
    (given.out / "load.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw(report, given.out / "load.png")
    print(json.dumps({name: report[name] for name in ("alone", "together", "memory", "bars")}, indent=1))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Both phases."""
    asked_about = questions(given.collection, 2_000)
    answer_s = given.tokens / given.speed
    load_before = os.getloadavg()
    with Stub(given.speed, given.tokens) as stub:
        with Service(given.collection, stub.spec, "--processes", str(given.processes)) as service:
            plan = Plan(service.address, MODEL, asked_about, 1, ALONE_S, 0.0, ALONE_TOKENS, seed=1)
            with clients(plan) as one:
                alone = one.wait()
            plan = dataclasses.replace(
                plan,
                clients=given.clients,
                seconds=answer_s + given.seconds,
                ramp_s=answer_s,
                max_tokens=given.tokens,
                seed=2,
            )
            watch = Watch(service.process.pid)
            with clients(plan) as many:
                together = many.wait()
            samples = watch.end()
            left_open = stub.get("/state")["open"]
        arrivals = stub.get("/arrivals")
    steady = [one for one in together if one.began >= min(one.began for one in together) + answer_s]
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "settings": {name: str(value) for name, value in vars(given).items() if name not in ("out", "collection")},
        "alone": summary(alone, arrivals),
        "together": summary(steady, arrivals)
        | {"requests_per_s": len(steady) / given.seconds, "streams_left_open": left_open},
        "memory": memory(samples),
        "series": series(samples, together, arrivals),
        "log_lines": service.log.splitlines()[-20:],
    }
    report["bars"] = bars(report, given.clients)
    return report


def summary(asked: Sequence[Asked], arrivals: dict[str, float]) -> dict[str, Any]:
    """Errors, and how long things took, in ms."""
    ended = [one for one in asked if one.mark in arrivals]
    steps = {
        "overhead": [arrivals[one.mark] - one.began for one in ended],
        "role_chunk": [one.role - one.began for one in ended],
        "passages": [one.results - one.began for one in ended],
        "first_sentence": [one.first_text - one.began for one in ended if one.first_text],
        "whole_answer": [one.ended - one.began for one in ended],
    }
    told = sorted({name for one in ended for name in one.timings_ms})
    return {
        "requests": len(asked),
        "errors": sum(bool(one.error) for one in asked),
        "kinds_of_error": sorted({one.error for one in asked if one.error}),
        "lost": sum(not one.done or not one.sentences for one in asked),
        "mixed": sum(one.foreign > 0 or one.unmarked > 0 for one in asked),
        "sentences": sum(one.sentences for one in asked),
        "with_notes": sum(bool(one.notes) for one in asked),
        "with_missing_shards": sum(bool(one.missing) for one in asked),
        "ms": {name: percentiles([1000 * value for value in values]) for name, values in steps.items()},
        "told_by_the_service_ms": {
            name: percentiles([one.timings_ms[name] for one in ended if name in one.timings_ms]) for name in told
        },
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """n, some percentiles, the most."""
    if not values:
        return {"n": 0}
    found = np.percentile(values, (50, 90, 95, 99, 100)).round(2).tolist()
    return {"n": len(values), **dict(zip(("p50", "p90", "p95", "p99", "most"), found, strict=True))}


def memory(samples: Sequence[Sample]) -> dict[str, float]:
    """In MB; growth is a straight line through the samples, of all the time with all clients and of its last minute."""
    at = np.array([one.at for one in samples])
    own = np.array([one.own_mb for one in samples])
    late = at >= at[-1] - 60
    seconds = at[-1] - at[0]
    return {
        "resident_mb": round(samples[-1].resident_mb, 1),
        "own_mb": round(samples[-1].own_mb, 1),
        "own_mb_a_minute": round(float(np.polyfit(at, own, 1)[0] * 60), 2),
        "own_mb_a_minute_in_the_last": round(float(np.polyfit(at[late], own[late], 1)[0] * 60), 2),
        "threads": samples[-1].threads,
        "service_cpu_s": round(samples[-1].cpu_s - samples[0].cpu_s, 1),
        "seconds": round(seconds, 1),
    }


def series(samples: Sequence[Sample], asked: Sequence[Asked], arrivals: dict[str, float]) -> dict[str, Any]:
    """What `draw` shows, by the second since the clients began."""
    began = min(one.began for one in asked)
    ends = np.array([one.ended - began for one in asked])
    return {
        "at_s": [round(one.at - began, 1) for one in samples],
        "own_mb": [round(one.own_mb, 1) for one in samples],
        "resident_mb": [round(one.resident_mb, 1) for one in samples],
        "answers_a_second": np.histogram(ends, bins=np.arange(0, ends.max() + 5, 5))[0].tolist(),
        "overhead_ms": [
            [round(one.began - began, 2), round(1000 * (arrivals[one.mark] - one.began), 1)]
            for one in asked
            if one.mark in arrivals
        ],
    }


def bars(report: dict[str, Any], n_clients: int) -> dict[str, Any]:
    """Each bar: whether it is met, and by what."""
    alone, together, used = report["alone"], report["together"], report["memory"]
    limit = 3 * alone["ms"]["overhead"]["p50"]
    p95 = together["ms"]["overhead"].get("p95", float("inf"))
    growth = used["own_mb_a_minute_in_the_last"] / used["own_mb"]
    wrong = {name: together[name] for name in ("errors", "lost", "mixed")}
    return {
        "no error, no lost or mixed stream": {"met": not any(wrong.values()), **wrong, "clients": n_clients},
        "p95 of search overhead at most 3 times the lone client's p50": {
            "met": p95 <= limit,
            "p95_ms": p95,
            "limit_ms": round(limit, 2),
        },
        "flat memory": {"met": growth <= MOST_GROWTH, "growth_a_minute": round(growth, 4), "limit": MOST_GROWTH},
    }


def draw(report: dict[str, Any], path: Path) -> None:
    """Overhead over time and its distribution, memory, answers."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    shown = report["series"]
    times, overheads = np.array(shown["overhead_ms"]).T
    bar = report["bars"]["p95 of search overhead at most 3 times the lone client's p50"]
    figure, ((scatter, share), (mb, rate)) = plt.subplots(2, 2, figsize=(11, 7), constrained_layout=True)
    scatter.plot(times, overheads, ".", markersize=3, color="#1f5fa8", alpha=0.5)
    scatter.axhline(bar["limit_ms"], color="#b03a2e", linestyle="--", label="3 × p50 of a lone client")
    scatter.set(xlabel="s since the clients began", ylabel="search overhead, ms", yscale="log")
    scatter.legend(loc="upper right")
    share.plot(np.sort(overheads), np.linspace(0, 1, len(overheads)), color="#1f5fa8")
    share.axvline(bar["limit_ms"], color="#b03a2e", linestyle="--")
    share.axhline(0.95, color="#888888", linestyle=":", label="95%")
    share.set(xlabel="search overhead, ms", ylabel="share of requests", xscale="log", ylim=(0, 1.01))
    share.legend(loc="lower right")
    for axis in (scatter.yaxis, share.xaxis):  # the default labels every minor tick of a short range, on top of another
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    mb.plot(shown["at_s"], shown["resident_mb"], color="#9aa7b5", label="resident, mapped files included")
    mb.plot(shown["at_s"], shown["own_mb"], color="#1f5fa8", label="without mapped files")
    mb.set(xlabel="s since the clients began", ylabel="memory of the service, MB", ylim=(0, None))
    mb.legend(loc="lower right")
    answers = np.array(shown["answers_a_second"]) / 5
    rate.step(5 * np.arange(len(answers)), answers, where="post", color="#1f5fa8")
    rate.set(xlabel="s since the clients began", ylabel="answers a second", ylim=(0, None))
    for axes in (scatter, share, mb, rate):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
