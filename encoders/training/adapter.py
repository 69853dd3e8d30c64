"""What a training leaves behind: a folder that `--encoder DIR` takes, and the same in the formats of peers."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save
from torch import Tensor, nn

from hiperrag.encoders.adapting import SETTINGS_FILE, WEIGHTS_FILE, base_folder, merge_adapter
from hiperrag.encoders.config import CONFIG_FILE, CONFIG_FILE_OF_PEERS, EncoderConfig, read_config
from hiperrag.encoders.projecting import load_projection
from hiperrag.encoders.tokenizing import TextTokenizer
from hiperrag.encoders.training.backbone import inner_model
from hiperrag.errors import UserError
from hiperrag.files import atomic_directory, write_text_atomic
from hiperrag.models import packaged, weights_hash

Form = Literal["pylate", "sentence-transformers"]
FORMS: tuple[Form, ...] = get_args(Form)
PROJECTION_FILE = "projection.safetensors"
_SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def write_encoder(
    out: Path, model: nn.Module, projection: Tensor | None, config: EncoderConfig, base: Path, base_name: str
) -> None:
    """Write the trained encoder into the folder `out`: an adapter of a few MB, or a whole model after full fine-tuning.

    base: the folder of the model that was trained; base_name: what the adapter calls it, if it is a packaged one.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in _SMALL_FILES:
        if (base / name).is_file():
            shutil.copy(base / name, out / name)
    changes: dict[str, Any] = {"projection": None}
    if projection is not None:
        (out / PROJECTION_FILE).write_bytes(save({"weight": projection.detach().cpu().contiguous()}))
        changes["projection"] = PROJECTION_FILE
    if hasattr(model, "peft_config"):
        _write_adapter(out, model, base_name)
        name = base_name if base_name in {packed.name for packed in packaged()} else str(base.resolve())
        changes |= {"base": name, "base_hash": weights_hash(base)}
    else:
        inner: Any = inner_model(model)
        inner.save_pretrained(out)
    config = config.model_copy(update=changes)
    write_text_atomic(out / CONFIG_FILE, config.model_dump_json(indent=1, exclude_none=True) + "\n")


def export(folder: Path, to: Path, form: Form) -> None:
    """Write the encoder in `folder` as a whole model, adapter merged, in a peer's format.

    "pylate" gives the token vectors (a `pylate.models.ColBERT`), "sentence-transformers" the pooled ones (a
    `SentenceTransformer`). UserError where `to` exists.
    """
    if to.exists():
        raise UserError(f"{to} exists: give a folder that does not")
    from transformers import AutoModel

    config = read_config(folder)
    base = base_folder(folder, config)
    model: Any = AutoModel.from_pretrained(base, dtype=torch.float32)
    if base != folder:
        model.load_state_dict(merge_adapter(model.state_dict(), folder))
    hidden = int(model.config.hidden_size)
    with atomic_directory(to) as temporary:
        model.save_pretrained(temporary)
        for name in _SMALL_FILES[1:]:
            if (folder / name).is_file():
                shutil.copy(folder / name, temporary / name)
        _write_pooling(temporary, config, hidden)
        if form == "pylate":
            _write_pylate(temporary, folder, config, hidden)
        else:
            _write_sentence_transformers(temporary, config)


def _write_adapter(out: Path, model: Any, base_name: str) -> None:
    from peft import get_peft_model_state_dict

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    (out / WEIGHTS_FILE).write_bytes(save(tensors, {"format": "pt"}))  # save_file would keep others from reading it
    (settings,) = model.peft_config.values()
    settings.base_model_name_or_path = base_name
    settings.inference_mode = True
    settings.save_pretrained(str(out))
    assert (out / SETTINGS_FILE).is_file()


def _write_pooling(out: Path, config: EncoderConfig, hidden: int) -> None:
    modes = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}
    pooling = {f"pooling_mode_{name}": mode == config.pooling for mode, name in modes.items()}
    (out / "1_Pooling").mkdir()
    _write(out / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden} | pooling)


def _write_sentence_transformers(out: Path, config: EncoderConfig) -> None:
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    (out / "2_Normalize").mkdir()
    _write_modules(out, [(path, f"sentence_transformers.models.{kind}") for path, kind in kinds])
    _write(out / "sentence_bert_config.json", {"max_seq_length": config.passage_max_tokens, "do_lower_case": False})
    prompts = {"query": config.query_prefix, "document": config.passage_prefix}
    _write(out / CONFIG_FILE_OF_PEERS, {"prompts": prompts, "similarity_fn_name": "cosine"})


def _write_pylate(out: Path, folder: Path, config: EncoderConfig, hidden: int) -> None:
    """As PyLate 1.6 saves a `ColBERT`: prefixes are prompts, since its own markers are single tokens."""
    if not config.keep_special_tokens:
        raise UserError(f"{folder} leaves out the vectors of special tokens, which PyLate cannot")
    projection = load_projection(folder, config)
    weight = torch.eye(hidden) if projection is None else projection
    (out / "1_Dense").mkdir()
    (out / "1_Dense" / "model.safetensors").write_bytes(save({"linear.weight": weight.contiguous()}))
    dense = {"in_features": hidden, "out_features": len(weight), "bias": False, "use_residual": False}
    _write(out / "1_Dense" / "config.json", dense | {"activation_function": "torch.nn.modules.linear.Identity"})
    kinds = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    _write_modules(out, kinds)
    _write(out / "sentence_bert_config.json", {"max_seq_length": config.passage_max_tokens, "do_lower_case": False})
    tokenizer = TextTokenizer(folder, config)
    settings = {
        "prompts": {"query": config.query_prefix, "document": config.passage_prefix},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": "",
        "document_prefix": "",
        "query_length": config.query_max_tokens,
        "document_length": config.passage_max_tokens,
        "attend_to_expansion_tokens": False,
        "do_query_expansion": False,
        "skiplist_words": tokenizer.tokens(tokenizer.punctuation_ids()) or list(string.punctuation),
    }
    _write(out / CONFIG_FILE_OF_PEERS, settings)


def _write_modules(out: Path, modules: list[tuple[str, str]]) -> None:
    listed = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(modules)]
    _write(out / "modules.json", listed)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
