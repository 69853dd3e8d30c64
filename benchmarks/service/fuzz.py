"""Requests that make no sense: `python -m hiperrag.benchmarks.service.fuzz COLLECTION --out FOLDER`.

Half are drawn from the service's own OpenAPI schema by schemathesis, valid and invalid; half are mutations of good
requests: wrong types, huge and nested values, odd Unicode, strings that would be paths or markup elsewhere, broken
JSON, odd headers and methods. The service runs with a key, which the requests carry; a secret is in its environment.
Bars: no status of 500 or above but the documented 503 and 504, and no traceback, key, secret or path of the machine in
any header or body.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from hiperrag.benchmarks.service.rig import Service, Stub
from hiperrag.machine import describe_machine

SECRET = "secret-that-must-not-leave-the-process"
DOCUMENTED = (503, 504)
CLIENTS = 8
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**63, 10**400, -0.0, 1e308, 0.5, "", " ", "\x00", "\ud800", "\u202e", "ﷺ" * 50),
    *("../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "..\\..\\windows", "%2e%2e%2f", "C:\\", "~root"),
    *("<script>alert(1)</script>", "{{7*7}}", "${HOME}", "'; DROP TABLE passages; --", "`id`", "$(id)", "\r\nX-Odd: 1"),
    *("year >= ", "((((((", "not " * 60, "any x in ()", "contains(kind, '", "a" * 20_000, "🦠" * 3_000),
    *([], {}, [[]], [{}], {"": ""}, [None], ["x"] * 3_000, {"__proto__": 1}, {"$ref": "#"}),
)
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Type": "multipart/form-data; boundary="},
    {"Accept": "text/html"},
    {"Origin": "http://elsewhere.example"},
    {"Cookie": "session=../../x; hiperrag=" + "a" * 2_000},
    {"X-Forwarded-For": "::1, 10.0.0.1", "X-Forwarded-Proto": "gopher"},
    {"Accept-Encoding": "br;q=x"},
    {"Host": "evil.example"},
    {"Authorization": "Bearer "},
    {"Authorization": "Basic Og=="},
    {"Authorization": "Bearer " + "x" * 4_000},
    {"Expect": "200-maybe"},
    {"Range": "bytes=0-18446744073709551615"},
)
PATHS = (
    *(
        "/",
        "/v1",
        "/v1/models/%2e%2e%2f",
        "/web/../../../../etc/passwd",
        "/web/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
    ),
    *("/v1/collections/..%2f..%2fetc", "/v1/collections/c/passages/..%2f..%2f", "/v1/collections/c/passages/%00"),
    *("/web/%00", "/openapi.json/..", "/login", "/metrics", "/health", "/ready", "/v1/collections/c"),
)
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "hiperrag/c",
        "messages": [{"role": "user", "content": "What is known?"}],
        "stream": False,
        "max_tokens": 20,
        "hiperrag": {"k": 2, "quality": "fast", "where": "page >= 1", "hybrid": False},
    },
    "/v1/search": {"collection": "c", "query": "What is known?", "k": 2, "quality": "fast", "where": "page >= 1"},
    "/v1/embeddings": {"model": "hiperrag/c", "input": ["words"], "encoding_format": "float"},
    "/v1/rerank": {"model": "hiperrag/c", "query": "words", "documents": ["one", "two"], "top_n": 1},
    "/v1/attributions": {"model": "hiperrag/c", "question": "What?", "answer": "This.", "passages": ["x-0001"]},
    "/login": {"key": "x"},
}


def main() -> None:
    """What the module does when it is run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    report = measure(given)
    (given.out / "fuzz.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: report[name] for name in ("requests", "statuses", "findings", "bars")}, indent=1))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Both halves against one service."""
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder, Stub(1_000.0, 30) as stub:
        keys = Path(folder) / "keys"
        key = new_key(keys)
        os.environ["OPENAI_API_KEY"] = SECRET
        with Service(given.collection, stub.spec, "--keys", str(keys), "--request-timeout", "30") as service:
            judge = Judge(
                [key, SECRET, str(given.collection.resolve()), folder, str(Path.home()), str(Path(sys.prefix))]
            )
            half = given.requests // 2
            mutated(service.address, key, half, given.seed, judge)
            from_schema(service.address, key, given.requests - half, given.seed, judge)
            alive = httpx.get(f"{service.address}/health", timeout=30).status_code == 200
            log = service.log
    leaked = [secret for secret in (key, SECRET) if secret in log]
    return {
        "machine": describe_machine(),
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "settings": {"requests": given.requests, "seed": given.seed},
        "requests": judge.n,
        "statuses": dict(sorted(judge.statuses.items())),
        "findings": judge.findings,
        "bars": {
            "no undocumented 5xx, no traceback, key or path in an answer": not judge.findings,
            "the service still answers": alive,
            "no traceback and no secret in the log": "Traceback" not in log and not leaked,
            "all requests were made": judge.n >= given.requests,
        },
        "log_lines": [line for line in log.splitlines() if "Traceback" in line or "ERROR" in line][:20],
    }


def new_key(keys: Path) -> str:
    """A key for everything, as `hiperrag keys add` prints it."""
    command = [sys.executable, "-c", "from hiperrag.cli import main; main()", "keys", "add", str(keys), "fuzz"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return printed.split()[-1]


class Judge:
    """Looks at every response; `findings` are those that should not be."""

    def __init__(self, forbidden: list[str]) -> None:
        self.n = 0
        self.statuses: Counter[str] = Counter()
        self.findings: list[str] = []
        self._forbidden = [one for one in forbidden if len(one) > 3]

    def see(self, about: str, status: int, headers: dict[str, str], body: str) -> None:
        """One response."""
        self.n += 1
        self.statuses[str(status)] += 1
        if status >= 500 and status not in DOCUMENTED:
            self._find(f"{status}: {about}: {body[:200]}")
        whole = body + "".join(f"{name}: {value}\n" for name, value in headers.items())
        if "Traceback (most recent" in whole or re.search(r'File "[^"]+", line \d+', whole):
            self._find(f"traceback: {about}")
        for number, text in enumerate(self._forbidden):
            if text in whole:
                self._find(f"forbidden text {number}: {about}: {whole[:300]}")

    def _find(self, finding: str) -> None:
        if len(self.findings) < 50:
            self.findings.append(finding)


def mutated(address: str, key: str, n: int, seed: int, judge: Judge) -> None:
    """Good requests made bad, several at a time."""
    chance = random.Random(seed)
    bearer = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=address, timeout=60) as client, ThreadPoolExecutor(CLIENTS) as pool:

        def send(request: tuple[str, str, dict[str, str], bytes]) -> None:
            method, path, headers, content = request
            try:
                got = client.request(method, path, headers=bearer | headers, content=content)
            except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError):  # not to be sent at all
                got = client.get("/health")
            judge.see(f"{method} {path} {content[:150]!r}", got.status_code, dict(got.headers), got.text)

        list(pool.map(send, mutations(chance, n)))


def mutations(chance: random.Random, n: int) -> Iterator[tuple[str, str, dict[str, str], bytes]]:
    """(method, path, headers, body) of n requests."""
    for _ in range(n):
        headers = {"Content-Type": "application/json"} | chance.choice(HEADERS)
        if chance.random() < 0.15:
            path = chance.choice(PATHS)
            if chance.random() < 0.5:
                path += "?" + chance.choice(
                    ["page=-1", "width=99999999", "width=x", "q=%00", "next=//evil.example", "%"]
                )
            yield chance.choice(["GET", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH", "POST"]), path, headers, b""
            continue
        path, body = chance.choice(list(GOOD.items()))
        yield "POST", path, headers, _spoilt(chance, body)


def _spoilt(chance: random.Random, good: dict[str, Any]) -> bytes:
    body: Any = json.loads(json.dumps(good))
    for _ in range(chance.randint(1, 3)):
        body = _with_something_odd(chance, body)
    raw = json.dumps(body, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    if chance.random() < 0.15:
        cut = chance.randrange(len(raw) + 1)
        raw = chance.choice([raw[:cut], raw[:cut] + b"\xff\xfe" + raw[cut:], raw + raw, b"[" * 20_000, b"", b"NaN"])
    return raw


def _with_something_odd(chance: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        what = chance.random()
        if what < 0.1:
            return {key: one for key, one in value.items() if key != name}
        if what < 0.2:
            return value | {str(chance.choice(ODD))[:200]: chance.choice(ODD)}
        return value | {name: _with_something_odd(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.5:
        number = chance.randrange(len(value))
        return [*value[:number], _with_something_odd(chance, value[number]), *value[number + 1 :]]
    return chance.choice(ODD)


def from_schema(address: str, key: str, n: int, seed: int, judge: Judge) -> None:
    """Requests that schemathesis draws from the OpenAPI schema, the same number for each operation."""
    import hypothesis
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.core.result import Ok

    warnings.simplefilter("ignore")
    bearer = {"Authorization": f"Bearer {key}"}
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json", headers=bearer)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    goal, each = judge.n + n, -(-n // (2 * len(operations)))
    while judge.n < goal:
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

                @hypothesis.seed(seed)
                @hypothesis.settings(
                    max_examples=each,
                    database=None,
                    deadline=None,
                    phases=[hypothesis.Phase.generate],
                    suppress_health_check=list(hypothesis.HealthCheck),
                )
                @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
                def call(case: Any) -> None:
                    got = case.call(headers=bearer, timeout=60)
                    judge.see(
                        f"{case.method} {case.path}",
                        got.status_code,
                        {k: str(v) for k, v in got.headers.items()},
                        got.text,
                    )

                try:
                    call()
                except (hypothesis.errors.Unsatisfiable, hypothesis.errors.FailedHealthCheck):
                    continue  # nothing of the kind can be drawn: an operation without parameters
        seed += 1


if __name__ == "__main__":
    main()
