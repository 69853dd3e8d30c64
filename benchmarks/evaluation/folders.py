"""The folder of one evaluation: settings, a line per question as it is answered, results, report. Resumable."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hiperrag.errors import UserError
from hiperrag.files import fingerprint, write_text_atomic

SETTINGS, RECORDS, RESULTS, REPORT = "settings.json", "items.jsonl", "results.json", "report.html"
Record = dict[str, Any]


class RunFolder:
    """Where a run keeps what it has. The same settings find the same folder, and go on where it stands."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        kept = path / SETTINGS
        if kept.is_file() and _json(kept) != settings:
            known = _json(kept)
            differing = sorted(name for name in {*known, *settings} if known.get(name) != settings.get(name))
            raise UserError(
                f"--out {path}: holds a run with other settings ({', '.join(differing)}); name another folder"
            )
        if path.is_dir() and not kept.is_file() and any(path.iterdir()):
            raise UserError(f"--out {path}: not empty and not an evaluation; name another folder")
        write_text_atomic(kept, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")

    def ask_all(
        self,
        keys: Sequence[str],
        ask: Callable[[range], Iterable[Record]],
        say: Callable[[int, int], None] = lambda *_: None,
    ) -> list[Record]:
        """The records of all questions, in order: those on disk, and `ask(numbers)` for the rest, each written at once.

        `keys[i]` is the value of "item_id" in the record of question i. `say(done, all)` hears of progress.
        """
        path = self.path / RECORDS
        with self._alone(), path.open("ab") as out:
            records = _whole_lines(path)
            if [record["item_id"] for record in records] != list(keys[: len(records)]):
                raise UserError(f"{path}: not the questions of this run; name another folder with --out")
            out.truncate(sum(len(_line(record)) for record in records))
            for record in ask(range(len(records), len(keys))):
                out.write(_line(record))
                out.flush()
                records.append(json.loads(_line(record)))
                say(len(records), len(keys))
        return records

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.path / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.path}: another process is running this evaluation") from None
            yield

    def write_results(self, results: dict[str, Any]) -> Path:
        """Write results.json; its path."""
        path = self.path / RESULTS
        write_text_atomic(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        return path


def default_folder(name: str, settings: dict[str, Any]) -> Path:
    """evaluation/NAME-HASH below the current folder: one for each combination of settings."""
    return Path("evaluation") / f"{name}-{fingerprint(json.dumps(settings, sort_keys=True))[:8]}"


def read_run(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """Results and records of a finished run, from its folder."""
    if not (path / RESULTS).is_file():
        raise UserError(f"{path}: not the folder of a finished evaluation (no {RESULTS})")
    return _json(path / RESULTS), _whole_lines(path / RECORDS)


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return found


def _line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _whole_lines(path: Path) -> list[Record]:
    """The records up to the first line that was cut off by a kill."""
    records: list[Record] = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            records.append(record)
    return records
