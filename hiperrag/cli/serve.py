"""`hiperrag serve`: collections for people and programs, over HTTP."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiperrag.cli.stopping import exit_status, heed_sigterm
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.index.ranks import Ranks
    from hiperrag.service.settings import ServiceSettings


def serve(
    collections: Annotated[list[str], typer.Argument(metavar="COLLECTION|NAME=COLLECTION...")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    generator: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="default, hf:DIR_OR_NAME, gguf:FILE or openai:BASE_URL#MODEL; repeatable: the next one answers where "
            "one fails [default: default].",
        ),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="API keys, made by `hiperrag keys add`; needed by every caller.")
    ] = None,
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Listen beyond this machine although everybody may then ask.")
    ] = False,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate chain (PEM): serve HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")] = None,
    base_url: Annotated[
        str, typer.Option(metavar="URL", help="Address that citations are written with, behind a proxy.")
    ] = "",
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="A proxy whose X-Forwarded-For is believed; repeatable."),
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append who asked what, one JSON object a line.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Of one key, or one address without keys [default: 300; 0: any number].")
    ] = None,
    concurrent_requests: Annotated[
        int | None, typer.Option(min=1, help="Worked on at a time, of all callers together [default: 256].")
    ] = None,
    max_request_bytes: Annotated[int | None, typer.Option(min=1024, help="Of one body [default: 4194304].")] = None,
    request_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For one request, its answer included [default: 300].")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=0, help="Shard processes of each collection [default: 0, none].")
    ] = None,
) -> None:
    """Serve collections: a web page, an OpenAI-compatible API, search, embeddings and reranking.

    A collection is called as its folder is, or as NAME says; its model is hiperrag/NAME.
    """
    # numpy reads it when it is imported. Threads of OpenBLAS spin after each product, however small, and here many
    # requests share the cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "collections": named_collections(collections),
        "generators": generator or None,
        "keys_file": keys,
        "no_keys": no_keys,
        "tls_certificate": tls_cert,
        "tls_key": tls_key,
        "base_url": base_url,
        "trusted_proxies": trusted_proxy,
        "audit_log": audit,
        "requests_per_minute": requests_per_minute,
        "concurrent_requests": concurrent_requests,
        "max_request_bytes": max_request_bytes,
        "request_timeout_s": request_timeout,
        "processes": processes,
    }
    settings = service_settings({name: value for name, value in given.items() if value is not None})
    from hiperrag.index import launch

    heed_sigterm()
    try:
        launch.run(lambda ranks: _serve(settings, ranks))
    except KeyboardInterrupt as stop:
        raise typer.Exit(exit_status(stop)) from None


def named_collections(arguments: list[str]) -> dict[str, Path]:
    """Collections by name; UserError where two have the same, and where one is no collection."""
    from hiperrag.collection import Collection

    found: dict[str, Path] = {}
    for argument in arguments:
        name, separator, folder = argument.partition("=")
        path = Path(folder) if separator else Path(argument)
        if not separator or not name:
            name = path.resolve().name
        if name in found:
            raise UserError(f"two collections would be called {name}; give NAME={path}")
        Collection(path).manifest()
        found[name] = path
    return found


def service_settings(given: dict[str, Any]) -> ServiceSettings:
    from pydantic import ValidationError

    from hiperrag.errors import first_mistake
    from hiperrag.service.settings import ServiceSettings

    try:
        return ServiceSettings(**given)
    except ValidationError as error:
        raise UserError(first_mistake(error)) from None


def _serve(settings: ServiceSettings, ranks: Ranks | None) -> None:
    from hiperrag.service.running import run

    def ready(address: str) -> None:
        names = ", ".join(settings.collections)
        print(f"hiperrag: serving {names} at {address}", file=sys.stderr, flush=True)

    run(settings, _bound(settings), ready, ranks)


def _bound(settings: ServiceSettings) -> socket.socket:
    """A socket of the address to listen on: where it cannot be had, nothing needs to be loaded."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise UserError(
            f"cannot listen on {settings.host}:{settings.port} ({why.lower()}); give another --host or --port"
        ) from None
