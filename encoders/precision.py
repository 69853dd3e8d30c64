"""The arithmetic an encoder runs in: part of its spec, chosen once for a machine, kept in the cache (no torch)."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
import platform
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

from hiperrag.encoders.config import EncoderConfig
from hiperrag.files import fingerprint, write_text_atomic
from hiperrag.models import cache_root, weights_hash

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""From most to least exact."""

RECIPE = "int8: scales per output and per token, SmoothQuant, GPTQ (1)"
"""Changes whenever the same model would be quantised differently."""

_log = logging.getLogger(__name__)


def split_spec(spec: str) -> tuple[str, Precision | None]:
    """ "minilm:int8" is the model "minilm" in int8; a spec without a precision leaves the choice to the machine."""
    model, _, last = spec.rpartition(":")
    for precision in PRECISIONS:
        if model and last == precision:
            return model, precision
    return spec, None


def vectors_identity(folder: Path, config: EncoderConfig, precision: Precision) -> str:
    """Hash of everything that decides the vectors of a text."""
    recipe = RECIPE if precision == "int8" else ""
    settings = config.model_dump_json(exclude={"base", "base_hash"})  # the folder's own hash covers them
    return fingerprint(weights_hash(folder), settings, precision, recipe)


def chosen_precision(folder: Path, config: EncoderConfig) -> Precision:
    """The precision to encode with on this machine, from the cache or by measurement (some seconds, once)."""
    torch_version = importlib.metadata.version("torch")
    key = fingerprint(weights_hash(folder), RECIPE, sample_text(), _processor(), torch_version)
    record = cache_root() / "precision" / f"{key}.json"
    try:
        kept: Precision = json.loads(record.read_text(encoding="utf-8"))["precision"]
        if kept in PRECISIONS:
            return kept
    except (OSError, ValueError, KeyError):
        pass
    from hiperrag.encoders.measuring import best, measure

    _log.info("measuring which precision encodes fastest on this machine (once)")
    measured = measure(folder, config)
    precision = best(measured)
    report = {
        "precision": precision,
        "measured": measured,
        "processor": _processor(),
        "torch": torch_version,
        "model": str(folder),
    }
    try:
        write_text_atomic(record, json.dumps(report, indent=1) + "\n")
    except OSError as error:
        _log.warning("the choice of precision could not be kept: %s", error)
    return precision


@functools.cache
def sample_text() -> str:
    """Paragraphs of scientific prose, one a line, to calibrate and measure with."""
    return (resources.files("hiperrag.encoders") / "sample_text.txt").read_text(encoding="utf-8")


@functools.cache
def _processor() -> str:
    """Model and instruction sets of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts: dict[str, str] = dict.fromkeys(("model name", "flags", "Features"), "")
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in facts and not facts[name.strip()]:
            facts[name.strip()] = value.strip()
    wide = {flag for flag in facts["flags"].split() if flag.startswith(("avx", "amx", "fma"))}
    return " ".join([platform.machine(), facts["model name"], *sorted(wide)])
