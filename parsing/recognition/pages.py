"""Pages without usable characters, read from their images: batches of pages, one bad page never losing others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from hiperrag.parsing.lines import Line
from hiperrag.parsing.recognition import images, typeset
from hiperrag.parsing.recognition.engines import PAGE_SECONDS, Engine, Picture, Recognised
from hiperrag.parsing.recognition.images import PageImage
from hiperrag.parsing.recognition.typeset import RecognisedPage
from hiperrag.records import BBox

BATCH = 16
"""Pages in memory at a time."""
DOUBTFUL = 0.6
"""A page read with less confidence may stand another way up."""
MARGIN = 3.0
"""Points around a region that its picture takes in."""


@dataclasses.dataclass(slots=True)
class _Job:
    number: int
    picture: Picture
    size: tuple[float, float]
    turns: list[int]
    """Ways the page may be turned that have not been tried."""
    image: PageImage | None = None
    read: Recognised = dataclasses.field(default_factory=Recognised)


def read_pages(
    pdf: Any,
    numbers: Sequence[int],
    engine: Engine,
    seconds: float = PAGE_SECONDS,
    failed: dict[int, str] | None = None,
    batch: int = BATCH,
    on_batch: Callable[[Sequence[int]], bool] = lambda _: True,
) -> dict[int, RecognisedPage]:
    """Pages of an open PyMuPDF document by number, which counts from 1.

    `seconds` limits the time of a page. A page that cannot be read is not in the result; `failed`, if given, takes
    the reason by number. `on_batch` is called with the numbers of up to `batch` pages before their turn, and says
    whether it comes; if not, these pages and all after them are left out.
    """
    failed = failed if failed is not None else {}
    drafts: list[typeset.Draft] = []
    for start in range(0, len(numbers), batch):
        chosen = numbers[start : start + batch]
        if not on_batch(chosen):
            break
        drafts += _drafts(pdf, chosen, engine, seconds, failed)
    return {page.number: page for page in typeset.finish(drafts)}


def _drafts(
    pdf: Any, numbers: Sequence[int], engine: Engine, seconds: float, failed: dict[int, str]
) -> list[typeset.Draft]:
    """Drafts of pages that go to the engine together."""
    jobs: list[_Job] = []
    for number in numbers:
        try:
            jobs.append(_job(pdf, number, engine))
        except Exception as error:  # MuPDF raises many types
            failed[number] = f"cannot be drawn: {_reason(error)}"
    _recognise(jobs, engine, seconds)
    drafts: list[typeset.Draft] = []
    for job in jobs:
        if job.read.error or job.image is None:
            failed[job.number] = job.read.error or "cannot be read"
            continue
        try:
            drafts.append(typeset.draft(job.number, job.image, job.read))
        except Exception as error:  # no page may cost the others
            failed[job.number] = _reason(error)
    return drafts


def _reason(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _job(pdf: Any, number: int, engine: Engine) -> _Job:
    page = pdf[number - 1]
    picture = images.render(page, engine.dpi)
    size = float(page.rect.width), float(page.rect.height)
    return _Job(number, picture, size, images.orientations(picture))


def _recognise(jobs: Sequence[_Job], engine: Engine, seconds: float) -> None:
    """Read every page the likeliest way up, then those that made little sense other ways, and keep the best."""
    while jobs:
        tried = []
        for job in jobs:
            turn = job.turns.pop(0)
            tried.append(images.straightened(images.turned(job.picture, turn), turn, job.size))
        for job, image, read in zip(jobs, tried, engine.recognise([i.picture for i in tried], seconds), strict=True):
            if job.image is None or _sense(read) > _sense(job.read):
                job.image, job.read = image, read
            if _is_sideways(read):
                job.turns.sort(key=lambda turn: (turn - image.turn) % 2 == 0)
        jobs = [job for job in jobs if job.turns and not job.read.error and _is_doubtful(job.read)]


def _is_doubtful(read: Recognised) -> bool:
    """Whether a page was read with little confidence, or most of it up or down."""
    return read.confidence < DOUBTFUL or _is_sideways(read)


def _is_sideways(read: Recognised) -> bool:
    letters = sum(len(word.text) for line in read.lines for word in line.words)
    level = sum(len(word.text) for line in read.lines if not line.vertical for word in line.words)
    return level < 0.5 * letters


def _sense(read: Recognised) -> int:
    """Letters in words of level lines that were read with confidence."""
    words = [word for line in read.lines if not line.vertical for word in line.words if word.confidence >= typeset.SURE]
    return sum(len(word.text) for word in words if len(word.text) > 1)


def recognise_regions(
    pdf: Any, regions: Sequence[tuple[int, BBox]], engine: Engine, seconds: float = PAGE_SECONDS
) -> list[list[Line]]:
    """Lines of each region (page number, box in points of the page as displayed), from the page's image.

    For places whose characters are missing or wrong while the rest of the page is fine: text must stand upright.
    Coordinates are points of the page. A region that cannot be read has no lines.
    """
    found: list[list[Line]] = [[] for _ in regions]
    for start in range(0, len(regions), BATCH):
        clips: list[tuple[int, PageImage, BBox]] = []
        for index in range(start, min(len(regions), start + BATCH)):
            number, (x0, y0, x1, y1) = regions[index]
            try:
                page = pdf[number - 1]
                box = (
                    max(0.0, x0 - MARGIN),
                    max(0.0, y0 - MARGIN),
                    min(float(page.rect.width), x1 + MARGIN),
                    min(float(page.rect.height), y1 + MARGIN),
                )
                picture = images.render(page, engine.dpi, box)
            except Exception:  # MuPDF raises many types; the other regions go on
                continue
            clips.append((index, PageImage(picture, 0, 0.0, box[2] - box[0], box[3] - box[1]), box))
        read = engine.recognise([image.picture for _, image, _ in clips], seconds)
        drafts = [
            typeset.draft(regions[index][0], image, said) for (index, image, _), said in zip(clips, read, strict=True)
        ]
        for (index, _, box), page in zip(clips, typeset.finish(drafts), strict=True):
            found[index] = [_moved(line, box[0], box[1]) for line in page.lines]
    return found


def _moved(line: Line, x: float, y: float) -> Line:
    return dataclasses.replace(
        line, x0=line.x0 + x, x1=line.x1 + x, y0=line.y0 + y, y1=line.y1 + y, baseline=line.baseline + y
    )
