"""`hiperrag info`: what is in a collection."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from hiperrag.counted import counted, sized

SHOWN = 20
"""Quarantined inputs listed by name before the rest is only counted."""


def info(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is in a collection: counts, encoder, settings, and what is in quarantine and why."""
    facts = describe(collection)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    counts, encoder = facts["counts"], facts["encoder"]
    all_told = facts["documents"] < counts["documents"]
    rows = [
        ("documents", f"{facts['documents']} of {counted(counts['inputs'], 'input')}"),
        ("pages", f"{counts['pages']}{', deleted documents included' if all_told else ''}"),
        ("passages", f"{counts['passages']} ({facts['bytes_per_passage']:.0f} bytes of vectors each)"),
        (
            "token vectors",
            f"{counts['tokens']} ({facts['bytes_per_token']:.1f} bytes each, all told)"
            f"{', those of deleted passages included' if counts['deleted'] else ''}",
        ),
        ("truncated", counted(counts["truncated"], "passage")),
        ("deleted", f"{counted(counts['deleted'], 'passage')} that `hiperrag compact` would remove"),
        (
            "shards",
            f"{counts['shards']} ({sized(counts['bytes'])} of vectors, {sized(counts['text_bytes'])} of text), "
            f"{counted(counts['parts'], 'part')}",
        ),
        (
            "encoder",
            f"{encoder['spec']} ({encoder['dim']} dimensions, at most {encoder['max_tokens']} tokens)",
        ),
        (
            "storage",
            f"{facts['settings']['storage']['bits']} bits a dimension, "
            f"1 of {facts['settings']['storage']['token_pooling']} token vectors",
        ),
        ("duplicates", f"{counted(len(facts['duplicates']), 'file')} left out"),
        ("last run", facts["run"]),
        ("written by", f"hiperrag {facts['hiperrag']}, collection format {facts['format']}"),
        ("quarantined", counts["quarantined"]),
    ]
    for name, value in rows:
        typer.echo(f"{name:<14} {value}")
    for reason, number in facts["quarantine_by_reason"].items():
        typer.echo(f"  {reason:<12} {number}")
    for entry in facts["quarantine"][:SHOWN]:
        typer.echo(f"    {entry['source']}: {entry['message']}")
    if len(facts["quarantine"]) > SHOWN:
        typer.echo(f"    and {len(facts['quarantine']) - SHOWN} more: see --json")


def describe(root: Path) -> dict[str, Any]:
    """The facts that `info --json` prints."""
    import dataclasses

    from hiperrag.collection import Collection
    from hiperrag.records import read_quarantined

    collection = Collection(root)
    manifest = collection.manifest()
    quarantine = read_quarantined(collection.quarantine_files(manifest))
    counts = manifest.counts
    return {
        "collection": str(root),
        "format": manifest.format,
        "hiperrag": manifest.hiperrag,
        "run": manifest.run,
        "documents": counts.documents - manifest.n_deleted_documents,
        "counts": counts.model_dump(),
        "bytes_per_token": counts.bytes / max(1, counts.tokens),
        "bytes_per_passage": counts.bytes / max(1, counts.passages + counts.deleted),
        "encoder": manifest.encoder.model_dump(),
        "settings": manifest.settings,
        "duplicates": [{"source": source, "kept": kept} for source, kept in manifest.duplicates],
        "quarantine_by_reason": dict(Counter(entry.error for entry in quarantine).most_common()),
        "quarantine": [dataclasses.asdict(entry) for entry in quarantine],
    }
