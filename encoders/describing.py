"""What a collection must know of its encoder, without loading it."""

from __future__ import annotations

import json

from hiperrag.collection import EncoderEntry
from hiperrag.encoders.config import read_config
from hiperrag.encoders.loading import encoder_folder
from hiperrag.files import fingerprint, sha256_file
from hiperrag.models import weights_hash


def describe(spec: str) -> EncoderEntry:
    """The encoder's identity, sizes and limits, from its folder's small files."""
    folder = encoder_folder(spec)
    config = read_config(folder)
    hidden = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"])
    return EncoderEntry(
        spec=spec,
        identity=fingerprint(weights_hash(folder), config.model_dump_json()),
        tokenizer=fingerprint(sha256_file(folder / "tokenizer.json"), config.passage_prefix, config.passage_max_tokens),
        dim=hidden,
        pooled_dim=hidden,
        max_tokens=config.passage_max_tokens,
    )
