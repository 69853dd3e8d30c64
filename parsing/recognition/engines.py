"""What recognises characters: the engines this machine has, behind one interface."""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from hiperrag.errors import UserError
from hiperrag.records import BBox
from hiperrag.warm import warm

Pixels = npt.NDArray[np.uint8]
"""Grey values (height, width): 0 black, 255 white."""
Name = Literal["auto", "tesseract", "rapidocr"]
PRIORITY = ("tesseract", "rapidocr")
"""The order "auto" looks in: the cheapest first."""
PAGE_SECONDS = 60.0
"""Wall-clock limit on the recognition of one page."""


@dataclasses.dataclass(slots=True)
class Picture:
    """An upright, straight page or part of one to recognise."""

    pixels: Pixels
    dpi: float


@dataclasses.dataclass(slots=True)
class Word:
    """A recognised word: its box in pixels of the picture, and how sure the engine is (0..1)."""

    text: str
    box: BBox
    confidence: float


@dataclasses.dataclass(slots=True)
class TextLine:
    """Words of one line, left to right. `vertical`: the line runs up or down the picture."""

    words: list[Word]
    vertical: bool = False


def runs_vertically(words: Sequence[Word]) -> bool:
    """Whether the words of a line stand on end: engines read some sideways text without saying that it is."""
    boxes = [word.box for word in words if len(word.text) > 2]
    return sum(y1 - y0 for _, y0, _, y1 in boxes) > 1.5 * sum(x1 - x0 for x0, _, x1, _ in boxes)


@dataclasses.dataclass(slots=True)
class Recognised:
    """What an engine read from one picture. `error` says in a line why nothing could be read."""

    lines: list[TextLine] = dataclasses.field(default_factory=list)
    error: str = ""

    @property
    def confidence(self) -> float:
        """Mean over all characters, 0..1; 0 where nothing was read."""
        weights = [(len(word.text), word.confidence) for line in self.lines for word in line.words]
        total = sum(weight for weight, _ in weights)
        return sum(weight * confidence for weight, confidence in weights) / total if total else 0.0


class Engine(Protocol):
    """Something that recognises characters in pictures."""

    name: str
    on_gpu: bool
    """Whether pages are the cheaper the more of them it gets at once."""
    dpi: float
    """Resolution it reads best at for its cost."""
    cost: Cost

    def recognise(self, pictures: Sequence[Picture], seconds: float = PAGE_SECONDS) -> list[Recognised]:
        """What each picture says, in their order. `seconds` limits the time a picture may take; one that takes
        longer or fails has an `error` and leaves the others alone."""


class Cost:
    """CPU seconds a page, of this process and its children: `prior` until pages have been read, then their mean,
    in which later pages count more."""

    def __init__(self, prior: float) -> None:
        self._seconds = prior
        self._pages = 0.0

    @property
    def seconds_per_page(self) -> float:
        return self._seconds

    def add(self, seconds: float, pages: int) -> None:
        """Count `pages` pages that took `seconds` in all."""
        if pages < 1:
            return
        self._pages = min(self._pages, 50.0) + pages
        self._seconds += (seconds / pages - self._seconds) * pages / self._pages


class Meter:
    """Context: adds the CPU time spent within to `cost`, as that of `pages` pages."""

    def __init__(self, cost: Cost, pages: int) -> None:
        self._cost, self._pages = cost, pages

    def __enter__(self) -> Meter:
        self._start = _cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self._cost.add(_cpu_seconds() - self._start, self._pages)


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def available() -> list[str]:
    """Names of the engines that can be used here, the cheapest first."""
    return [name for name in PRIORITY if _module(name).is_available()]


def load(name: Name = "auto", language: str = "eng") -> Engine:
    """The engine "tesseract" or "rapidocr", or "auto" for the cheapest installed, kept in this process for its next
    pages.

    `language` is Tesseract's name or names ("eng", "deu+eng"); the models of the others know many languages.
    Raises UserError where the engine is not installed.
    """
    chosen: str = name
    if name == "auto":
        found = available()
        if not found:
            raise UserError(
                "no OCR engine is installed; install Tesseract (apt-get install tesseract-ocr tesseract-ocr-eng) "
                "or Tesseract as a library and RapidOCR (pip install 'hiperrag[ocr]')"
            )
        chosen = found[0]
    elif name not in PRIORITY:
        raise UserError(f"no OCR engine is called {name!r}; there are {', '.join(PRIORITY)}")
    make: Callable[[str], Engine] = _module(chosen).load
    return warm(make, language)


def _module(name: str) -> Any:
    from hiperrag.parsing.recognition import rapid, tesseract

    return {"tesseract": tesseract, "rapidocr": rapid}[name]
