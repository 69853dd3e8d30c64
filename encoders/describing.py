"""What a collection must know of its encoder, without loading it."""

from __future__ import annotations

import json

from hiperrag.collection import EncoderEntry
from hiperrag.encoders.config import read_config
from hiperrag.encoders.loading import encoder_folder
from hiperrag.encoders.precision import chosen_precision, split_spec, vectors_identity
from hiperrag.encoders.projecting import projected_dim
from hiperrag.files import fingerprint, sha256_file
from hiperrag.models import packaged


def describe(spec: str) -> EncoderEntry:
    """The encoder's identity, sizes and limits, from its folder's small files.

    The entry's spec names the precision, so that every worker, and every later query, uses the same one.
    """
    folder = encoder_folder(spec)
    config = read_config(folder)
    name, precision = split_spec(spec)
    if name not in {model.name for model in packaged()}:
        name = str(folder)  # searches run from other folders must find it too
    precision = precision or chosen_precision(folder, config)
    hidden = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"])
    return EncoderEntry(
        spec=f"{name}:{precision}",
        identity=vectors_identity(folder, config, precision),
        tokenizer=fingerprint(sha256_file(folder / "tokenizer.json"), config.passage_prefix, config.passage_max_tokens),
        dim=projected_dim(folder, config) or hidden,
        pooled_dim=hidden,
        max_tokens=config.passage_max_tokens,
    )
