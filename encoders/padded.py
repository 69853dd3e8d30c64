"""Forward pass of encoders other than BERT, through transformers' own model, which wants texts padded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hiperrag.encoders.adapting import base_folder, merge_adapter
from hiperrag.encoders.bert import BertShape
from hiperrag.encoders.config import read_config
from hiperrag.errors import UserError

KINDS = ("modernbert", "llama", "mistral", "qwen2", "qwen3")
"""Model types that run here; decoders see only what comes before a token, so their pooling is "last"."""


def model_kind(folder: Path) -> str:
    """`model_type` of the folder's config.json."""
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} is not a model folder: {error}") from error


class PaddedModel:
    """Any transformer of `KINDS` for inference on CPU, in float32 or bfloat16, its adapter merged."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        from transformers import AutoModel

        base = base_folder(folder, read_config(folder))
        try:
            model: Any = AutoModel.from_pretrained(base, dtype=torch.float32)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{base} cannot be loaded: {str(error).splitlines()[0]}") from error
        if base != folder:
            model.load_state_dict(merge_adapter(model.state_dict(), folder))
        self._model = model.eval().to(dtype)
        self.shape = BertShape(
            heads=model.config.num_attention_heads,
            layers=model.config.num_hidden_layers,
            hidden=model.config.hidden_size,
            epsilon=0.0,
            positions=model.config.max_position_embeddings,
        )

    @torch.inference_mode()
    def __call__(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """Last hidden states (total tokens, hidden) of texts laid end to end in `ids` (total tokens,)."""
        return padded_forward(self._model, ids, lengths)


def padded_forward(model: Any, ids: Tensor, lengths: Sequence[int]) -> Tensor:
    """The same of any transformers model; texts are padded on the right."""
    mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).to(ids.device)
    padded = ids.new_zeros(mask.shape).masked_scatter(mask, ids)
    states: Tensor = model(input_ids=padded, attention_mask=mask.long()).last_hidden_state
    return states[mask]
