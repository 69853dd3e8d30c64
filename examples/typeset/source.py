"""Reads a paper's source: YAML front matter, then a small Markdown.

Blocks are separated by empty lines: `#`/`##` headings, paragraphs, `- ` and `1. ` lists, `$$formula$$` (numbered;
`$$*formula$$` is not), and fences `::: figure|table|code|references` … `:::`. A figure's and a table's fence is
YAML; a code fence is verbatim; every line of a references fence is one reference.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml


@dataclasses.dataclass(frozen=True)
class Design:
    """The look of a paper (all lengths in points)."""

    page: str = "a4"
    columns: int = 2
    margins: tuple[float, float, float, float] = (72, 54, 66, 54)
    """Top, right, bottom, left."""
    gutter: float = 18
    family: str = "stix"
    heads: str = "stix"
    size: float = 9.6
    leading: float = 11.6
    title_size: float = 17
    centred: bool = False
    numbered: bool = True
    ligatures: bool = False
    language: str = "en_GB"
    abstract: str = "plain"
    """plain, boxed, ruled or column (the abstract opens the first column)."""
    alternate: bool = False
    """Page numbers outside, running heads different on odd and even pages."""
    footer_number: bool = False
    rules: bool = True
    """A rule under the running head."""
    first_page: int = 1
    scan_page: int = 0
    """The page (from 1) that becomes a picture, 0 for none."""


@dataclasses.dataclass(frozen=True)
class Paper:
    """A parsed source."""

    name: str
    title: str
    running: str
    journal: str
    authors: list[tuple[str, str]]
    """Name and affiliation marks."""
    affiliations: list[str]
    abstract: str
    keywords: str
    issue: str
    doi: str
    dates: str
    copyright: str
    correspondence: str
    design: Design
    blocks: list[Block]


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of the body; `data` is the YAML of a figure or table."""

    kind: str
    text: str = ""
    level: int = 0
    data: dict[str, Any] = dataclasses.field(default_factory=dict)


_FENCE = re.compile(r"^::: (\w+)\n(.*?)^:::$", re.MULTILINE | re.DOTALL)


def _blocks(body: str) -> list[Block]:
    blocks: list[Block] = []
    position = 0
    for fence in _FENCE.finditer(body):
        blocks += _plain_blocks(body[position : fence.start()])
        kind, content = fence.group(1), fence.group(2)
        if kind in ("figure", "table"):
            blocks.append(Block(kind, data=yaml.safe_load(content)))
        else:
            blocks.append(Block(kind, content.rstrip("\n")))
        position = fence.end()
    return blocks + _plain_blocks(body[position:])


def _plain_blocks(text: str) -> list[Block]:
    blocks = []
    for chunk in re.split(r"\n\s*\n", text.strip()):
        if not chunk:
            continue
        if heading := re.match(r"(#+) (.*)", chunk):
            blocks.append(Block("heading", heading.group(2), len(heading.group(1))))
        elif chunk.startswith("$$"):
            blocks.append(Block("equation", chunk.strip("$ \n")))
        elif chunk.startswith(("- ", "1. ")):
            blocks.append(Block("list", chunk))
        else:
            blocks.append(Block("paragraph", " ".join(chunk.split("\n"))))
    return blocks


def read_paper(path: Path) -> Paper:
    """Read one source file."""
    _, front, body = path.read_text(encoding="utf-8").split("---\n", 2)
    data = yaml.safe_load(front)
    look: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.pop("design").items()}
    design = Design(**look)
    authors = [tuple(author.rsplit(" ^", 1)) if " ^" in author else (author, "") for author in data.pop("authors")]
    optional = dict.fromkeys(("keywords", "issue", "doi", "dates", "copyright", "correspondence"), "")
    return Paper(name=path.stem, authors=authors, design=design, blocks=_blocks(body), **{**optional, **data})
