"""The page where people give their key, and the session they get for it."""

from __future__ import annotations

import base64
import hashlib
import json
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from hiperrag.service.auth import COOKIE, SESSION_S, caller_of, service
from hiperrag.service.errors import ApiError
from hiperrag.service.keys import digest

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { display: grid; place-items: center; min-height: 90vh; margin: 0; padding: 1rem; }
form { display: grid; gap: .75rem; width: min(24rem, 100%); }
h1 { font-size: 1.25rem; margin: 0; }
input, button { font: inherit; padding: .6rem .75rem; border-radius: .4rem; border: 1px solid GrayText; }
button { cursor: pointer; }
p { margin: 0; }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>HiPerRAG: sign in</title><style>{style}</style></head>
<body><main><form method="post" action="/login"><h1>HiPerRAG</h1>
<label for="key">Your key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
{message}<button>Sign in</button></form></main><script>{script}</script></body></html>
"""
_SCRIPT = 'document.forms[0].action = "/login" + location.hash;'
"""Leads on to what a link to the web page names after its #, which no server is told."""
_REFUSED = '<p role="alert">This key is not valid here.</p>\n'


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_POLICY = (
    f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

router = APIRouter(include_in_schema=False)


@router.get("/login")
async def login_page(request: Request) -> Response:
    """The page; the collections where no key is needed."""
    if service(request).ring is None:
        return RedirectResponse("/", 303)
    return _page()


@router.post("/login")
async def login(request: Request) -> Response:
    """Open a session for a key: form field or JSON member `key`."""
    here = service(request)
    is_form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    body = await request.body()
    key = here.ring.find(digest(_key(body, is_form))) if here.ring else None
    if key is None:
        if is_form:
            return _page(_REFUSED, 401)
        raise ApiError(401, "this key is not valid here")
    response: Response
    if is_form:
        response = RedirectResponse("/", 303)
    else:
        who = caller_of(key, "")
        response = JSONResponse({"name": who.name, "collections": [name for name in here.collections if who.may(name)]})
    response.set_cookie(
        COOKIE,
        here.sessions.open(key),
        max_age=int(SESSION_S),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End the session."""
    if token := request.cookies.get(COOKIE):
        service(request).sessions.close(token)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _key(body: bytes, is_form: bool) -> str:
    if is_form:
        return parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()
    try:
        key = json.loads(body)["key"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ApiError(422, 'send {"key": KEY}', param="key") from None
    if not isinstance(key, str):
        raise ApiError(422, "key: is a string", param="key")
    return key.strip()


def _page(message: str = "", status: int = 200) -> Response:
    html = _PAGE.format(style=_STYLE, script=_SCRIPT, message=message)
    return HTMLResponse(html, status, {"Content-Security-Policy": _POLICY})
