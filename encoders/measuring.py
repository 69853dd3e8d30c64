"""How fast, and how close to float32, a model encodes on this machine in each precision."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from hiperrag.encoders.batching import length_sorted_batches
from hiperrag.encoders.bert import PackedBert
from hiperrag.encoders.config import EncoderConfig
from hiperrag.encoders.linear import int8_is_exact
from hiperrag.encoders.padded import KINDS, PaddedModel, model_kind
from hiperrag.encoders.precision import PRECISIONS, RECIPE, Precision, sample_text
from hiperrag.encoders.quantizing import use_int8
from hiperrag.encoders.tokenizing import TextTokenizer
from hiperrag.errors import UserError
from hiperrag.files import fingerprint
from hiperrag.models import cache_root, weights_hash

AGREEMENT = 0.999
"""Least mean cosine with float32, of token vectors and of pooled vectors."""
_WORTHWHILE = 1.15
"""A less exact precision must be this much faster than a more exact one."""
_ROUNDS = 3

_log = logging.getLogger(__name__)


def build(folder: Path, config: EncoderConfig, precision: Precision) -> PackedBert | PaddedModel:
    """The folder's model, ready to run in the given precision. UserError for int8 where the model is no BERT.

    Where int8 arithmetic cannot be trusted, float32 stands in for it: their vectors agree.
    """
    if model_kind(folder) in KINDS:
        if precision == "int8":
            raise UserError(f"{folder}: int8 is for BERT models; use float32 or bfloat16")
        return PaddedModel(folder, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    if precision == "bfloat16":
        return PackedBert(folder, torch.bfloat16)
    bert = PackedBert(folder)
    if precision == "int8" and not int8_is_exact():
        _log.warning("this machine has no exact int8 arithmetic; encoding in float32 instead")
    elif precision == "int8":
        calibration, _ = _sample(TextTokenizer(folder, config), bert.shape.positions)
        name = fingerprint(weights_hash(folder), RECIPE, sample_text())
        use_int8(bert, cache_root() / "int8" / f"{name}.safetensors", *_packed(calibration))
    return bert


def measure(folder: Path, config: EncoderConfig) -> dict[Precision, dict[str, float]]:
    """Tokens per CPU-second and cosine with float32 on held-out sample text, for each precision that runs."""
    measured: dict[Precision, dict[str, float]] = {}
    runs: dict[Precision, Callable[[], Tensor]] = {}
    reference = torch.empty(0)
    for precision in PRECISIONS:
        if precision == "int8" and (model_kind(folder) in KINDS or not int8_is_exact()):
            continue
        try:
            bert = build(folder, config, precision)
            _, held_out = _sample(TextTokenizer(folder, config), bert.shape.positions)
            ids, lengths = _packed(held_out)
            runs[precision] = functools.partial(_encode, bert, held_out)
            hidden = runs[precision]()
        except (RuntimeError, NotImplementedError) as error:
            _log.info("%s does not run here: %s", precision, str(error).splitlines()[0])
            continue
        if precision == "float32":
            reference = hidden
        measured[precision] = _agreement(hidden, reference, lengths)
    seconds: dict[Precision, list[float]] = {precision: [] for precision in runs}
    for _ in range(_ROUNDS):
        for precision, run in runs.items():
            start = time.process_time()
            run()
            seconds[precision].append(time.process_time() - start)
    for precision, times in seconds.items():
        measured[precision]["tokens_per_cpu_second"] = round(len(ids) / min(times), 1)
    return measured


def best(measured: dict[Precision, dict[str, float]]) -> Precision:
    """The fastest precision that agrees with float32, where it is worth it."""
    chosen: Precision = "float32"
    for precision in PRECISIONS:
        result = measured.get(precision)
        if result is None or min(result["token_cosine_mean"], result["pooled_cosine_mean"]) < AGREEMENT:
            continue
        if result["tokens_per_cpu_second"] > _WORTHWHILE * measured[chosen]["tokens_per_cpu_second"]:
            chosen = precision
    return chosen


def _encode(bert: PackedBert | PaddedModel, texts: list[Tensor]) -> Tensor:
    """Hidden states in float32, rows in the order of `texts`, batched as the encoder batches."""
    lengths = [len(text) for text in texts]
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    for batch in length_sorted_batches(lengths, token_budget()):
        ids, batch_lengths = _packed([texts[index] for index in batch])
        for index, part in zip(batch, torch.split(bert(ids, batch_lengths).float(), batch_lengths), strict=True):
            rows[index] = part
    return torch.cat(rows)


def token_budget() -> int:
    """Tokens of one forward pass: few enough for a core's cache, enough to read the weights seldom."""
    return 512 * torch.get_num_threads()


def _agreement(hidden: Tensor, reference: Tensor, lengths: list[int]) -> dict[str, float]:
    tokens = functional.cosine_similarity(hidden, reference)
    pooled = functional.cosine_similarity(_means(hidden, lengths), _means(reference, lengths))
    return {
        "token_cosine_mean": round(float(tokens.mean()), 6),
        "token_cosine_min": round(float(tokens.min()), 6),
        "pooled_cosine_mean": round(float(pooled.mean()), 6),
        "pooled_cosine_min": round(float(pooled.min()), 6),
    }


def _means(hidden: Tensor, lengths: list[int]) -> Tensor:
    return torch.stack([text.mean(0) for text in torch.split(hidden, lengths)])


def _sample(tokenizer: TextTokenizer, positions: int) -> tuple[list[Tensor], list[Tensor]]:
    """Token ids of the sample's paragraphs: three quarters to calibrate with, the rest held out."""
    paragraphs = sample_text().strip().splitlines()
    texts = [torch.from_numpy(text.ids) for text in tokenizer.tokenize(paragraphs, min(256, positions))]
    held_out = texts[::4]
    return [text for number, text in enumerate(texts) if number % 4], held_out


def _packed(texts: list[Tensor]) -> tuple[Tensor, list[int]]:
    return torch.cat(texts), [len(text) for text in texts]
