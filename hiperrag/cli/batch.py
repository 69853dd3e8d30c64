"""`hiperrag batch`: a file of requests, answered as the service answers them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiperrag.cli.serve import named_collections, service_settings
from hiperrag.cli.stopping import exit_status, heed_sigterm
from hiperrag.counted import counted
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.answering.generators import Generator
    from hiperrag.batching.deferred import DeferredGenerator
    from hiperrag.batching.requests import Requests
    from hiperrag.batching.results import Results
    from hiperrag.index.ranks import Ranks
    from hiperrag.service.settings import ServiceSettings

GATEWAY_BATCH_FROM = 1000
"""With more chat requests than this to do, a gateway's own batch mode is used where it has one."""
_REQUEST_TIMEOUT_S = 3600.0


def batch(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl")],
    to: Annotated[Path, typer.Argument(metavar="OUT.jsonl")],
    collection: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]COLLECTION",
            help="Its model is hiperrag/NAME; repeatable. A single one is also that of requests without a model. "
            "[default: the folders NAME here that the requests name]",
        ),
    ] = None,
    generator: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="default, hf:DIR_OR_NAME, gguf:FILE or openai:BASE_URL#MODEL; repeatable: the next one answers where "
            "one fails [default: default].",
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests worked on at a time.")] = 16,
    gateway_batch: Annotated[
        bool,
        typer.Option(
            help=f"With more than {GATEWAY_BATCH_FROM} chat requests, use the batch mode of the gateway if it has one."
        ),
    ] = True,
    base_url: Annotated[
        str, typer.Option(metavar="URL", help="Address of the service that citations link to.")
    ] = "http://127.0.0.1:8080",
    processes: Annotated[int, typer.Option(min=0, help="Shard processes of each collection; 0: none.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if a request has no answer.")] = False,
) -> None:
    """Answer a file of requests in OpenAI's batch format; the same command goes on where it was stopped."""
    from hiperrag.batching.requests import Requests
    from hiperrag.batching.results import Results
    from hiperrag.index import launch

    settings = service_settings(
        {
            "collections": named_collections(collection or _named_in(source)),
            "generators": generator or ["default"],
            "base_url": base_url,
            "processes": processes,
            "concurrent_requests": concurrency,
            "requests_per_minute": 0,
            "request_timeout_s": _REQUEST_TIMEOUT_S,
        }
    )
    names = list(settings.collections)
    requests = Requests(source, f"hiperrag/{names[0]}" if len(names) == 1 else "")
    if to.exists() and to.samefile(source):
        raise UserError(f"{to}: is the input; name another file for the results")
    results = Results(to, requests.lines)
    heed_sigterm()
    try:
        launch.run(lambda ranks: _answer(settings, requests, results, gateway_batch, ranks))
    except KeyboardInterrupt as stop:
        print(f"{to}: {_counts(requests, results)}; the same command goes on", file=sys.stderr)
        raise typer.Exit(exit_status(stop)) from None
    finally:
        results.close()
    print(f"{to}: {_counts(requests, results)}", file=sys.stderr)
    if strict and results.n_errors:
        raise typer.Exit(3)


def _named_in(source: Path) -> list[str]:
    """The folders here that requests call hiperrag/NAME."""
    from hiperrag.batching.requests import models_named

    names = [model.removeprefix("hiperrag/") for model in sorted(models_named(source)) if model.startswith("hiperrag/")]
    folders = [name for name in names if name not in ("", ".", "..") and "/" not in name and Path(name).is_dir()]
    if not folders:
        raise UserError(f"{source}: names no collection that is a folder here; give --collection COLLECTION")
    return folders


def _counts(requests: Requests, results: Results) -> str:
    done = len(results.done)
    errors = f", of which {counted(results.n_errors, 'error')}" if results.n_errors else ""
    return f"{done} of {counted(len(requests.lines), 'result')}{errors}"


def _answer(
    settings: ServiceSettings, requests: Requests, results: Results, gateway_batch: bool, ranks: Ranks | None
) -> None:
    from hiperrag.batching.run import answer_all
    from hiperrag.service.app import create_app
    from hiperrag.service.serving import ServedCollection
    from hiperrag.workflows.progress import Progress, StageProgress

    if results.n_stale:
        print(f"{results.path}: {counted(results.n_stale, 'result')} to be made again", file=sys.stderr)
    if not results.pending(requests.lines):
        return
    generator, deferred = _generator(settings, requests, results, gateway_batch)
    collections = {
        name: ServedCollection(name, root, processes=settings.processes, ranks=ranks)
        for name, root in settings.collections.items()
    }
    app = create_app(settings, collections, generator)
    stage = StageProgress("batch", "requests", len(requests.lines))
    stage.done = stage.cached = len(results.done)
    try:
        with Progress([stage]) as progress:
            progress.begin(stage.name)
            answer_all(
                app,
                requests,
                results,
                concurrency=settings.concurrent_requests,
                deferred=deferred,
                advance=lambda: progress.advance(stage.name, 1),
                say=progress.say,
            )
    finally:
        app.state.service.close()


def _generator(
    settings: ServiceSettings, requests: Requests, results: Results, gateway_batch: bool
) -> tuple[Generator, DeferredGenerator | None]:
    """The generator; deferred where the gateway behind it has a batch mode and there is enough to do for it."""
    from hiperrag.answering.generators import load_generators
    from hiperrag.answering.generators.openai import OpenAIGenerator

    generator = load_generators(settings.generators)
    if not (gateway_batch and isinstance(generator, OpenAIGenerator)):
        return generator, None
    from hiperrag.answering.generators.batches import GatewayBatches
    from hiperrag.batching.deferred import DeferredGenerator
    from hiperrag.batching.requests import CHAT_URL

    file = results.path.with_name(f"{results.path.name}.prompts")
    n_chats = sum(line.url == CHAT_URL for line in results.pending(requests.lines))
    batches = GatewayBatches(generator)
    if not file.exists() and (n_chats <= GATEWAY_BATCH_FROM or not batches.available()):
        return generator, None
    deferred = DeferredGenerator(generator.spec, batches, file)
    return deferred, deferred
