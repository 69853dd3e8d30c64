"""A generator that collects prompts for a gateway's batch mode, and gives what was written when it is asked again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from hiperrag.answering.generators.base import BusyError, Message, Piece, TokenStream, UnavailableError
from hiperrag.answering.generators.batches import ENDED, MOST_PROMPTS, BatchState, GatewayBatches, Prompt, Written
from hiperrag.errors import UserError
from hiperrag.files import fingerprint

FIRST_POLL_S = 5.0
LONGEST_POLL_S = 60.0


class DeferredGenerator:
    """Raises BusyError for a prompt that nothing was written for yet, and remembers it for `write_all`.

    What was written, and the gateway's batches on their way, are kept in a file: a run that was killed goes on with
    them. Thread-safe but for `write_all`.
    """

    capable = True

    def __init__(self, spec: str, batches: GatewayBatches, file: Path) -> None:
        self.spec = spec
        self._batches = batches
        self._file = file
        self._lock = threading.Lock()
        self._wanted: dict[str, Prompt] = {}
        self._written: dict[str, Written] = {}
        self._under_way: dict[str, list[str]] = {}
        """Keys of the prompts of each batch at the gateway."""
        self._read()

    def stream(self, messages: list[Message], max_tokens: int) -> TokenStream:
        """What was written; UnavailableError where the gateway could not."""
        key = fingerprint(self.spec, messages, max_tokens)
        with self._lock:
            written = self._written.get(key)
            if written is None:
                self._wanted[key] = Prompt(messages, max_tokens)
                raise BusyError("not written yet", 1.0)
        if written.error:
            raise UnavailableError(f"{self.spec}: {written.error}")
        return TokenStream(iter([Piece(written.text, written.finish, len(written.text.split()))]), self.spec)

    def write_all(self, say: Callable[[str], None]) -> bool:
        """Have the gateway write what was asked for, and wait for it; whether there was anything to write.

        Raises UserError where the gateway does not take a batch, or does not know one that it took.
        """
        try:
            return self._write_all(say)
        except UserError as error:
            raise UserError(f"{error}; remove {self._file} and use --no-gateway-batch to do without") from error

    def _write_all(self, say: Callable[[str], None]) -> bool:
        under_way = {key for keys in self._under_way.values() for key in keys}
        wanted = {key: prompt for key, prompt in self._wanted.items() if key not in under_way}
        self._wanted = {}
        if not wanted and not self._under_way:
            return False
        for some in _portions(wanted):
            batch = self._batches.submit(some)
            self._note({"batch": batch, "keys": list(some)})
            say(f"gateway batch {batch}: {len(some)} prompts")
        for batch in list(self._under_way):
            self._collect(batch, self._await(batch, say))
        return True

    def forget(self) -> None:
        """Remove the file: all requests have their results."""
        self._file.unlink(missing_ok=True)

    def _await(self, batch: str, say: Callable[[str], None]) -> BatchState:
        said, pause = "", FIRST_POLL_S
        while True:
            state = self._batches.state(batch)
            if state.status in ENDED:
                return state
            line = f"gateway batch {batch}: {state.status} {state.done}/{state.total}"
            if line != said:
                say(line)
                said = line
            time.sleep(pause)
            pause = min(LONGEST_POLL_S, 1.5 * pause)

    def _collect(self, batch: str, state: BatchState) -> None:
        found = self._batches.results(state)
        for key in self._under_way[batch]:
            missing = Written("", error=f"the gateway's batch {batch} {state.status} without it")
            written = found.get(key, missing)
            self._note({"key": key, "text": written.text, "finish": written.finish, "error": written.error})
        self._note({"ended": batch})

    def _note(self, row: dict[str, object]) -> None:
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        self._take(row)

    def _take(self, row: dict[str, object]) -> None:
        match row:
            case {"batch": str(batch), "keys": list(keys)}:
                self._under_way[batch] = keys
            case {"key": str(key), "text": str(text), "finish": "stop" | "length" as finish, "error": str(error)}:
                self._written[key] = Written(text, finish, error)
            case {"ended": str(batch)}:
                self._under_way.pop(batch, None)

    def _read(self) -> None:
        """What an earlier run left; what it could not write is asked for again."""
        try:
            raw = self._file.read_bytes() if self._file.exists() else b""
        except OSError as error:
            raise UserError(f"{self._file}: cannot be read ({error.strerror})") from None
        whole = raw[: raw.rfind(b"\n") + 1]
        if whole != raw:
            self._file.write_bytes(whole)
        for line in whole.splitlines():
            try:
                self._take(json.loads(line))
            except ValueError:
                raise UserError(f"{self._file}: not what a batch left; remove it") from None
        self._written = {key: written for key, written in self._written.items() if not written.error}


def _portions(prompts: dict[str, Prompt]) -> Iterator[dict[str, Prompt]]:
    items = iter(prompts.items())
    while some := dict(islice(items, MOST_PROMPTS)):
        yield some
