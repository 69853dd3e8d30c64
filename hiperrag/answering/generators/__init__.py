"""Generators, by their `--generator` spec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hiperrag.answering.generators.base import (
    BusyError,
    Cancellation,
    FinishReason,
    GenerationCancelledError,
    GenerationCutError,
    Generator,
    LikelihoodGenerator,
    Message,
    RequestGenerator,
    TokenStream,
    UnavailableError,
    for_request,
    reachable,
)
from hiperrag.answering.generators.failover import FailoverGenerator
from hiperrag.answering.generators.queued import QueuedGenerator
from hiperrag.encoders.precision import Precision, split_spec
from hiperrag.errors import UserError

__all__ = [
    "SPEC_FORMS",
    "BusyError",
    "Cancellation",
    "FinishReason",
    "GenerationCancelledError",
    "GenerationCutError",
    "Generator",
    "LikelihoodGenerator",
    "Message",
    "RequestGenerator",
    "TokenStream",
    "UnavailableError",
    "for_request",
    "load_generator",
    "load_generators",
    "reachable",
]

DEFAULT_MODEL = "smollm2"
SPEC_FORMS = "default, hf:DIR_OR_NAME, gguf:FILE (each also with :int8) or openai:BASE_URL#MODEL"


def load_generator(spec: str) -> Generator:
    """The generator that a spec names; local ones are in memory when this returns.

    `default`: the packaged model. `hf:DIR_OR_NAME`: a transformers folder, a packaged model's name, or a hub
    name (asks the network). `gguf:FILE`: converted once into the cache. `openai:BASE_URL#MODEL`: any
    OpenAI-compatible server, for example `openai:http://localhost:8000/v1#my-model`. The first three may end in
    `:int8` (CPU only), `:bfloat16` or `:float32`: the arithmetic to run in.
    Raises UserError for a spec of no known form and for a model that cannot be loaded.
    """
    if _is_openai(spec) and spec != "openai:":
        return _openai(spec)
    local, precision = split_spec(spec)
    form, _, rest = local.partition(":")
    if local == "default":
        return _default(spec, precision)
    if form == "hf" and rest:
        return _huggingface(rest, spec, precision)
    if form == "gguf" and rest:
        return _gguf(Path(rest).expanduser(), spec, precision)
    raise UserError(f"--generator {spec!r} is not a known form: give {SPEC_FORMS}")


def load_generators(specs: Sequence[str]) -> Generator:
    """One generator for many threads over one spec or more: the first is preferred, the others step in for it.

    Local ones get a bounded queue. One that can only quote steps in last. Raises UserError as load_generator, for
    no spec at all, and for one that can only quote before others.
    """
    if not specs:
        raise UserError(f"--generator is missing: give {SPEC_FORMS}")
    if len(specs) == 1:
        return _shared(load_generator(specs[0]))
    loaded = [_shared(_openai(spec, patient=False) if _is_openai(spec) else load_generator(spec)) for spec in specs]
    stand_in = loaded[-1] if isinstance(loaded[-1], LikelihoodGenerator) and not loaded[-1].capable else None
    if stand_in is not None:
        loaded.pop()
    for generator in loaded:
        if not generator.capable:
            raise UserError(
                f"--generator {generator.spec} quotes and never fails: name it last, after those that write"
            )
    return FailoverGenerator(loaded, stand_in)


def _shared(generator: Generator) -> Generator:
    return QueuedGenerator(generator) if isinstance(generator, LikelihoodGenerator) else generator


def _is_openai(spec: str) -> bool:
    return spec.startswith("openai:")


def _default(spec: str, precision: Precision | None) -> Generator:
    from hiperrag.answering.generators.local import LocalGenerator
    from hiperrag.models import model_path

    return LocalGenerator(model_path(DEFAULT_MODEL), spec, capable=False, precision=precision)


def _huggingface(name: str, spec: str, precision: Precision | None) -> Generator:
    from hiperrag.answering.generators.local import LocalGenerator
    from hiperrag.models import model_path, packaged

    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"--generator {spec}: {folder} has no config.json, so it is no transformers folder")
        return LocalGenerator(folder, spec, precision=precision)
    if name in {model.name for model in packaged()}:
        return LocalGenerator(model_path(name), spec, precision=precision)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"--generator {spec}: no folder {folder}")
    _look_up(name, spec)
    return LocalGenerator(name, spec, precision=precision)


def _look_up(name: str, spec: str) -> None:
    """Ask the hub for a model that is not in its cache here, so that a wrong name or no network fails at once."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=10)
    except GatedRepoError as error:
        raise UserError(f"--generator {spec}: {name} is gated; accept its terms and set HF_TOKEN") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"--generator {spec}: the hub has no model {name}, and there is no folder {name}") from error
    except Exception as error:  # the hub's client raises errors of whichever HTTP library it was built on
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--generator {spec}: no folder {name}, and the hub did not answer: {first[:200]}") from error


def _gguf(file: Path, spec: str, precision: Precision | None) -> Generator:
    from hiperrag.answering.generators.local import LocalGenerator
    from hiperrag.models import converted_gguf

    return LocalGenerator(converted_gguf(file), spec, precision=precision)


def _openai(spec: str, *, patient: bool = True) -> Generator:
    from hiperrag.answering.generators.openai import OpenAIGenerator

    return OpenAIGenerator(spec, patient=patient)
