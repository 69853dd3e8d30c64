"""The application: routes behind the guard, errors in one shape, a schema that tells the truth."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

import hiperrag
from hiperrag.answering.generators.base import Generator
from hiperrag.service import login
from hiperrag.service.errors import install
from hiperrag.service.guard import OPEN_PATHS, Guard
from hiperrag.service.reading import close_reading
from hiperrag.service.routes import attribution, chat, collections, embeddings, health, models, pages, rerank, search
from hiperrag.service.schemas import ErrorBody
from hiperrag.service.serving import ServedCollection
from hiperrag.service.settings import ServiceSettings
from hiperrag.service.state import Service

_ROUTES = (health, models, chat, search, embeddings, rerank, attribution, collections, login, pages)
_REFUSALS = (400, 401, 403, 404, 405, 408, 413, 422, 429, 500, 503, 504)
_BEARER = {"type": "http", "scheme": "bearer", "description": "A key made by `hiperrag keys add`."}


def create_app(
    settings: ServiceSettings,
    collections: Mapping[str, ServedCollection] | None = None,
    generator: Generator | None = None,
) -> FastAPI:
    """The service as an ASGI application.

    Without collections and generator it is starting: `app.state.service.open(collections, generator)` lets it answer.
    Raises UserError where the settings' keys or audit log cannot be used.
    """
    service = Service(settings)
    if collections is not None and generator is not None:
        service.open(collections, generator)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        close_reading(app)
        service.close()

    app = FastAPI(
        title="HiPerRAG",
        version=hiperrag.__version__,
        summary="Grounded answers from collections of scientific documents, with citations down to the page.",
        lifespan=lifespan,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses={status: {"model": ErrorBody, "description": HTTPStatus(status).phrase} for status in _REFUSALS},
    )
    app.state.service = service
    install(app)
    for module in _ROUTES:
        app.include_router(module.router)
    app.add_middleware(Guard, service=service)
    app.openapi = lambda: _schema(app, service)  # type: ignore[method-assign]
    return app


def _schema(app: FastAPI, service: Service) -> dict[str, Any]:
    """OpenAPI's description of the routes, with the keys they ask for."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        if service.ring:
            schema["components"]["securitySchemes"] = {"key": _BEARER}
            schema["security"] = [{"key": []}]
            for path in OPEN_PATHS:
                for operation in schema["paths"].get(path, {}).values():
                    operation["security"] = []
        app.openapi_schema = schema
    return app.openapi_schema
