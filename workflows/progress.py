"""The one progress display of a run, on standard error: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import dataclasses
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_PICTURES = 0.1


@dataclasses.dataclass(slots=True)
class StageProgress:
    """How far a stage is, in `unit`s; `cached` of them were done by an earlier run and do not count in the rate."""

    name: str
    unit: str
    total: int
    done: int = 0
    cached: int = 0
    quarantined: int = 0
    started: float | None = None
    finished: float | None = None

    def rate(self, now: float) -> float:
        """Units per second since the stage's first task started."""
        if self.started is None or self.done == self.cached:
            return 0.0
        elapsed = (self.finished or now) - self.started
        return (self.done - self.cached) / max(elapsed, 1e-3)

    def eta(self, now: float) -> str:
        """Time left, as text."""
        if self.done >= self.total:
            return "done"
        rate = self.rate(now)
        return duration((self.total - self.done) / rate) if rate else "…"


def duration(seconds: float) -> str:
    """Seconds as 42s, 3m05s, 2h10m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """Shows all stages of one run."""

    def __init__(self, stages: list[StageProgress], quiet: bool = False) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self._console = Console(stderr=True, quiet=quiet)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._last_line = 0.0
        self._last_text = ""

    def begin(self, stage: str) -> None:
        """A task of the stage was started."""
        if self.stages[stage].started is None:
            self.stages[stage].started = time.monotonic()

    def advance(self, stage: str, units: int, quarantined: int = 0) -> None:
        """`units` were finished, of which `quarantined` could not be processed."""
        entry = self.stages[stage]
        entry.done += units
        entry.quarantined += quarantined
        if entry.done >= entry.total:
            entry.finished = time.monotonic()
        self.refresh()

    def leave_out(self, stage: str, units: int) -> None:
        """`units` will not come to this stage, because an earlier one failed on them."""
        self.stages[stage].total -= units

    def say(self, text: str) -> None:
        """Print a line above the display."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        """Draw the present state."""
        now = time.monotonic()
        if self._live:
            if now - self._last_line >= SECONDS_BETWEEN_PICTURES:
                self._live.update(self._table(now), refresh=True)
                self._last_line = now
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line(now)

    def _print_line(self, now: float) -> None:
        text = " | ".join(
            f"{stage.name} {stage.done}/{stage.total} {stage.unit}"
            + (f", {stage.rate(now):.1f}/s, {stage.eta(now)}" if stage.rate(now) else "")
            + (f", {stage.quarantined} quarantined" if stage.quarantined else "")
            for stage in self.stages.values()
        )
        if text != self._last_text:
            self._console.print(text, highlight=False, soft_wrap=True)
        self._last_line, self._last_text = now, text

    def _table(self, now: float) -> Table:
        table = Table.grid(padding=(0, 2))
        for stage in self.stages.values():
            table.add_row(
                stage.name,
                ProgressBar(total=max(stage.total, 1), completed=stage.done if stage.total else 1, width=28),
                f"{stage.done}/{stage.total} {stage.unit}",
                f"{stage.rate(now):.1f}/s" if stage.rate(now) else "",
                stage.eta(now),
                f"[yellow]{stage.quarantined} quarantined[/]" if stage.quarantined else "",
            )
        return table

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(self._table(time.monotonic()), refresh=True)
            self._live.stop()
        else:
            self._print_line(time.monotonic())
