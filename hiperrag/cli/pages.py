"""Cited pages as pictures, shown by the system's viewer."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.collection import Collection, Manifest
    from hiperrag.records import Passage
    from hiperrag.service.catalogue import Catalogue
    from hiperrag.service.rendering import PageRenderer, Picture

WIDTH = 1600
"""Pixels."""
_VIEWERS = ("xdg-open", "open")
_REASONS = {
    "gone": "the source is no longer where it was",
    "changed": "the source is another file by now",
    "damaged": "the source cannot be drawn",
    "too_costly": "the source takes too long to draw",
}


class PageViewer:
    """Draws pages of a collection's documents into a temporary folder, which is left to the system to clear."""

    def __init__(self, collection: Collection, manifest: Manifest, *, start: bool) -> None:
        self._collection, self._manifest = collection, manifest
        self._program = next((found for name in _VIEWERS if (found := shutil.which(name))), None) if start else None
        self._opened: tuple[Catalogue, PageRenderer, Path] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened:
            self._opened[1].close()

    def show(self, passage: Passage) -> str:
        """Draw the first page of a passage and show it; what to tell the reader. UserError where there is no page."""
        if not passage.page_start:
            return " ".join(passage.text.split())
        picture, path = self._draw(passage)
        said = f"page {passage.page_start}: {path}"
        if picture.reason:
            said += f" (drawn from the text that was read: {_REASONS[picture.reason]})"
        if self._program:
            quiet = subprocess.DEVNULL
            subprocess.Popen(
                [self._program, str(path)], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
            )
        return said

    def _draw(self, passage: Passage) -> tuple[Picture, Path]:
        from hiperrag.service.rendering import PageRequest

        catalogue, renderer, folder = self._open()
        found = catalogue.find(passage.passage_id)
        document = catalogue.document(found) if found else None
        page = passage.page_start
        if document is None:
            raise UserError("the collection has no record of this document's pages")
        picture = renderer.draw(
            PageRequest(
                doc_id=document.doc_id,
                page=page,
                width=WIDTH,
                inputs=catalogue.inputs(document.source),
                blocks=[block for block in document.blocks if block.page == page],
                size=next(((one.width, one.height) for one in document.pages if one.page == page), None),
            )
        ).result()
        path = folder / f"{document.doc_id[:12]}-{page}.png"
        path.write_bytes(picture.png)
        return picture, path

    def _open(self) -> tuple[Catalogue, PageRenderer, Path]:
        from hiperrag.service.catalogue import Catalogue
        from hiperrag.service.rendering import PageRenderer

        if self._opened is None:
            folder = Path(tempfile.mkdtemp(prefix="hiperrag-pages-"))
            self._opened = Catalogue(self._collection, self._manifest), PageRenderer(workers=1), folder
        return self._opened
