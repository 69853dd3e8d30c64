"""Questions spread over a site's workers with Parsl. A record depends on its question alone, so who asks is all one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hiperrag.errors import UserError
from hiperrag.warm import warm
from hiperrag.workflows.pool import Pool
from hiperrag.workflows.sites import load_site

PART = 16
"""Questions of one task: at most so many, for each worker, are asked again after an interruption."""
ATTEMPTS = 3
Record = dict[str, Any]
Answer = Callable[[int], Record]
"""Question number to record."""


def answer_part(prepare: Callable[..., Answer], argument: Any, numbers: range) -> list[Record]:
    """Records of some questions, on a worker; what `prepare(argument)` loads stays warm for its next part."""
    answer = warm(prepare, argument)
    return [answer(number) for number in numbers]


def over_site(
    site: str, run_dir: Path, prepare: Callable[..., Answer], argument: Any, numbers: range
) -> Iterator[Record]:
    """Records of the numbers in order, from the workers of a site; UserError where a part fails again and again."""
    parts = [numbers[start : start + PART] for start in range(0, len(numbers), PART)]
    if not parts:
        return
    with contextlib.closing(Pool(load_site(site), run_dir, len(parts))) as pool:
        failures = [0] * len(parts)
        for n, part in enumerate(parts):
            pool.submit(("eval", n), answer_part, prepare, argument, part)
        ready: dict[int, list[Record]] = {}
        for n in range(len(parts)):
            while n not in ready:
                for (_, done), future in pool.finished(timeout=1.0):
                    error = future.exception()
                    if error is None:
                        ready[done] = future.result()
                        continue
                    failures[done] += 1
                    if isinstance(error, UserError):
                        raise error
                    if failures[done] == ATTEMPTS:
                        questions = f"questions {parts[done].start + 1} to {parts[done].stop}"
                        raise UserError(f"{questions} failed {ATTEMPTS} times, last with {error!r}; rerun to resume")
                    pool.submit(("eval", done), answer_part, prepare, argument, parts[done])
            yield from ready.pop(n)
