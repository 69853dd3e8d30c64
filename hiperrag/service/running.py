"""Runs the service: listens at once, loads collections and generator meanwhile, ends when it is told to."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from hiperrag.answering.generators import load_generators
from hiperrag.errors import UserError
from hiperrag.service.app import create_app
from hiperrag.service.serving import ServedCollection
from hiperrag.service.settings import ServiceSettings
from hiperrag.service.state import Service

if TYPE_CHECKING:
    from hiperrag.index.ranks import Ranks

SWITCH_S = 0.0005
"""After which a thread lets others run. Python's 5 ms add up where hundreds of streams stand before a search."""

HEAPS = 2
_ARENA_MAX = -8
"""glibc's number of the option, M_ARENA_MAX."""


def run(
    settings: ServiceSettings, listening: socket.socket, ready: Callable[[str], None], ranks: Ranks | None = None
) -> None:
    """Serve until SIGINT or SIGTERM, which is raised again once answers in the making have ended or had their time.

    `ready` is called with the address once questions are answered. Raises UserError where a collection or the generator
    cannot be loaded, or the certificate cannot be used.
    """
    sys.setswitchinterval(SWITCH_S)
    _share_heaps()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    app = create_app(settings)
    server = uvicorn.Server(_config(settings, app))
    failed: list[Exception] = []

    def load() -> None:
        try:
            _open(app.state.service, ranks)
            ready(_address(settings, listening))
        except Exception as error:
            failed.append(error)
            server.should_exit = True

    threading.Thread(target=load, name="load", daemon=True).start()
    server.run(sockets=[listening])
    if failed:
        raise failed[0]


def _share_heaps() -> None:
    """Have glibc keep few heaps: what hundreds of threads free in heaps of their own is of no use to the others."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_ARENA_MAX, HEAPS)


def _open(service: Service, ranks: Ranks | None) -> None:
    settings = service.settings
    collections = {
        name: ServedCollection(name, root, processes=settings.processes, ranks=ranks)
        for name, root in settings.collections.items()
    }
    service.open(collections, load_generators(settings.generators))


def _config(settings: ServiceSettings, app: FastAPI) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_s)),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"--tls-cert and --tls-key cannot be used: {error}") from None
    return config


def _address(settings: ServiceSettings, listening: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{settings.scheme}://{host}:{listening.getsockname()[1]}"
