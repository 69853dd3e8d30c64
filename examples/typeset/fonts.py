"""The fonts the samples embed, all free to embed (SIL Open Font License, STIX and DejaVu licences).

They come with Python packages, which are never imported for it: STIX and DejaVu with `matplotlib`, Crimson Text,
IBM Plex Serif and Fira Sans with the `fontpkg-*` packages.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from pathlib import Path

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

_MATPLOTLIB = ("matplotlib", "matplotlib/mpl-data/fonts/ttf")
_CRIMSON = ("fontpkg-crimson-text", "fontpkg_crimson_text/files")
_PLEX = ("fontpkg-ibm-plex-serif", "fontpkg_ibm_plex_serif/files")
_FIRA = ("fontpkg-fira-sans", "fontpkg_fira_sans/files")

# family -> (distribution, folder), then the files of regular, bold, italic and bold italic
_FAMILIES: dict[str, tuple[tuple[str, str], tuple[str, str, str, str]]] = {
    "stix": (
        _MATPLOTLIB,
        ("STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf", "STIXGeneralBolIta.ttf"),
    ),
    "mono": (
        _MATPLOTLIB,
        (
            "DejaVuSansMono.ttf",
            "DejaVuSansMono-Bold.ttf",
            "DejaVuSansMono-Oblique.ttf",
            "DejaVuSansMono-BoldOblique.ttf",
        ),
    ),
    "crimson": (
        _CRIMSON,
        (
            "CrimsonText-Regular.ttf",
            "CrimsonText-Bold.ttf",
            "CrimsonText-Italic.ttf",
            "CrimsonText-BoldItalic.ttf",
        ),
    ),
    "plex": (
        _PLEX,
        (
            "IBMPlexSerif-Regular.ttf",
            "IBMPlexSerif-SemiBold.ttf",
            "IBMPlexSerif-Italic.ttf",
            "IBMPlexSerif-BoldItalic.ttf",
        ),
    ),
    "fira": (
        _FIRA,
        ("FiraSans-Regular.ttf", "FiraSans-SemiBold.ttf", "FiraSans-Italic.ttf", "FiraSans-BoldItalic.ttf"),
    ),
}
FALLBACK = "stix"
_STYLES = ("regular", "bold", "italic", "bolditalic")


class MissingFontError(Exception):
    """A font the typesetter needs is not installed."""


@dataclasses.dataclass(frozen=True)
class Face:
    """One registered font file."""

    name: str

    def has(self, character: str) -> bool:
        """Whether the font has a glyph for the character."""
        return ord(character) in pdfmetrics.getFont(self.name).face.charToGlyph

    def width(self, text: str, size: float) -> float:
        """Set width in points."""
        return float(pdfmetrics.stringWidth(text, self.name, size))


@functools.cache
def _located(distribution: str, path: str) -> Path:
    try:
        found = Path(str(importlib.metadata.distribution(distribution).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        found = Path()
    if not found.is_file():
        raise MissingFontError(f"the font {Path(path).name} is missing: pip install '.[samples]' brings {distribution}")
    return found


@functools.cache
def face(family: str, style: str = "regular") -> Face:
    """Register (once) and return the face of a family in one of regular, bold, italic, bolditalic."""
    (distribution, folder), files = _FAMILIES[family]
    return face_of_file(_located(distribution, f"{folder}/{files[_STYLES.index(style)]}"))


@functools.cache
def face_of_file(path: Path) -> Face:
    """Register (once) and return the face of a TrueType file; its stem is its name in the PDF."""
    pdfmetrics.registerFont(TTFont(path.stem, str(path)))
    return Face(path.stem)
