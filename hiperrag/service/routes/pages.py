"""The web page, and the cited pages of documents as pictures."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from importlib import resources
from pathlib import PurePath
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from hiperrag.service.catalogue import Catalogue
from hiperrag.service.errors import ApiError
from hiperrag.service.reading import reading, with_catalogue
from hiperrag.service.rendering import WIDTHS, BusyError, PageRequest, nearest_width
from hiperrag.service.routes.collections import found_passage

router = APIRouter()

BUSY_S = 2.0
"""After which a page that could not be drawn is asked for again."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclasses.dataclass(frozen=True, slots=True)
class _WebFile:
    content: bytes
    media_type: str
    etag: str


def _web_files() -> dict[str, _WebFile]:
    """The files of the web page by name. A request names one of these, never a path."""
    files = {}
    for entry in (resources.files("hiperrag.service") / "web").iterdir():
        media_type = _TYPES.get(PurePath(entry.name).suffix)
        if media_type:
            content = entry.read_bytes()
            files[entry.name] = _WebFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
    return files


_FILES = _web_files()


@router.get("/", include_in_schema=False)
async def web_page(request: Request) -> Response:
    """The web page."""
    return await web_file(request, "index.html")


@router.get("/web/{name}", include_in_schema=False)
async def web_file(request: Request, name: str) -> Response:
    """One of the web page's files."""
    file = _FILES.get(name)
    if file is None:
        raise ApiError(404, "no such file")
    headers = {"Cache-Control": "no-cache", "ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


@router.get(
    "/v1/collections/{name}/passages/{passage_id}/pages/{page}.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
async def page_image(
    request: Request,
    name: str,
    passage_id: str,
    page: int,
    width: Annotated[int, Query(ge=100, le=WIDTHS[-1])] = 1200,
) -> Response:
    """A page of the document that a passage is from, as PNG.

    Drawn from the source if it still is the file that was indexed, else from the text that was read;
    the header `X-Page-Drawn-From` says which, `source` or `text; REASON`.
    """
    wanted = await with_catalogue(request, name, lambda catalogue: _wanted(catalogue, passage_id, page, width))
    try:
        future = reading(request.app).renderer.draw(wanted)
    except BusyError:
        raise ApiError(503, "too many pages are waiting to be drawn; try again", retry_after_s=BUSY_S) from None
    picture = await asyncio.shield(asyncio.wrap_future(future))
    drawn_from = f"text; {picture.reason}" if picture.reason else "source"
    keep = "private, max-age=3600" if not picture.reason else "no-store"
    return Response(
        picture.png,
        media_type="image/png",
        headers={"X-Page-Drawn-From": drawn_from, "Cache-Control": keep},
    )


def _wanted(catalogue: Catalogue, passage_id: str, page: int, width: int) -> PageRequest:
    found = found_passage(catalogue, passage_id)
    document = catalogue.document(found)
    if document is None:
        raise ApiError(404, "the collection has no record of this document's pages")
    if not 1 <= page <= document.n_pages:
        raise ApiError(404, f"the document has {document.n_pages} pages" if document.n_pages else "it has no pages")
    size = next(((record.width, record.height) for record in document.pages if record.page == page), None)
    return PageRequest(
        doc_id=document.doc_id,
        page=page,
        width=nearest_width(width),
        inputs=catalogue.inputs(document.source),
        blocks=[block for block in document.blocks if block.page == page],
        size=size,
    )
