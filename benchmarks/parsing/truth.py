"""Ground truth of the pairs: headings with their paths, captions, tables, references, metadata.

A pairs folder holds pdf/ID.pdf, gt/ID.txt (body in reading order), gt/ID.json (title, authors, abstract, sections)
and the untouched source, gt/ID.jats.xml.gz, which adds labels, spans of cells, references and dates.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hiperrag.benchmarks.parsing.cells import Cell, Rows, span
from hiperrag.benchmarks.parsing.texts import heading_key, key, label_of
from hiperrag.errors import UserError

_APART = ("sub-article", "response")
_MATH_SOURCE = ("tex-math", "annotation")


@dataclasses.dataclass(slots=True)
class Heading:
    """A heading and its ancestors, outermost first, itself last; as the source writes them."""

    path: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.path[-1]


@dataclasses.dataclass(slots=True)
class Float:
    """A figure or table. `rows` is empty for figures and for tables that the source gives as a picture."""

    kind: str
    label: str
    caption: str
    rows: Rows = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        return f"{self.label} {self.caption}".strip()


@dataclasses.dataclass(slots=True)
class Truth:
    """What is known of one document. Lists are empty where the source does not say."""

    id: str
    columns: int | None
    n_pages: int
    text: str
    title: str = ""
    authors: list[str] = dataclasses.field(default_factory=list)
    abstract: str = ""
    headings: list[Heading] = dataclasses.field(default_factory=list)
    other_titles: set[str] = dataclasses.field(default_factory=set)
    """Keys of titles that stand outside the body: of the abstract's parts, of notes, of the references."""
    floats: list[Float] = dataclasses.field(default_factory=list)
    references: list[str] = dataclasses.field(default_factory=list)
    years: set[int] = dataclasses.field(default_factory=set)
    doi: str = ""
    paragraphs: list[str] = dataclasses.field(default_factory=list)
    structured: bool = False
    """Whether the source says anything beyond the text and its headings."""


def rows_of(pairs: Path, half: str = "all") -> list[dict[str, Any]]:
    """Rows of the manifest, sorted by id. `half`: "dev" every second from the first, "held" the others, or "all"."""
    manifest = pairs / "manifest.jsonl"
    if not manifest.is_file():
        raise UserError(f"{pairs} has no manifest.jsonl; give the folder of PDFs with ground truth")
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows.sort(key=lambda row: str(row["id"]))
    return {"dev": rows[::2], "held": rows[1::2], "all": rows}[half]


def load(pairs: Path, row: dict[str, Any]) -> Truth:
    """Everything the pairs folder knows of one row of its manifest."""
    name = row["id"]
    text = (pairs / row["gt_text"]).read_text(encoding="utf-8")
    truth = Truth(name, row.get("columns"), int(row.get("pages") or 0), text, doi=str(row.get("doi") or "").lower())
    truth.paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    if row.get("gt_json"):
        _from_json(truth, json.loads((pairs / row["gt_json"]).read_text(encoding="utf-8")))
    if (jats := pairs / "gt" / f"{name}.jats.xml.gz").is_file():
        _from_jats(truth, gzip.decompress(jats.read_bytes()))
    elif (markdown := pairs / "gt" / f"{name}.md.gz").is_file():
        _from_markdown(truth, gzip.decompress(markdown.read_bytes()).decode())
    return truth


def _from_json(truth: Truth, given: dict[str, Any]) -> None:
    truth.structured = True
    truth.title, truth.authors, truth.abstract = given["title"], given["authors"], given["abstract"]
    truth.paragraphs = [p for section in given["sections"] for p in section["paragraphs"]]
    previous: tuple[str, ...] = ()
    for section in given["sections"]:
        path = tuple(part for part in section["path"] if part)
        shared = 0
        while shared < min(len(path), len(previous)) and path[shared] == previous[shared]:
            shared += 1
        truth.headings += [Heading(path[: depth + 1]) for depth in range(shared, len(path))]
        previous = path


def _from_markdown(truth: Truth, text: str) -> None:
    above: list[tuple[int, str]] = []
    for match in re.finditer(r"^(#{1,6})\s+(.+?)\s*#*\s*$", text, re.M):
        above = [*(h for h in above if h[0] < len(match[1])), (len(match[1]), match[2])]
        truth.headings.append(Heading(tuple(title for _, title in above)))


def _from_jats(truth: Truth, source: bytes) -> None:
    article = ElementTree.fromstring(source)
    for parent in article.iter():
        for child in [child for child in parent if _tag(child) in _APART]:
            parent.remove(child)
    truth.floats = list(_floats(article))
    truth.references = [" ".join(reference_words(ref)) for ref in article.iter() if _tag(ref) == "ref"]
    truth.years = {
        int(year.text)
        for date in article.findall("./front/article-meta/pub-date")
        for year in date.findall("year")
        if year.text and year.text.strip().isdigit()
    }
    titles = {
        heading_key(_text(title))
        for parent in article.iter()
        for title in parent
        if _tag(title) in ("title", "kwd-group-title") and _tag(parent) != "caption"
    }
    truth.other_titles = {title for title in titles if title} - {heading_key(h.text) for h in truth.headings}


def _floats(article: ElementTree.Element) -> Iterator[Float]:
    for element in article.iter():
        kind = {"fig": "figure", "table-wrap": "table"}.get(_tag(element))
        if not kind:
            continue
        label = " ".join(_text(element.find("label")).split())
        # Some sources give a table's picture as a figure.
        kind = "table" if label_of(label)[0].endswith("table") else kind
        caption = element.find("caption")
        text = " ".join(" ".join(_text(part) for part in caption).split()) if caption is not None else ""
        tables = [table for table in element.iter() if _tag(table) == "table"]
        yield Float(kind, label, text, [row for table in tables for row in _rows(table)])


def _rows(table: ElementTree.Element) -> Rows:
    rows = []
    for row in table.iter():
        if _tag(row) == "tr":
            cells = [
                Cell(" ".join(_text(cell).split()), span(cell.get("rowspan")), span(cell.get("colspan")))
                for cell in row
                if _tag(cell) in ("td", "th")
            ]
            rows.append(cells)
    return rows


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _text(element: ElementTree.Element | None) -> str:
    if element is None or _tag(element) in _MATH_SOURCE:
        return ""
    separator = " " if _tag(element) in ("break", "p", "list-item") else ""
    return (
        separator + (element.text or "") + "".join(_text(child) + (child.tail or "") for child in element) + separator
    )


def reference_words(reference: ElementTree.Element) -> list[str]:
    """The words of a reference in the source's order, its parts kept apart."""
    return [word for part in reference.itertext() for word in part.split()]


def printed(text: str, pages: str) -> bool:
    """Whether a text's beginning is anywhere in `pages`, the `key` of all pages' text."""
    return key(text)[:40] in pages
