"""Tesseract: as a library where that is installed, else its program, pages in on standard input, hOCR out."""

from __future__ import annotations

import functools
import html
import itertools
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence

import numpy as np

from hiperrag.errors import UserError
from hiperrag.parsing.recognition import tesseract_library
from hiperrag.parsing.recognition.engines import (
    PAGE_SECONDS,
    Cost,
    Meter,
    Picture,
    Recognised,
    TextLine,
    Word,
    runs_vertically,
)
from hiperrag.parsing.recognition.tesseract_library import INVERT

PROGRAM = "tesseract"
INSTALL = "apt-get install tesseract-ocr tesseract-ocr-eng, or pip install 'hiperrag[ocr]'"
BATCH = 4
"""Pages to one process: loading the models takes a tenth of the time of a page."""

_PAGE = re.compile(r"<div class='ocr_page'")
_LINE = re.compile(r"<span class='ocr_(?:line|header|textfloat|caption)'[^>]*title=\"([^\"]*)\"")
_WORD = re.compile(
    r"<span class='ocrx_word'[^>]*title='bbox (\d+) (\d+) (\d+) (\d+); x_wconf (\d+)[^']*'[^>]*>(.*?)</span>"
)
_TAG = re.compile(r"<[^>]+>")


def is_available() -> bool:
    return tesseract_library.is_available() or shutil.which(PROGRAM) is not None


def load(language: str) -> Tesseract:
    """The engine: the library where it is installed with models of the language, else the program.

    Raises UserError where the program or the language is missing.
    """
    if (folder := tesseract_library.models(language)) is not None:
        return Tesseract(tesseract_library.Library(language, folder))
    if not is_available():
        raise UserError(f"Tesseract is not installed: no {PROGRAM} on PATH and no package tesserocr ({INSTALL})")
    known = _languages() if shutil.which(PROGRAM) else frozenset[str]()
    if missing := [part for part in language.split("+") if part not in known]:
        raise UserError(f"Tesseract has no model for {', '.join(missing)} (apt-get install tesseract-ocr-{missing[0]})")
    return Tesseract(Program(language))


@functools.cache
def _languages() -> frozenset[str]:
    done = subprocess.run([PROGRAM, "--list-langs"], capture_output=True, text=True, timeout=60, check=False)
    return frozenset(done.stdout.split())


class Tesseract:
    """Reads pages with one thread: more cost more than they bring."""

    name = "tesseract"
    on_gpu = False
    dpi = 150.0

    def __init__(self, reader: tesseract_library.Library | Program) -> None:
        self._reader = reader
        self.cost = Cost(prior=2.0)

    def recognise(self, pictures: Sequence[Picture], seconds: float = PAGE_SECONDS) -> list[Recognised]:
        found: list[Recognised] = []
        for start in range(0, len(pictures), BATCH):
            batch = pictures[start : start + BATCH]
            with Meter(self.cost, len(batch)):
                found += self._reader.read(batch, seconds)
        return found


class Program:
    """Tesseract's command line: several pages to a process."""

    def __init__(self, language: str) -> None:
        self._language = language

    def read(self, pictures: Sequence[Picture], seconds: float) -> list[Recognised]:
        """What each picture says; where a process fails, each gets one of its own."""
        try:
            pages = read_hocr(self._run(pictures, seconds))
            if len(pages) == len(pictures):
                return pages
            error = f"Tesseract read {len(pages)} of {len(pictures)} pages"
        except subprocess.TimeoutExpired:
            error = f"recognition took longer than {seconds:.0f} seconds"
        except (OSError, subprocess.CalledProcessError) as failure:
            error = _reason(failure)
        if len(pictures) == 1:
            return [Recognised(error=error)]
        return [self.read([picture], seconds)[0] for picture in pictures]

    def _run(self, pictures: Sequence[Picture], seconds: float) -> str:
        command = [PROGRAM, "-", "-", "--psm", "3", "-l", self._language, "-c", f"invert_threshold={INVERT}", "hocr"]
        done = subprocess.run(
            command,
            input=tiff(pictures),
            capture_output=True,
            timeout=seconds * len(pictures),
            check=True,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        )
        return done.stdout.decode("utf-8", "replace")


def _reason(failure: Exception) -> str:
    if isinstance(failure, subprocess.CalledProcessError):
        lines = (failure.stderr or b"").decode("utf-8", "replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "")
        return f"Tesseract failed (status {failure.returncode}): {said}"[:200]
    return f"Tesseract cannot be run: {failure}"


def tiff(pictures: Sequence[Picture]) -> bytes:
    """Grey pictures as one uncompressed TIFF of several pages, with their resolutions (TIFF 6.0, section 4)."""
    parts = [b"II*\0"]
    length, link = 4, 4  # where the next byte goes, where the offset of the next directory is to be written
    links: list[tuple[int, int]] = []
    for picture in pictures:
        height, width = picture.pixels.shape
        data = np.ascontiguousarray(picture.pixels).tobytes()
        start = length + 4  # after the link that ends the previous directory, or the header
        resolution = start + len(data) + len(data) % 2
        directory = resolution + 8
        fields = [
            (256, 4, width),
            (257, 4, height),
            (258, 3, 8),
            (259, 3, 1),
            (262, 3, 1),
            (273, 4, start),
            (277, 3, 1),
            (278, 4, height),
            (279, 4, len(data)),
            (282, 5, resolution),
            (283, 5, resolution),
            (296, 3, 2),
        ]
        links.append((link, directory))
        parts += [b"\0\0\0\0", data, b"\0" * (len(data) % 2), struct.pack("<II", round(picture.dpi * 100), 100)]
        parts.append(struct.pack("<H", len(fields)))
        parts += [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields]
        length = link = directory + 2 + 12 * len(fields)
    file = bytearray(b"".join([*parts, b"\0\0\0\0"]))
    for place, target in links:
        struct.pack_into("<I", file, place, target)
    return bytes(file)


def read_hocr(text: str) -> list[Recognised]:
    """Pages of an hOCR document."""
    return [_page(part) for part in _PAGE.split(text)[1:]]


def _page(text: str) -> Recognised:
    page = Recognised()
    starts = list(_LINE.finditer(text))
    for match, following in itertools.zip_longest(starts, starts[1:]):
        end = following.start() if following else len(text)
        words = []
        for x0, y0, x1, y1, confidence, content in _WORD.findall(text, match.end(), end):
            word = html.unescape(_TAG.sub("", content)).strip()
            if word:
                words.append(Word(word, (float(x0), float(y0), float(x1), float(y1)), int(confidence) / 100))
        if words:
            page.lines.append(TextLine(words, "textangle" in match.group(1) or runs_vertically(words)))
    return page
