"""From a spec to an encoder or its tokenizer.

A spec is a packaged model's name (a base model's, or that of an adapter in this package) or a model folder, with the
precision behind a colon where it is fixed: "minilm", "minilm:int8", "path/to/model".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hiperrag.errors import UserError
from hiperrag.models import model_path, packaged

if TYPE_CHECKING:
    from hiperrag.encoders.late_interaction import LateInteractionEncoder
    from hiperrag.encoders.tokenizing import TextTokenizer


def load_encoder(spec: str, threads: int | None = None) -> LateInteractionEncoder:
    """The encoder that `spec` names.

    `threads` sets torch's number of CPU threads in this process; None leaves it as it is. A spec without a
    precision gets the one that is fastest on this machine (measured once, cached). Raises UserError if the model
    is not here or cannot be used.
    """
    import torch

    from hiperrag.encoders.config import read_config
    from hiperrag.encoders.late_interaction import LateInteractionEncoder
    from hiperrag.encoders.precision import chosen_precision, split_spec

    folder = encoder_folder(spec)
    if threads is not None:
        torch.set_num_threads(threads)
    config = read_config(folder)
    name, precision = split_spec(spec)
    return LateInteractionEncoder(folder, name, config, precision or chosen_precision(folder, config))


def load_tokenizer(spec: str) -> TextTokenizer:
    """The tokenizer of an encoder, without loading torch."""
    from hiperrag.encoders.config import read_config
    from hiperrag.encoders.tokenizing import TextTokenizer

    folder = encoder_folder(spec)
    return TextTokenizer(folder, read_config(folder))


def encoder_folder(spec: str) -> Path:
    """The folder of the model that a spec names."""
    from hiperrag.encoders.precision import split_spec

    spec, _ = split_spec(spec)
    names = [model.name for model in packaged() if model.use == "encoder"]
    if spec in names:
        return model_path(spec)
    folder = Path(spec).expanduser()
    if not (folder / "config.json").is_file():
        known = ", ".join(names)
        raise UserError(f"no encoder called {spec}: give {known}, or a folder with a model's config.json")
    return folder.resolve()
