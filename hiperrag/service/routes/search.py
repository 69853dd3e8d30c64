"""`POST /v1/search`: passages, without an answer."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request

from hiperrag.answering.hits import Hit
from hiperrag.filters import Filter
from hiperrag.service.answers import search
from hiperrag.service.auth import caller, collection_of, service
from hiperrag.service.completions import shards_of
from hiperrag.service.errors import ApiError
from hiperrag.service.routes.models import collection_of_model
from hiperrag.service.schemas import SearchHit, SearchRequest, SearchResponse
from hiperrag.service.serving import SearchResult, ServedCollection
from hiperrag.service.state import passage_url

router = APIRouter()


@router.post("/v1/search")
async def search_passages(request: Request, body: SearchRequest) -> SearchResponse:
    """The passages for a query, best first."""
    collection = _collection(request, body)
    here = service(request)
    where = Filter.parse(body.where) if body.where is not None else None

    def work() -> SearchResult:
        began = time.monotonic()
        ids: list[str] = []
        status = 500
        try:
            result = search(
                collection,
                [body.query],
                body.k,
                quality=body.quality,
                where=where,
                hybrid=body.hybrid,
                per_document=body.per_document,
            )
            ids, status = [hit.passage.passage_id for hit in result.hits[0]], 200
        except ApiError as error:
            status = error.status
            raise
        finally:
            here.audit.record(caller(request).name, "search", collection.name, body.query, ids, status)
        here.metrics.search_seconds.labels(collection.name).observe(time.monotonic() - began)
        return result

    result = await here.run(work)

    def hit_body(hit: Hit) -> SearchHit:
        return SearchHit(**hit.to_json(), url=passage_url(request, here.settings, collection.name, hit.passage))

    return SearchResponse(
        query=body.query,
        hits=[hit_body(hit) for hit in result.hits[0]],
        timings_ms=result.timings_ms,
        shards=shards_of(result),
    )


def _collection(request: Request, body: SearchRequest) -> ServedCollection:
    if body.collection:
        return collection_of(request, body.collection, "collection")
    return collection_of_model(request, body.model)
