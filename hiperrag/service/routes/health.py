"""`/health`, `/ready` and `/metrics`: whether the process runs, whether it can answer, what it has done."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from hiperrag.service.auth import caller, service
from hiperrag.service.schemas import CollectionState, GeneratorState, Health, Readiness
from hiperrag.service.state import shown_generator

router = APIRouter()
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Readiness, "description": "No question is answered yet."}}


@router.get("/health")
async def health() -> Health:
    """The process answers; needs no key."""
    return Health()


@router.get("/ready", response_model=Readiness, responses=_NOT_READY)
async def ready(request: Request) -> Response:
    """Whether questions are answered: shards open, generator reachable; 503 while nothing is."""
    here = service(request)
    if here.starting:
        return _not_ready(Readiness(status="not ready", collections={}))
    reachable = await here.run(here.generator_problem) is None
    health = {name: collection.shard_health() for name, collection in here.collections.items()}
    states = {
        name: CollectionState(
            total=one.total, open=one.open, missing=list(one.missing), ready=one.ready, problem=one.problem
        )
        for name, one in health.items()
    }
    found = Readiness(
        status="ready",
        collections={name: state for name, state in states.items() if caller(request).may(name)},
        generator=GeneratorState(name=shown_generator(here.generator.spec), reachable=reachable),
    )
    if not any(state.ready for state in states.values()):
        return _not_ready(found.model_copy(update={"status": "not ready"}))
    if not reachable or any(state.missing or not state.ready for state in states.values()):
        found = found.model_copy(update={"status": "degraded"})
    return JSONResponse(found.model_dump())


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(service(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _not_ready(found: Readiness) -> Response:
    return JSONResponse(found.model_dump(), 503, {"Retry-After": "5"})
