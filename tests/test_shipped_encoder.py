"""An adapter that comes in the package is an encoder by its folder's name, as quick and as safe as its base."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from collection_helpers import index, shards_of
from setuptools import find_packages
from training_helpers import made_pairs

from hiperrag import models as registry
from hiperrag.answering.retrieval import Retriever
from hiperrag.encoders import describe, encoder_folder, load_encoder, load_tokenizer
from hiperrag.encoders.training.pairs import write_pairs
from hiperrag.encoders.training.ranks import Ranks
from hiperrag.encoders.training.run import train
from hiperrag.encoders.training.settings import TrainSettings
from hiperrag.encoders.training.trainer import Stops
from hiperrag.errors import UserError
from hiperrag.index.storage import read_description
from hiperrag.workflows.settings import EncodeSettings

REPOSITORY = Path(__file__).resolve().parent.parent
TEXTS = ["Aerogels insulate because their pores trap air.", "Sleep removes waste proteins from the brain."]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Path:
    """An adapter of the packaged base, after five steps."""
    root = tmp_path_factory.mktemp("trained")
    write_pairs(root / "pairs.jsonl", made_pairs(60))
    settings = TrainSettings(
        batch=4,
        steps=5,
        rank=4,
        query_tokens=16,
        passage_tokens=24,
        learning_rate=2e-3,
        held_out=0,
        precision="float32",
    )
    done = train(settings, [root / "pairs.jsonl"], root / "adapter", Ranks(), lambda report: None, Stops())
    assert done.finished
    return root / "adapter"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Path:
    """A cache that has the models, and else nothing: what is made of a test's adapter does not stay."""
    root = tmp_path_factory.mktemp("cache")
    (root / "models").symlink_to(models["minilm"].parent)
    return root


@pytest.fixture
def shipped(trained: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, in the package under the name that its folder has."""
    monkeypatch.setenv("HIPERRAG_CACHE", str(cache))
    monkeypatch.setattr(registry, "SHIPPED_ADAPTERS", tmp_path / "shipped")
    monkeypatch.setattr(registry, "DEFAULT_ENCODER", "tried")
    return shutil.copytree(trained, tmp_path / "shipped" / "tried")


def test_what_is_shipped_can_be_used() -> None:
    """The adapters in this checkout, if there are any: all that is listed is whole and small."""
    listed = {model.name for model in registry.packaged() if model.base}
    folders = {path.name for path in registry.SHIPPED_ADAPTERS.glob("*") if path.is_dir()}
    assert listed == folders
    assert registry.DEFAULT_ENCODER in {model.name for model in registry.packaged() if model.use == "encoder"}
    for name in folders:
        files = {path.name: path.stat().st_size for path in (registry.SHIPPED_ADAPTERS / name).iterdir()}
        assert {"adapter_model.safetensors", "data_card.yaml", "settings.yaml", "tokenizer.json"} <= set(files)
        assert sum(files.values()) < 10e6
        assert not {"held_out.jsonl", "hiperrag_hash.json"} & set(files)


def test_a_shipped_adapter_is_an_encoder_by_name(shipped: Path, trained: Path, hiperrag) -> None:
    assert encoder_folder("tried:int8") == registry.get("tried") == shipped
    encoder = load_encoder("tried:float32")
    same = load_encoder(f"{trained}:float32")
    np.testing.assert_array_equal(encoder.encode_passages(TEXTS).tokens, same.encode_passages(TEXTS).tokens)
    assert (encoder.dim, encoder.pooled_dim, encoder.identity) == (128, 384, same.identity)
    entry = describe("tried:float32")
    assert (entry.spec, entry.dim, entry.identity) == ("tried:float32", 128, encoder.identity)
    assert not (shipped / "hiperrag_hash.json").exists()
    assert registry.packaged()[0].name == "tried"
    status, listed, _ = hiperrag("models")
    assert status == 0
    assert listed.startswith("tried ")
    assert str(shipped) in listed


@pytest.mark.slow
def test_int8_is_that_of_the_merged_weights(shipped: Path) -> None:
    plain, quick, base = load_encoder("tried:float32"), load_encoder("tried:int8"), load_encoder("minilm:int8")
    wanted, found, other = (one.encode_passages(TEXTS) for one in (plain, quick, base))
    agreement = (wanted.tokens * found.tokens).sum(axis=1).mean()
    assert agreement > 0.99
    assert (wanted.pooled * found.pooled).sum(axis=1).mean() > 0.99
    assert (wanted.pooled * other.pooled).sum(axis=1).mean() < 0.999
    assert len({plain.identity, quick.identity, base.identity}) == 3


def test_the_tokenizer_loads_without_torch(shipped: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from hiperrag import models\nfrom hiperrag.encoders import load_tokenizer\n"
        f"models.SHIPPED_ADAPTERS = Path({str(shipped.parent)!r})\n"
        "print(load_tokenizer('tried').count(['a cell'])[0]); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == load_tokenizer("minilm").count(["a cell"])[0]


def test_without_its_base_it_says_what_to_fetch(shipped: Path, tmp_path: Path, monkeypatch, hiperrag) -> None:
    monkeypatch.setenv("HIPERRAG_CACHE", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="hiperrag models get minilm"):
        registry.model_path("tried")


def test_another_base_is_refused(shipped: Path) -> None:
    file = shipped / "hiperrag_encoder.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_hash": "0" * 24}))
    with pytest.raises(UserError, match="another version of minilm"):
        load_encoder("tried:float32")


def test_a_collection_has_its_dimensions_and_is_searched(shipped: Path, sources, tmp_path, in_process) -> None:
    index(sources, tmp_path / "c", encode=EncodeSettings(encoder="tried:float32"))
    retriever = Retriever(tmp_path / "c")
    assert (retriever.manifest.encoder.spec, retriever.manifest.encoder.dim) == ("tried:float32", 128)
    assert {read_description(shard).dim for shard in shards_of(tmp_path / "c")} == {128}
    for quality in ("fast", "balanced", "exact"):
        for hybrid in (False, True):
            hits = retriever.search(["Which animals sing for hours?"], 3, quality=quality, hybrid=hybrid)[0]
            assert "whales" in hits[0].passage.text
    assert "whales" in retriever.search_pooled(["Which animals sing for hours?"], 1)[0][0].passage.text
    for shard in retriever.searcher.shards:
        assert shard.tokens.codes.shape[1] == 64  # bytes of 128 dimensions in 4 bits


def test_training_starts_from_the_base_and_not_from_an_adapter(shipped: Path) -> None:
    assert TrainSettings().base == registry.BASE_ENCODER
    assert registry._find(registry.BASE_ENCODER).base is None


def test_the_wheel_takes_an_adapters_files_and_no_texts(trained: Path) -> None:
    """The patterns in pyproject.toml against the files of a training; test_house builds the wheel itself."""
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = tools["package-data"]["hiperrag.encoders"]
    taken = {
        file.name for file in trained.iterdir() if any(Path("shipped/tried", file.name).match(one) for one in patterns)
    }
    left = {file.name for file in trained.iterdir() if file.is_file()} - taken
    assert left == {"held_out.jsonl"}
    assert "hiperrag.encoders" in find_packages(str(REPOSITORY), include=["hiperrag*"])
