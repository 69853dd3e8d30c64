"""Serve one engine over standard input and output, one JSON object a line. Needs NumPy and the engine, nothing of ours.

    python serve.py ENGINE_MODULE THREADS

Requests and their answers:
  {"do": "build", "vectors": DIR, "passages": N, "index": DIR, "options": {...}, "cpu_limit_s": S, "growth": PIPE}
      {"cpu_s", "wall_s", "peak_rss_bytes", "tokens", "index_bytes"}; past the CPU limit the kernel ends the
      process; growth is a named pipe that the passages come through, or null
  {"do": "open", "vectors": DIR, "passages": N, "index": DIR, "options": {...}}     {"rss_bytes"}
  {"do": "search", "queries": [...], "k": K, "setting": {...}, "together": false}   {"found", "cpu_s", "wall_s"}
  {"do": "quit"}
`found` has the passages of each query, best first; times are per query, or of the whole batch where `together`.
CPU time is user and system time of all threads and of children that have ended. The first line, before any request, is
{"version": ...} of the engine. A request that fails is answered by {"error": "one line"}.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_OVER = 5
"""CPU-seconds between the signal that asks to stop and the one that cannot be ignored."""


def main(module: str, threads: int) -> None:
    """Answer requests until "quit" or the end of input."""
    # Libraries print on standard output; the answers get a channel of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    engine = importlib.import_module(module).Engine(threads)
    _answer(answers, {"version": engine.version})
    handlers = {"build": build, "open": open_index, "search": search}
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            return
        try:
            answer = handlers[request["do"]](engine, request)
        except Exception as error:  # whatever a peer raises belongs in the table, not in a dead benchmark
            message = (str(error).strip() or "no message").splitlines()[0]
            answer = {"error": f"{type(error).__name__}: {message}"[:300]}
        _answer(answers, answer)


def _answer(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def build(engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Build the index in its folder and say what it cost."""
    tokens, offsets = _passages(request)
    index = Path(request["index"])
    index.mkdir(parents=True, exist_ok=True)
    if request.get("cpu_limit_s"):
        # From here on this process's CPU clock moves in steps of milliseconds: queries are timed in another one.
        limit = int(_cpu_s() + request["cpu_limit_s"])
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + _OVER))
    cpu, wall = _cpu_s(), time.perf_counter()
    n_tokens, index_bytes = len(tokens), None
    if request.get("growth"):
        n_tokens = engine.build_growth(
            Path(request["growth"]), request["passages"], tokens.shape[1], index, request["options"]
        )
    else:
        index_bytes = engine.build(tokens, offsets, index, request["options"])
    return {
        "cpu_s": _cpu_s() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_rss_bytes": _peak_rss(),
        "tokens": n_tokens,
        "index_bytes": index_bytes if index_bytes is not None else folder_bytes(index),
    }


def open_index(engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Open a built index for searching."""
    tokens, offsets = _passages(request)
    engine.open(tokens, offsets, Path(request["index"]), request["options"])
    engine.asked = np.load(Path(request["vectors"]) / "queries.npy").astype(np.float32, copy=False)
    engine.asked_offsets = np.load(Path(request["vectors"]) / "query_offsets.npy")
    return {"rss_bytes": _peak_rss()}


def search(engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Answer the queries one by one, or all together."""
    offsets = engine.asked_offsets
    queries = [engine.asked[offsets[number] : offsets[number + 1]] for number in request["queries"]]
    groups = [queries] if request["together"] else [[query] for query in queries]
    found: list[list[int]] = []
    cpu_s, wall_s = [], []
    for group in groups:
        cpu, wall = _cpu_s(), time.perf_counter()
        hits = engine.search(group, request["k"], request["setting"])
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(_cpu_s() - cpu)
        found.extend([int(passage) for passage in passages] for passages in hits)
    return {"found": found, "cpu_s": cpu_s, "wall_s": wall_s}


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _passages(request: dict[str, Any]) -> tuple[Any, Any]:
    folder, n = Path(request["vectors"]), request["passages"]
    offsets = np.load(folder / "offsets.npy")[: n + 1]
    return np.load(folder / "tokens.npy", mmap_mode="r")[: offsets[-1]], offsets


def _cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _peak_rss() -> int:
    # ru_maxrss of this process would begin at what the process that started it had; children began at ours at most.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    own = int(status.partition("VmHWM:")[2].split()[0])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
