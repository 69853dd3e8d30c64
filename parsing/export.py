"""Documents as files for people: body text, Markdown, JSON, pictures of figures, and pages with their boxes drawn."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from pydantic import TypeAdapter

from hiperrag.files import atomic_file, write_text_atomic
from hiperrag.parsing import figures, reading, render
from hiperrag.parsing.body import body_text
from hiperrag.parsing.inputs import Input, read_bytes
from hiperrag.parsing.markdown import figure_names, to_markdown
from hiperrag.records import Document

_DOCUMENT = TypeAdapter(Document)


def file_name(source: str) -> str:
    """A name for a source's files: its last part without ".pdf"."""
    stem = re.sub(r"\.pdf$", "", Path(source).name, flags=re.IGNORECASE)
    return re.sub(r"[/\0]", "_", stem)[:120] or "document"


def write_texts(document: Document, folder: Path, name: str) -> None:
    """NAME.txt (body), NAME.md (everything, figures linked to NAME/) and, last, NAME.json (all blocks)."""
    write_text_atomic(folder / f"{name}.txt", body_text(document) + "\n")
    write_text_atomic(folder / f"{name}.md", to_markdown(document, name))
    write_text_atomic(folder / f"{name}.json", json.dumps(dataclasses.asdict(document), ensure_ascii=False) + "\n")


def read_json(path: Path) -> Document:
    """The document of a NAME.json. Raises ValueError if it is not whole."""
    return _DOCUMENT.validate_json(path.read_bytes())


def write_pictures(item: Input, document: Document, crops: Path | None, pages: Path | None) -> None:
    """The figures as pictures in `crops`, every page with its boxes drawn in `pages`; either left out where None."""
    named = figure_names(document) if crops else {}
    if not named and not pages:
        return
    data = read_bytes(item)
    if crops and named:
        crops.mkdir(parents=True, exist_ok=True)
        with reading.opened(data) as pdf:
            for index, name in named.items():
                with atomic_file(crops / name) as temporary:
                    temporary.write_bytes(figures.crop(pdf, document.blocks[index]))
    if pages:
        render.write(data, document, pages)
