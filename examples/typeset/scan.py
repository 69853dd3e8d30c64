"""Turns one page of a PDF into a picture, as if it came from a scanner: grey, 150 dpi, a little askew, no text."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pymupdf
from PIL import Image, ImageFilter

_DPI = 150
_SKEW = 0.6
"""Degrees."""
_QUALITY = 42


def scan_page(path: Path, number: int) -> None:
    """Replace page `number` (from 1) of a PDF by a JPEG picture of itself."""
    with pymupdf.open(path) as document:  # type: ignore[no-untyped-call,unused-ignore]
        page = document[number - 1]
        pixmap = page.get_pixmap(dpi=_DPI, colorspace=pymupdf.csGRAY)
        image = Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)
        image = image.rotate(_SKEW, Image.Resampling.BICUBIC, fillcolor=255).filter(ImageFilter.GaussianBlur(0.55))
        image = image.point([round(18 + value * 0.9) for value in range(256)])
        rng = random.Random(number)
        for _ in range(260):  # dust
            place = (rng.randrange(image.width), rng.randrange(image.height))
            image.putpixel(place, rng.randrange(60, 160))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=_QUALITY, optimize=True, dpi=(_DPI, _DPI))
        size = page.rect
        document.delete_page(number - 1)
        fresh = document.new_page(number - 1, width=size.width, height=size.height)
        fresh.insert_image(fresh.rect, stream=stream.getvalue())
        data = document.tobytes(garbage=4, deflate=True, no_new_id=True)
    path.write_bytes(data)
