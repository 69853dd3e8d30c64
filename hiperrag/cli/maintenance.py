"""`hiperrag delete`, `compact` and `merge`: changes to collections that read no source again."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from hiperrag.counted import counted
from hiperrag.errors import UserError


@contextlib.contextmanager
def _in_one_line(collection: Path) -> Iterator[None]:
    """A full disk or a folder that may not be written, told in one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{collection}: {reason}; mend it and run the command again") from None


def delete(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION")],
    documents: Annotated[
        list[str] | None, typer.Argument(metavar="DOCUMENT", help="Documents as search shows them.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION",
            help="Instead: every document of which a passage meets a condition, such as: year < 1990",
        ),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Bring them back, if `compact` has not run since.")] = False,
) -> None:
    """Delete documents: they are found no more. `compact` frees their room."""
    if bool(documents) == (where is not None):
        raise UserError("name documents, or give --where CONDITION instead")
    from hiperrag.filters import Filter
    from hiperrag.workflows.maintenance import delete_documents

    with _in_one_line(collection):
        changed = delete_documents(
            collection, documents or [], Filter.parse(where) if where is not None else None, undo
        )
    for document in changed.documents:
        typer.echo(document)
    verb = "brought back" if undo else "deleted"
    already = "" if changed.documents or not documents else f"; they were {'not deleted' if undo else 'deleted'} before"
    what = f"{counted(len(changed.documents), 'document')}, {counted(changed.passages, 'passage')}"
    print(f"{verb}: {what}{already}", file=sys.stderr)


def compact(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION")],
    passages_per_shard: Annotated[
        int, typer.Option(metavar="N", min=1, help="Join shards up to so many passages.")
    ] = 1_000_000,
) -> None:
    """Join small shards into larger ones, and remove what was deleted; can be interrupted and run again."""
    from hiperrag.collection import Collection
    from hiperrag.workflows.maintenance import compact as compact_shards
    from hiperrag.workflows.progress import Progress, StageProgress

    Collection(collection).manifest()
    stage = StageProgress("compact", "shards", 0)
    with _in_one_line(collection), Progress([stage]) as progress:

        def report(done: int, total: int) -> None:
            stage.total, stage.done = total, done
            progress.refresh()

        try:
            before, after = compact_shards(collection, passages_per_shard, report)
        except KeyboardInterrupt:
            print("hiperrag: interrupted; shards that were finished are kept", file=sys.stderr)
            raise typer.Exit(130) from None
    print(f"{collection}: {counted(after, 'shard')}, {before} before", file=sys.stderr)


def merge(
    collections: Annotated[list[Path], typer.Argument(metavar="COLLECTION")],
    to: Annotated[Path, typer.Option("--to", metavar="NEW", help="Folder of the merged collection.")],
) -> None:
    """Merge collections of one encoder into a new one; files of the same content are kept once."""
    from hiperrag.workflows.maintenance import merge as merge_collections

    with _in_one_line(to):
        merged = merge_collections(collections, to)
    counts = merged.counts
    documents = counted(counts.documents - merged.n_deleted_documents, "document")
    passages = counted(counts.passages, "passage")
    print(f"{to}: {documents}, {passages} in {counted(counts.shards, 'shard')}", file=sys.stderr)
