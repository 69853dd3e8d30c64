"""Errors as OpenAI's API words them, for every way a request can go wrong; none shows a path, a key or a traceback."""

from __future__ import annotations

import json
import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hiperrag.answering.generators.base import BusyError
from hiperrag.errors import UserError
from hiperrag.filters import FilterError

log = logging.getLogger("hiperrag.service")

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    422: "invalid_request",
    429: "rate_limit_exceeded",
    500: "internal_error",
    503: "unavailable",
    504: "timeout",
}
_WORDS = {404: "there is no such URL", 405: "this method is not possible here; see the header Allow"}
RETRY_S = 5.0
"""After how many seconds to ask again where nothing better is known."""


class ApiError(Exception):
    """A refusal: HTTP status, one line for the client, and where known the parameter at fault."""

    def __init__(
        self, status: int, message: str, *, code: str = "", param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code or _CODES.get(status, "error")
        self.param = param
        self.retry_after_s = RETRY_S if retry_after_s is None and status in (429, 503) else retry_after_s

    def to_json(self) -> dict[str, Any]:
        """The body: `{"error": {"message", "type", "param", "code"}}`."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole HTTP response."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.to_json(), self.status, headers)


def api_error(error: Exception) -> ApiError:
    """What a client is told of an error that came up while its request was worked on; the log gets the details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, FilterError):
        return ApiError(422, str(error), param="where", code="invalid_filter")
    if isinstance(error, BusyError):
        return ApiError(503, "the generator is busy; try again later", code="busy", retry_after_s=error.retry_after_s)
    if isinstance(error, UserError):
        log.warning("%s", error)
        return ApiError(503, "the service cannot do this at the moment; its log says why")
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the service failed on this request; its log says why")


def install(app: FastAPI) -> None:
    """Have the application answer with these errors."""

    @app.exception_handler(ApiError)
    async def refuse(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(UserError)
    async def explain(_: Request, error: UserError) -> Response:
        return api_error(error).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return _of_validation(error).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        response = _of_http(error).response()
        response.headers.update(error.headers or {})
        return response


def _of_validation(error: RequestValidationError) -> ApiError:
    """The first mistake, without the value: what was sent is not sent back."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON", code="invalid_json")
    param = ".".join(str(step) for step in first["loc"] if _is_step(step))[:200] or None
    what = " ".join(str(first["msg"]).removeprefix("Value error, ").split())[:500]
    return ApiError(422, f"{param}: {what}" if param else what, param=_printable(param))


def _is_step(step: int | str) -> bool:
    """Whether it is part of the path in the body; pydantic adds where that is, and which of several types it tried."""
    return isinstance(step, int) or (step.isidentifier() and step not in ("body", "query", "path", "str", "int"))


def _printable(text: str | None) -> str | None:
    return text and json.dumps(text, ensure_ascii=True)[1:-1]


def _of_http(error: HTTPException) -> ApiError:
    """With the routes' own words where they gave some; Starlette's and FastAPI's are replaced."""
    status = error.status_code
    if status == 400:
        return ApiError(400, "the body cannot be read", code="invalid_json")
    if error.detail == HTTPStatus(status).phrase:
        return ApiError(status, _WORDS.get(status, error.detail.lower()), code=_CODES.get(status, "error"))
    return ApiError(status, str(error.detail))
