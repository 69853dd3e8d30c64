"""Typesets the sample papers: `python -m examples.typeset` turns examples/sources into examples/papers.

A small page-layout engine over ReportLab's canvas: justified, hyphenated text with optimal line breaks, columns,
floats, footnotes, tables, equations (Matplotlib's mathtext, drawn as text) and vector figures. The output is the
same byte for byte with the versions in `TOOLS`, which are also the project's optional dependencies `samples`.
"""

from __future__ import annotations

TOOLS = {
    "reportlab": "5.1.0",
    "matplotlib": "3.11.2",
    "pillow": "13.0.0",
    "pymupdf": "2.0",
    "pyphen": "0.18.1",
    "fontpkg-crimson-text": "1.100",
    "fontpkg-fira-sans": "4.203",
    "fontpkg-ibm-plex-serif": "2.006",
}
"""Distributions, and the versions the committed PDFs were made with."""
ZLIB = "1.2.13"
"""The zlib that compressed the committed PDFs; another one packs the same content into other bytes."""
