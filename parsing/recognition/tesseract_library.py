"""Tesseract as a library in this process, through tesserocr: no process and no model to load for a page.

Its wheels hold a Tesseract that is compiled for speed; on the same pages it takes about two thirds of the CPU time of
Debian's program.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiperrag.parsing.recognition.engines import Picture, Recognised, TextLine, Word, runs_vertically

PACKAGE = "tesserocr"
INVERT = 0.5
"""Lines read with less confidence are read once more as white on black; Tesseract's own 0.7 takes more of them for
nothing."""
_PLACES = ("/usr/share/tesseract-ocr/*/tessdata", "/usr/share/tessdata", "/usr/local/share/tessdata")
_SIDEWAYS = (1, 3)
"""Orientations of text that runs down or up a page."""


def is_available() -> bool:
    """Whether the package is here, and a model of some language."""
    return _is_installed() and any(any(folder.glob("*.traineddata")) for folder in _folders())


def _is_installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


def models(language: str) -> Path | None:
    """The folder that holds the models of all these languages ("eng", "deu+eng"); None without it or the package."""
    wanted = [f"{part}.traineddata" for part in language.split("+")]
    fitting = (folder for folder in _folders() if all((folder / name).is_file() for name in wanted))
    return next(fitting, None) if _is_installed() else None


def _folders() -> Iterator[Path]:
    """Where models may be: as the environment says, from a package of this Python, or the system's."""
    if named := os.environ.get("TESSDATA_PREFIX"):
        yield Path(named)
        yield Path(named) / "tessdata"
    yield Path(sys.prefix) / "share" / "tessdata"
    for pattern in _PLACES:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)


class Library:
    """Tesseract's LSTM network in memory, one thread."""

    def __init__(self, language: str, folder: Path) -> None:
        import tesserocr

        self._tesserocr: Any = tesserocr
        self._api = tesserocr.PyTessBaseAPI(
            path=str(folder),
            lang=language,
            psm=tesserocr.PSM.AUTO,
            oem=tesserocr.OEM.LSTM_ONLY,
            variables={"invert_threshold": str(INVERT)},
        )

    def read(self, pictures: Sequence[Picture], seconds: float) -> list[Recognised]:
        """What each picture says; `seconds` limits the time of each."""
        return [self._page(picture, seconds) for picture in pictures]

    def _page(self, picture: Picture, seconds: float) -> Recognised:
        height, width = picture.pixels.shape
        try:
            self._api.SetImageBytes(np.ascontiguousarray(picture.pixels).tobytes(), width, height, 1, width)
            self._api.SetSourceResolution(round(picture.dpi))
            if not self._api.Recognize(int(1000 * seconds)):
                return Recognised(error=f"recognition took longer than {seconds:.0f} seconds")
            return Recognised(self._lines())
        except RuntimeError as error:
            return Recognised(error=f"Tesseract failed: {' '.join(str(error).split())}"[:200])
        finally:
            self._api.Clear()

    def _lines(self) -> list[TextLine]:
        found = self._api.GetIterator()
        if found is None:
            return []
        level = self._tesserocr.RIL
        lines: list[TextLine] = []
        for place in self._tesserocr.iterate_level(found, level.WORD):
            if place.Empty(level.WORD):  # a block that is a picture
                continue
            if place.IsAtBeginningOf(level.TEXTLINE) or not lines:
                lines.append(TextLine([], vertical=place.Orientation()[0] in _SIDEWAYS))
            text, box = place.GetUTF8Text(level.WORD).strip(), place.BoundingBox(level.WORD)
            if text and box:
                x0, y0, x1, y1 = map(float, box)
                lines[-1].words.append(Word(text, (x0, y0, x1, y1), place.Confidence(level.WORD) / 100))
        for line in lines:
            line.vertical = line.vertical or runs_vertically(line.words)
        return [line for line in lines if line.words]
