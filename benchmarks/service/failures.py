"""What breaks while clients stream: `python -m hiperrag.benchmarks.service.failures COLLECTION --out FOLDER`.

Under load a shard process is killed with SIGKILL and another stopped, the generator is killed and started again, and a
share of the clients goes away in mid-stream. Wanted: answers that name the missing shards, errors that say what is
wrong, all well again within seconds, and in the end no stream, thread or socket left.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hiperrag.benchmarks.service.clients import Asked, Plan
from hiperrag.benchmarks.service.load import MODEL
from hiperrag.benchmarks.service.rig import Service, Stub, Watch, clients, get_json, questions
from hiperrag.collection import Collection
from hiperrag.machine import describe_machine

LEAVE_SHARE = 0.2
DOWN_S = 6.0
"""How long the generator is away."""
SETTLED_S = 60.0
"""Within which all is to be well again, and everything let go."""


def main() -> None:
    """What the module does when it is run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path, help="of at least as many shards as --processes")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--speed", type=float, default=5.0, help="the generator's tokens a second, of each stream")
    parser.add_argument("--tokens", type=int, default=60, help="of an answer")
    parser.add_argument("--processes", type=int, default=2, help="shard processes")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if count_shards(given.collection) < given.processes:
        parser.error(f"{given.collection} has fewer shards than --processes; index in several runs, or give fewer")
    given.out.mkdir(parents=True, exist_ok=True)
    report = measure(given)
    (given.out / "failures.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: report[name] for name in ("requests", "strikes", "left", "bars")}, indent=1))


def count_shards(collection: Path) -> int:
    """Of a collection: a process that holds none would be struck without anybody's noticing."""
    return Collection(collection).manifest().counts.shards


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Load, strikes, and what is left when it is over."""
    answer_s = given.tokens / given.speed
    load_before = os.getloadavg()
    with (
        Stub(given.speed, given.tokens) as stub,
        Service(given.collection, stub.spec, "--processes", str(given.processes)) as service,
    ):
        warm = Plan(service.address, MODEL, questions(given.collection, 2_000), 2, 5.0, 0.0, 20, seed=3)
        with clients(warm) as few:
            few.wait()
        idle = Watch(service.process.pid).sample()
        plan = Plan(
            service.address, MODEL, warm.questions, given.clients, given.seconds, answer_s, given.tokens, LEAVE_SHARE, 4
        )
        with clients(plan) as many:
            began = time.monotonic()
            strikes = []
            for number, strike in enumerate((kill_shards, stop_shards, kill_generator), start=1):
                time.sleep(max(0.0, began + number * given.seconds / 4 - time.monotonic()))
                strikes.append(strike(service, stub))
            asked = many.wait()
        left = settled(service, stub, idle.threads, idle.sockets)
        status = service.end()
        log = service.log
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "settings": {name: str(value) for name, value in vars(given).items() if name not in ("out", "collection")},
        "requests": counted(asked),
        "strikes": strikes,
        "left": left,
        "exit_status": status,
        "tracebacks_in_the_log": log.count("Traceback"),
    }
    report["bars"] = bars(report)
    return report


def kill_shards(service: Service, stub: Stub) -> dict[str, Any]:  # noqa: ARG001
    """A shard process, as by the kernel when memory runs out."""
    return _struck("kill -9 of a shard process", service, signal.SIGKILL)


def stop_shards(service: Service, stub: Stub) -> dict[str, Any]:  # noqa: ARG001
    """A shard process that hangs."""
    return _struck("kill -STOP of a shard process", service, signal.SIGSTOP)


def _struck(name: str, service: Service, how: signal.Signals) -> dict[str, Any]:
    service.shard_processes()[0].send_signal(how)
    began = time.monotonic()
    noticed = until(lambda: _ready(service)["missing"] > 0, 30.0)
    recovered = until(lambda: _ready(service)["missing"] == 0, SETTLED_S)
    return {"strike": name, "at": began, "noticed_after_s": noticed, "recovered_after_s": recovered}


def kill_generator(service: Service, stub: Stub) -> dict[str, Any]:
    """The generator goes away for DOWN_S and comes back."""
    stub.kill()
    began = time.monotonic()
    noticed = until(lambda: not _ready(service)["generator"], 30.0)
    time.sleep(max(0.0, began + DOWN_S - time.monotonic()))
    stub.restart()
    back = time.monotonic()
    recovered = until(lambda: _ready(service)["generator"], SETTLED_S)
    return {
        "strike": "kill -9 of the generator",
        "at": began,
        "noticed_after_s": noticed,
        "back_after_s": round(back - began, 2),
        "recovered_after_s": recovered,
    }


def _ready(service: Service) -> dict[str, Any]:
    """What /ready says: shards missing, whether the generator can be reached."""
    try:
        told = get_json(f"{service.address}/ready")
    except urllib.error.HTTPError as error:
        told = json.load(error)
    shards = told["collections"].get("c", {"missing": []})
    return {"missing": len(shards["missing"]), "generator": (told["generator"] or {}).get("reachable", False)}


def until(condition: Callable[[], bool], longest_s: float) -> float | None:
    """Seconds until something is so; None where it does not become so."""
    began = time.monotonic()
    while time.monotonic() - began < longest_s:
        if condition():
            return round(time.monotonic() - began, 2)
        time.sleep(0.1)
    return None


def settled(service: Service, stub: Stub, threads: int, sockets: int) -> dict[str, Any]:
    """Streams of the generator, threads and sockets of the service beyond those before, once they are gone or not."""
    watch = Watch(service.process.pid)
    watch.end()

    def left() -> dict[str, int]:
        now = watch.sample()
        more = {"sockets": now.sockets - sockets, "threads": now.threads - threads}
        return {"streams": stub.get("/state")["open"], **more}

    gone = until(lambda: left()["streams"] <= 0 and left()["sockets"] <= 0, SETTLED_S)
    return {"gone_after_s": gone, **left()}


def counted(asked: list[Asked]) -> dict[str, Any]:
    """Requests by what became of them."""
    stayed = [one for one in asked if not one.left]
    kinds = sorted({one.error for one in stayed if one.error})
    return {
        "all": len(asked),
        "whole": sum(one.done and not one.error for one in stayed),
        "with_missing_shards": sum(bool(one.missing) for one in stayed),
        "left_by_the_client": len(asked) - len(stayed),
        "broke_off_with_a_note": sum(any("broke off" in note for note in one.notes) for one in stayed),
        "errors": {kind: sum(one.error == kind for one in stayed) for kind in kinds},
        "neither_done_nor_error": sum(not one.done and not one.error for one in stayed),
        "mixed": sum(one.foreign > 0 for one in asked),
    }


def bars(report: dict[str, Any]) -> dict[str, bool]:
    """Each bar, and whether it is met."""
    requests, left = report["requests"], report["left"]
    return {
        "missing shards are named": requests["with_missing_shards"] > 0,
        "every stream ends, with an answer or an error": not requests["neither_done_nor_error"],
        "errors are the service's own": all(_is_own(kind) for kind in requests["errors"]),
        "no mixed stream": not requests["mixed"],
        "all strikes are noticed and recovered from": all(
            one["noticed_after_s"] is not None and one["recovered_after_s"] is not None for one in report["strikes"]
        ),
        "nothing is left": left["gone_after_s"] is not None,
        "no traceback, and an orderly end": not report["tracebacks_in_the_log"]
        and report["exit_status"] in (0, -signal.SIGTERM, 128 + signal.SIGTERM),
    }


def _is_own(kind: str) -> bool:
    """An error in words, or a 503 that says when to come again; none of a connection that broke."""
    return kind == "HTTP 503" or not any(mark in kind for mark in ("Error", "HTTP"))


if __name__ == "__main__":
    main()
