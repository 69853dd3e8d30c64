"""Copies of PDFs without a text layer: every page as a picture, some turned as scanners turn them."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from hiperrag.files import atomic_file
from hiperrag.parsing import reading

QUALITY = 85
"""Of the JPEG pictures."""
TURNED = 0.25
"""Share of pages that are turned, where turning is asked for."""
WAYS = ("pixels", "flag", "both")
"""A turned page is seen sideways because its pixels are, or because of its /Rotate entry; "both" undo each other."""


def turns(name: str, n_pages: int, seed: int = 0) -> list[tuple[str, int]]:
    """How each page is turned: one of WAYS and degrees clockwise, 90 or 270; ("", 0) for pages left as they are.

    The same for the same name, number of pages and seed.
    """
    chance = random.Random(f"{seed} {name}")
    chosen = []
    for _ in range(n_pages):
        way, degrees, is_turned = chance.choice(WAYS), chance.choice((90, 270)), chance.random() < TURNED
        chosen.append((way, degrees) if is_turned else ("", 0))
    return chosen


def rasterise(data: bytes, dpi: int, ways: list[tuple[str, int]] | None = None) -> bytes:
    """A PDF with a grey picture of each page at `dpi` and no text; `ways` is what `turns` gives."""
    pymupdf = reading.load_pymupdf()
    with pymupdf.open(stream=data, filetype="pdf") as pdf, pymupdf.open() as copy:
        for index, page in enumerate(pdf):
            way, degrees = ways[index] if ways else ("", 0)
            zoom = pymupdf.Matrix(dpi / 72, dpi / 72)
            if way in ("pixels", "both"):
                zoom = zoom * pymupdf.Matrix(degrees)
            picture = page.get_pixmap(matrix=zoom, colorspace=pymupdf.csGRAY, alpha=False)
            width, height = picture.width * 72 / dpi, picture.height * 72 / dpi
            made = copy.new_page(width=width, height=height)
            made.insert_image(made.rect, stream=picture.tobytes("jpeg", jpg_quality=QUALITY))
            if way == "flag":
                made.set_rotation(degrees)
            elif way == "both":
                made.set_rotation(360 - degrees)
        return bytes(copy.tobytes(garbage=3))


def raster_copy(source: Path, work: Path, dpi: int, turn: bool, seed: int = 0) -> Path:
    """The picture-only copy of a file in a work folder, made where it is missing."""
    data = source.read_bytes()
    name = f"{hashlib.sha256(data).hexdigest()[:16]}-{dpi}{f'-turned{seed}' if turn else ''}.pdf"
    path = work / "rasters" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with reading.load_pymupdf().open(stream=data, filetype="pdf") as pdf:
            ways = turns(source.stem, len(pdf), seed) if turn else None
        with atomic_file(path) as temporary:
            temporary.write_bytes(rasterise(data, dpi, ways))
    return path
