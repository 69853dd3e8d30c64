"""Files of pairs with a data card beside them, which says what they are from and how they were chosen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

import hiperrag
from hiperrag.answering.retrieval import Retriever
from hiperrag.encoders.training.pairs import Pair, write_pairs
from hiperrag.errors import UserError
from hiperrag.files import atomic_file, fingerprint, sha256_file, write_text_atomic

SUFFIX = ".jsonl"


def card_path(out: Path) -> Path:
    """Where the card of `out` is: pairs.jsonl has pairs.data_card.yaml."""
    return out.with_name(f"{out.name.removesuffix(SUFFIX)}.data_card.yaml")


def finished(out: Path, identity: str) -> dict[str, Any] | None:
    """The card of `out` where the command of this identity has written it; UserError where it is anything else."""
    if not out.exists():
        if out.suffix != SUFFIX:
            raise UserError(f"--out {out}: is written as JSON lines; give a name that ends with {SUFFIX}")
        return None
    path = card_path(out)
    card = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    if not isinstance(card, dict) or card.get("identity") != identity or card.get("sha256") != sha256_file(out):
        raise UserError(f"{out} is there and was not made by this command from these inputs: give another --out")
    return card


def write_with_card(out: Path, pairs: Iterable[Pair], identity: str, about: dict[str, Any]) -> dict[str, Any]:
    """Write pairs, and their card before they appear; the card."""
    with atomic_file(out) as temporary:
        write_pairs(temporary, pairs)
        card = {
            "identity": identity,
            "file": out.name,
            "sha256": sha256_file(temporary),
            "hiperrag": hiperrag.__version__,
        } | about
        write_text_atomic(card_path(out), yaml.safe_dump(card, sort_keys=False, allow_unicode=True))
    return card


def describe_collection(retriever: Retriever) -> dict[str, Any]:
    """What a card says of a collection; `version` is a hash of what can be found in it."""
    manifest = retriever.manifest
    shards = [(shard.identity, shard.deleted) for shard in manifest.shards]
    return {
        "name": retriever.collection.root.resolve().name,
        "version": fingerprint(manifest.encoder.identity, shards),
        "encoder": {"spec": manifest.encoder.spec, "identity": manifest.encoder.identity},
        "settings": manifest.settings_hash,
        "documents": manifest.counts.documents,
        "passages": manifest.counts.passages,
    }
