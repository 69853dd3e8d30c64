"""Which arithmetic encodes fastest on this machine and still agrees with float32; measured once, then cached."""

from __future__ import annotations

import functools
import json
import logging
import platform
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from hiperrag.encoders.batching import length_sorted_batches
from hiperrag.encoders.bert import PackedBert
from hiperrag.encoders.config import EncoderConfig
from hiperrag.encoders.quantizing import RECIPE, use_int8
from hiperrag.encoders.tokenizing import TextTokenizer
from hiperrag.files import fingerprint, write_text_atomic
from hiperrag.models import cache_root, weights_hash

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

AGREEMENT = 0.999
"""Least mean cosine with float32, of token vectors and of pooled vectors."""
_WORTHWHILE = 1.15
"""A less exact precision must be this much faster than a more exact one."""
_ROUNDS = 3

_log = logging.getLogger(__name__)


def build(folder: Path, config: EncoderConfig, precision: Precision) -> PackedBert:
    """The folder's model, ready to run in the given precision."""
    if precision == "bfloat16":
        return PackedBert(folder, torch.bfloat16)
    bert = PackedBert(folder)
    if precision == "int8":
        calibration, _ = _sample(TextTokenizer(folder, config), bert.shape.positions)
        name = fingerprint(weights_hash(folder), RECIPE, _sample_text())
        use_int8(bert, cache_root() / "int8" / f"{name}.safetensors", *_packed(calibration))
    return bert


def chosen_precision(folder: Path, config: EncoderConfig) -> Precision:
    """The precision to encode with on this machine, from the cache or by measurement (some seconds, once)."""
    key = fingerprint(weights_hash(folder), RECIPE, _sample_text(), _processor(), torch.__version__)
    record = cache_root() / "precision" / f"{key}.json"
    try:
        kept: Precision = json.loads(record.read_text())["precision"]
        if kept in PRECISIONS:
            return kept
    except (OSError, ValueError, KeyError):
        pass
    _log.info("measuring which precision encodes fastest on this machine (once)")
    measured = measure(folder, config)
    precision = _best(measured)
    report = {
        "precision": precision,
        "measured": measured,
        "processor": _processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "model": str(folder),
    }
    try:
        write_text_atomic(record, json.dumps(report, indent=1) + "\n")
    except OSError as error:
        _log.warning("the choice of precision could not be kept: %s", error)
    return precision


def measure(folder: Path, config: EncoderConfig) -> dict[Precision, dict[str, float]]:
    """Tokens per CPU-second and cosine with float32 on held-out sample text, for each precision that runs."""
    measured: dict[Precision, dict[str, float]] = {}
    runs: dict[Precision, Callable[[], Tensor]] = {}
    reference = torch.empty(0)
    for precision in PRECISIONS:
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


def _best(measured: dict[Precision, dict[str, float]]) -> Precision:
    best: Precision = "float32"
    for precision in PRECISIONS:  # from most to least exact
        result = measured.get(precision)
        if result is None or min(result["token_cosine_mean"], result["pooled_cosine_mean"]) < AGREEMENT:
            continue
        if result["tokens_per_cpu_second"] > _WORTHWHILE * measured[best]["tokens_per_cpu_second"]:
            best = precision
    return best


def _encode(bert: PackedBert, texts: list[Tensor]) -> Tensor:
    """Hidden states in float32, rows in the order of `texts`, batched as the encoder batches."""
    lengths = [len(text) for text in texts]
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    for batch in length_sorted_batches(lengths, token_budget()):
        ids, batch_lengths = _packed([texts[index] for index in batch])
        for index, part in zip(batch, torch.split(bert(ids, batch_lengths).float(), batch_lengths), strict=True):
            rows[index] = part
    return torch.cat(rows)


def token_budget() -> int:
    """Tokens of one forward pass: what one core's cache holds of the widest layer, for each thread."""
    return 256 * torch.get_num_threads()


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
    paragraphs = _sample_text().strip().splitlines()
    texts = [torch.from_numpy(text.ids) for text in tokenizer.tokenize(paragraphs, min(256, positions))]
    held_out = texts[::4]
    return [text for number, text in enumerate(texts) if number % 4], held_out


@functools.cache
def _sample_text() -> str:
    return (resources.files("hiperrag.encoders") / "sample_text.txt").read_text(encoding="utf-8")


def _packed(texts: list[Tensor]) -> tuple[Tensor, list[int]]:
    return torch.cat(texts), [len(text) for text in texts]


@functools.cache
def _processor() -> str:
    """Model and instruction sets of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts: dict[str, Any] = dict.fromkeys(("model name", "flags", "Features"), "")
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in facts and not facts[name.strip()]:
            facts[name.strip()] = value.strip()
    wide = {flag for flag in str(facts["flags"]).split() if flag.startswith(("avx", "amx", "fma"))}
    return " ".join([platform.machine(), str(facts["model name"]), *sorted(wide)])
