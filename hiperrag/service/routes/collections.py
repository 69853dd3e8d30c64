"""Facts of the collections served, and passages in their documents."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from hiperrag.records import Document, Passage
from hiperrag.service.auth import COOKIE, caller, service
from hiperrag.service.catalogue import Catalogue, Found
from hiperrag.service.errors import ApiError
from hiperrag.service.reading import with_catalogue
from hiperrag.service.serving import ServedCollection
from hiperrag.service.state import passage_url, shown_passage

router = APIRouter()


@router.get("/v1/collections")
async def list_collections(request: Request) -> dict[str, Any]:
    """The collections that the caller may ask, each with its size and the state of its shards.

    `signed_in`: whether the caller has a session of the web page, which can be ended.
    """
    who = caller(request)
    served = {name: one for name, one in service(request).collections.items() if who.may(name)}
    return {
        "object": "list",
        "data": [_summary(name, one) for name, one in served.items()],
        "signed_in": COOKIE in request.cookies,
    }


@router.get("/v1/collections/{name}")
async def collection_facts(request: Request, name: str) -> dict[str, Any]:
    """What a collection holds: counts, kinds of passages, fields to filter by, encoder, quarantine."""
    facts = await with_catalogue(request, name, lambda catalogue: catalogue.facts)
    return {**_summary(name, service(request).collections[name]), **facts}


@router.get("/v1/collections/{name}/passages/{passage_id}")
async def passage(request: Request, name: str, passage_id: str) -> dict[str, Any]:
    """A passage with its boxes, the sizes of the pages it is on, and the passages before and after it."""
    return await with_catalogue(request, name, lambda catalogue: _passage(request, catalogue, name, passage_id))


def found_passage(catalogue: Catalogue, passage_id: str) -> Found:
    """The passage of this id; 404 where there is none."""
    found = catalogue.find(passage_id)
    if found is None:
        raise ApiError(404, "the collection has no such passage; it may have been deleted or indexed anew")
    return found


def _summary(name: str, served: ServedCollection) -> dict[str, Any]:
    health = served.shard_health()
    with served.pinned() as version:
        manifest = version.manifest
    return {
        "id": name,
        "object": "collection",
        "model": f"hiperrag/{name}",
        "documents": manifest.counts.documents - manifest.n_deleted_documents,
        "pages": manifest.counts.pages,
        "passages": manifest.counts.passages,
        "shards": {"total": health.total, "open": health.open, "missing": list(health.missing)},
    }


def _passage(request: Request, catalogue: Catalogue, name: str, passage_id: str) -> dict[str, Any]:
    found = found_passage(catalogue, passage_id)
    document = catalogue.document(found)
    return {
        "object": "passage",
        **_plain(request, name, found.passage),
        "boxes": [[box.page, box.x0, box.y0, box.x1, box.y1] for box in found.passage.boxes],
        "metadata": found.passage.metadata,
        "authors": document.authors if document else [],
        "n_pages": document.n_pages if document else max(found.passage.pages, default=0),
        "page_sizes": _page_sizes(document, found.passage),
        "previous": _neighbour(request, catalogue, name, found, -1),
        "next": _neighbour(request, catalogue, name, found, 1),
    }


def _plain(request: Request, name: str, one: Passage) -> dict[str, Any]:
    return {
        "passage_id": one.passage_id,
        "document": shown_passage(one).document,
        "title": one.title,
        "section": one.section,
        "kind": one.kind,
        "pages": one.pages,
        "ordinal": one.ordinal,
        "text": one.text,
        "url": passage_url(request, service(request).settings, name, one),
    }


def _neighbour(request: Request, catalogue: Catalogue, name: str, found: Found, step: int) -> dict[str, Any] | None:
    neighbour = catalogue.neighbour(found, step)
    return _plain(request, name, neighbour) if neighbour else None


def _page_sizes(document: Document | None, one: Passage) -> list[dict[str, float]]:
    """Points, of the pages the passage is on; what its boxes are measured in."""
    pages = document.pages if document else []
    return [
        {"page": record.page, "width": record.width, "height": record.height}
        for record in pages
        if one.page_start <= record.page <= one.page_end
    ]
