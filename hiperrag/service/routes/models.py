"""`GET /v1/models`: each collection is a model."""

from __future__ import annotations

from fastapi import APIRouter, Request

from hiperrag.service.auth import caller, collection_of, service
from hiperrag.service.errors import ApiError
from hiperrag.service.schemas import MODEL_PREFIX, ModelBody, ModelList
from hiperrag.service.serving import ServedCollection

router = APIRouter()


def collection_of_model(request: Request, model: str, param: str = "model") -> ServedCollection:
    """The collection of `hiperrag/NAME`; 403 and 404 as `collection_of`."""
    if not model.startswith(MODEL_PREFIX):
        raise ApiError(
            404, f"models are called {MODEL_PREFIX}NAME; see /v1/models", param=param, code="model_not_found"
        )
    return collection_of(request, model.removeprefix(MODEL_PREFIX), param)


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """The collections that the caller may ask."""
    names = [name for name in service(request).collections if caller(request).may(name)]
    return ModelList(data=[_body(request, name) for name in names])


@router.get("/v1/models/{model:path}")
async def model(request: Request, model: str) -> ModelBody:
    """One of them."""
    return _body(request, collection_of_model(request, model).name)


def _body(request: Request, name: str) -> ModelBody:
    return ModelBody(id=MODEL_PREFIX + name, created=service(request).opened_at)
