"""What training leaves behind: encoders that load, merged, with the vectors they were trained to; exports; resuming."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_helpers import WORDS, made_pairs, tiny_model, tiny_settings, trainer

from hiperrag.encoders import describe, load_encoder
from hiperrag.encoders.config import read_config
from hiperrag.encoders.late_interaction import LateInteractionEncoder
from hiperrag.encoders.training.adapter import export, write_encoder
from hiperrag.encoders.training.backbone import _GroupedAttention, _PaddedAttention
from hiperrag.encoders.training.pairs import write_pairs
from hiperrag.encoders.training.ranks import Ranks
from hiperrag.encoders.training.trainer import Stops, Trainer
from hiperrag.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
TEXTS = ["w001 w002, w003.", "w010", " ".join(WORDS[20:55])]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: tiny_model(root / kind, kind) for kind in ("bert", "modernbert", "mistral")}


def _written(made: Trainer, out: Path) -> Path:
    encoder = made.encoder
    write_encoder(out, encoder.model, encoder.projection, made.config, made.folder, made.settings.base)
    return out


def _assert_same_vectors(encoder: LateInteractionEncoder, made: Trainer) -> None:
    """The loaded encoder against the model in training, as passages."""
    made.encoder.eval()
    encoded = encoder.encode_passages(TEXTS)
    with torch.no_grad():
        for index, text in enumerate(made._reader.passages(TEXTS)):
            tokens, pooled = made.encoder([text])
            mine = encoded.tokens[encoded.offsets[index] : encoded.offsets[index + 1]]
            np.testing.assert_allclose(mine, tokens.numpy(), atol=2e-5)
            np.testing.assert_allclose(encoded.pooled[index], pooled[0].numpy(), atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "method", "pooling"),
    [
        ("bert", "lora", None),
        ("bert", "ia3", "cls"),
        ("bert", "full", None),
        ("modernbert", "lora", None),
        ("mistral", "lora", "last"),
        ("mistral", "ia3", "last"),
    ],
)
def test_an_encoder_loads_with_the_vectors_it_was_trained_to(
    bases: dict[str, Path], tmp_path: Path, kind: str, method: str, pooling: str | None
) -> None:
    settings = tiny_settings(
        bases[kind], method=method, pooling=pooling, passage_prefix="w007 ", learning_rate=0.01, steps=2, save_every=9
    )
    made = trainer(settings, made_pairs(16), tmp_path / "run")
    before = {name: p.detach().clone() for name, p in made.encoder.named_parameters() if p.requires_grad}
    assert made.run(lambda report: None, Stops())
    changed = [
        name for name, p in made.encoder.named_parameters() if p.requires_grad and not torch.equal(p, before[name])
    ]
    assert len(changed) > len(before) / 2
    out = _written(made, tmp_path / "encoder")
    assert (out / "model.safetensors").exists() == (method == "full")
    encoder = load_encoder(f"{out}:float32")
    assert encoder.dim == 16
    assert encoder.config.passage_prefix == "w007 "
    _assert_same_vectors(encoder, made)
    entry = describe(f"{out}:float32")
    assert (entry.dim, entry.pooled_dim, entry.identity) == (16, 32, encoder.identity)


def test_an_adapter_wants_the_base_it_was_trained_on(bases: dict[str, Path], tmp_path: Path) -> None:
    base = shutil.copytree(bases["bert"], tmp_path / "base")
    out = _written(trainer(tiny_settings(base), made_pairs(8), tmp_path), tmp_path / "encoder")
    assert load_encoder(f"{out}:float32").dim == 16
    tiny_model(base, "mistral")
    with pytest.raises(UserError, match="another version"):
        load_encoder(f"{out}:float32")
    shutil.rmtree(base)
    with pytest.raises(UserError, match="not there"):
        load_encoder(f"{out}:float32")


def test_an_adapter_that_does_not_fit_is_explained(bases: dict[str, Path], tmp_path: Path) -> None:
    out = _written(trainer(tiny_settings(bases["bert"]), made_pairs(8), tmp_path), tmp_path / "encoder")
    settings = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(settings | {"peft_type": "LOHA"}))
    with pytest.raises(UserError, match="LOHA"):
        load_encoder(f"{out}:float32")
    (out / "adapter_config.json").write_text(json.dumps(settings))
    (out / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="not there"):
        load_encoder(f"{out}:float32")


def test_the_projection_starts_where_token_vectors_vary_most(bases: dict[str, Path], tmp_path: Path) -> None:
    made = trainer(tiny_settings(bases["bert"]), made_pairs(32), tmp_path)
    projection = made.encoder.projection
    assert projection is not None
    torch.testing.assert_close(projection @ projection.T, torch.eye(16), atol=1e-5, rtol=0)
    whole = load_encoder(f"{bases['bert']}:float32").encode_passages([pair.positive for pair in made_pairs(32)]).tokens
    kept = np.linalg.norm(whole @ projection.detach().numpy().T, axis=1) ** 2
    at_random = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 16)))[0]
    assert kept.mean() > (np.linalg.norm(whole @ at_random, axis=1) ** 2).mean() + 0.05


def test_frozen_layers_stay_as_they_are(bases: dict[str, Path], tmp_path: Path) -> None:
    made = trainer(tiny_settings(bases["bert"], freeze_layers=1), made_pairs(8), tmp_path)
    trained = [name for name, p in made.encoder.named_parameters() if p.requires_grad]
    assert not any("layer.0." in name for name in trained)
    assert any("layer.1." in name for name in trained)
    made.gradients(0)
    with pytest.raises(UserError, match="2 layers"):
        trainer(tiny_settings(bases["bert"], freeze_layers=3), made_pairs(8), tmp_path)


def test_attention_padded_for_itself_is_that_of_groups() -> None:
    draw = torch.Generator().manual_seed(0)
    lengths = [5, 5, 3, 1]
    q, k, v = (torch.randn(sum(lengths), 2, 4, generator=draw) for _ in range(3))
    grouped = _GroupedAttention(lengths)(q, k, v, 0.0)
    torch.testing.assert_close(_PaddedAttention(lengths, torch.device("cpu"))(q, k, v, 0.0), grouped)


def _parameters(made: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in made.encoder.named_parameters() if p.requires_grad}


def test_a_resumed_training_ends_with_the_same_bits(bases: dict[str, Path], tmp_path: Path) -> None:
    pairs = made_pairs(24, sources=("a", "b"))
    settings = tiny_settings(bases["bert"], steps=6, dropout=0.1, learn_temperature=True, chunk_tokens=2000)
    whole = Trainer(settings, pairs, tmp_path / "whole", Ranks())
    whole.run(lambda report: None, Stops())
    for _ in range(3):  # each part stops after one step more
        part = Trainer(settings, pairs, tmp_path / "parts", Ranks())
        assert not part.run(lambda report: None, Stops(asked=lambda: True))
    assert [path.name for path in sorted((tmp_path / "parts" / "checkpoints").iterdir())] == [
        "step-00000002",
        "step-00000003",
    ]
    # The newest is damaged, so the one before it counts.
    (tmp_path / "parts" / "checkpoints" / "step-00000003" / "state.pt").write_bytes(b"torn")
    last = Trainer(settings, pairs, tmp_path / "parts", Ranks())
    reports = []
    assert last.run(reports.append, Stops())
    assert [report.step for report in reports] == [3, 4, 5, 6]
    assert last.losses == whole.losses
    for name, tensor in _parameters(whole).items():
        assert torch.equal(_parameters(last)[name], tensor), name


def test_a_checkpoint_of_other_settings_is_not_used(bases: dict[str, Path], tmp_path: Path) -> None:
    Trainer(tiny_settings(bases["bert"], steps=2), made_pairs(16), tmp_path, Ranks()).run(lambda report: None, Stops())
    reports = []
    other = Trainer(tiny_settings(bases["bert"], steps=2, seed=1), made_pairs(16), tmp_path, Ranks())
    other.run(reports.append, Stops())
    assert len(reports) == 2


def test_training_learns(bases: dict[str, Path], tmp_path: Path) -> None:
    settings = tiny_settings(bases["bert"], batch=16, block=16, steps=16, learning_rate=0.03, chunk_tokens=2000)
    made = Trainer(settings, made_pairs(64), tmp_path, Ranks())
    before = made.figures(made_pairs(64))
    made.run(lambda report: None, Stops())
    after = made.figures(made_pairs(64))
    assert np.mean(made.losses[-5:]) < 0.8 * np.mean(made.losses[:5])
    for half in ("pooled", "maxsim"):
        assert after[half]["mrr@10"] > before[half]["mrr@10"]


def test_the_command_trains_resumes_and_exports(hiperrag, bases: dict[str, Path], tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", made_pairs(40))
    out = tmp_path / "out"
    command = ["train", "--pairs", tmp_path / "pairs.jsonl", "--base", bases["bert"], "--out", out, "--device", "cpu"]
    command += ["--batch", 8, "--block", 4, "--steps", 3, "--dim", 16, "--precision", "float32"]
    assert hiperrag(*command)[0] == 0
    assert yaml.safe_load((out / "settings.yaml").read_text())["block"] == 4
    card = yaml.safe_load((out / "data_card.yaml").read_text())
    assert card["sources"]["a"]["licences"] == {"CC0": 40}
    record = yaml.safe_load((out / "training.yaml").read_text())
    assert len(record["losses"]) == 3
    held_out = (out / "held_out.jsonl").read_text().splitlines()
    assert len(held_out) == card["sources"]["a"].get("held_out", 0)
    assert not (out / "checkpoints").exists()
    assert hiperrag(*command)[0] == 0  # finished: nothing is done
    assert yaml.safe_load((out / "training.yaml").read_text()) == record
    status, _, errors = hiperrag(*command, "--seed", 1)
    assert status == 2
    assert "another seed" in errors[-1]
    assert hiperrag("train", "export", out, "--to", tmp_path / "st", "--format", "sentence-transformers")[0] == 0
    ours, merged = load_encoder(f"{out}:float32"), load_encoder(f"{tmp_path / 'st'}:float32")
    np.testing.assert_allclose(merged.encode_queries(TEXTS).pooled, ours.encode_queries(TEXTS).pooled, atol=1e-6)


def test_an_exported_pylate_folder_is_an_encoder_again(bases: dict[str, Path], tmp_path: Path) -> None:
    made = trainer(tiny_settings(bases["bert"], query_prefix="w100 ", pooling="cls"), made_pairs(8), tmp_path)
    out = _written(made, tmp_path / "encoder")
    export(out, tmp_path / "pylate", "pylate")
    config, back = read_config(out), read_config(tmp_path / "pylate")
    assert (back.query_prefix, back.pooling) == ("w100 ", "cls")
    assert (back.query_max_tokens, back.passage_max_tokens) == (config.query_max_tokens, config.passage_max_tokens)
    ours, theirs = load_encoder(f"{out}:float32"), load_encoder(f"{tmp_path / 'pylate'}:float32")
    assert describe(f"{tmp_path / 'pylate'}:float32").dim == 16
    np.testing.assert_allclose(theirs.encode_queries(TEXTS).tokens, ours.encode_queries(TEXTS).tokens, atol=1e-5)
    np.testing.assert_allclose(theirs.encode_queries(TEXTS).pooled, ours.encode_queries(TEXTS).pooled, atol=1e-5)
    with pytest.raises(UserError, match="exists"):
        export(out, tmp_path / "pylate", "pylate")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--pairs FILE --out DIR"),
        (["--method", "qlora"], "CUDA GPU"),
        (["--method", "magic"], "method"),
        (["--batch", 10, "--block", 4], "blocks of 4"),
        (["--base", "no-such-model"], "minilm"),
        (["--dim", 64], "32 dimensions"),
        (["--device", "cuda"], "no CUDA GPU"),
        (["--settings", "absent.yaml"], "cannot be read"),
    ],
)
def test_mistakes_are_explained_in_a_line(
    hiperrag, bases: dict[str, Path], tmp_path: Path, arguments: list[object], message: str
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    write_pairs(tmp_path / "pairs.jsonl", made_pairs(8))
    command: list[object] = ["train"]
    if arguments:
        device = [] if "--device" in arguments else ["--device", "cpu"]
        command += ["--pairs", tmp_path / "pairs.jsonl", "--base", bases["bert"], "--out", tmp_path / "out", *device]
    status, _, errors = hiperrag(*command, *arguments)
    assert status == 2
    assert len(errors) == 1
    assert message in errors[0]


def test_an_adapter_indexes_and_searches(hiperrag, in_process, bases: dict[str, Path], tmp_path: Path) -> None:
    made = trainer(tiny_settings(bases["bert"]), made_pairs(8), tmp_path / "run")
    encoder = _written(made, tmp_path / "encoder")
    rows = [{"_id": f"r{n}", "text": " ".join(WORDS[n * 9 : n * 9 + 9])} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    indexed = hiperrag("index", tmp_path / "rows.jsonl", "--to", tmp_path / "c", "--encoder", f"{encoder}:float32")
    assert indexed[0] == 0, indexed[2]
    status, output, errors = hiperrag("search", tmp_path / "c", rows[5]["text"], "--json")
    assert status == 0, errors
    assert rows[5]["text"] in output.splitlines()[0]


_PYLATE = """
import json, sys
from pylate import models
from safetensors.torch import save_file
import torch
folder, texts, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
model = models.ColBERT(folder, device="cpu")
for name, is_query in (("queries", True), ("passages", False)):
    prompt = ("query" if is_query else "document") if sys.argv[4:] else None
    vectors = model.encode(texts, is_query=is_query, convert_to_tensor=True, prompt_name=prompt)
    save_file({str(n): v.contiguous() for n, v in enumerate(vectors)}, f"{out}.{name}")
"""
_SENTENCES = """
import json, sys
from sentence_transformers import SentenceTransformer
from safetensors.torch import save_file
model = SentenceTransformer(sys.argv[1], device="cpu")
vectors = model.encode(json.loads(sys.argv[2]), convert_to_tensor=True, prompt_name="query")
save_file({"pooled": vectors.contiguous()}, sys.argv[3])
"""
_OWN_PYLATE = """
import sys
from pylate import models
model = models.ColBERT(sys.argv[1], device="cpu", embedding_size=16, do_query_expansion=False,
                       query_length=20, document_length=30)
model.save(sys.argv[2])
"""


def _peer(code: str, *arguments: object) -> None:
    python = REPOSITORY / ".peers" / "pylate" / "bin" / "python"
    if not python.exists():
        pytest.skip("no PyLate here: run benchmarks/install_peers.sh late-interaction")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_pylate_loads_an_export_and_gives_our_vectors(bases: dict[str, Path], tmp_path: Path) -> None:
    made = trainer(tiny_settings(bases["bert"], query_prefix="w100 "), made_pairs(8), tmp_path)
    out = _written(made, tmp_path / "encoder")
    export(out, tmp_path / "pylate", "pylate")
    _peer(_PYLATE, tmp_path / "pylate", json.dumps(TEXTS), tmp_path / "vectors", "prompts")
    ours = load_encoder(f"{out}:float32")
    for name, encoded in (("queries", ours.encode_queries(TEXTS)), ("passages", ours.encode_passages(TEXTS))):
        theirs = load_file(f"{tmp_path / 'vectors'}.{name}")
        for index, vectors in enumerate(encoded.token_arrays()):
            np.testing.assert_allclose(theirs[str(index)].numpy(), vectors, atol=1e-4)


@pytest.mark.slow
def test_sentence_transformers_loads_an_export_and_gives_our_vectors(bases: dict[str, Path], tmp_path: Path) -> None:
    made = trainer(tiny_settings(bases["bert"], query_prefix="w100 "), made_pairs(8), tmp_path)
    out = _written(made, tmp_path / "encoder")
    export(out, tmp_path / "st", "sentence-transformers")
    _peer(_SENTENCES, tmp_path / "st", json.dumps(TEXTS), tmp_path / "vectors")
    pooled = load_encoder(f"{out}:float32").encode_queries(TEXTS).pooled
    np.testing.assert_allclose(load_file(tmp_path / "vectors")["pooled"].numpy(), pooled, atol=1e-4)


@pytest.mark.slow
def test_a_folder_that_pylate_saved_is_an_encoder(bases: dict[str, Path], tmp_path: Path) -> None:
    _peer(_OWN_PYLATE, bases["bert"], tmp_path / "own")
    _peer(_PYLATE, tmp_path / "own", json.dumps(TEXTS), tmp_path / "vectors")
    encoder = load_encoder(f"{tmp_path / 'own'}:float32")
    assert (encoder.dim, encoder.config.query_max_tokens, encoder.max_tokens) == (16, 20, 30)
    for name, encoded in (("queries", encoder.encode_queries(TEXTS)), ("passages", encoder.encode_passages(TEXTS))):
        theirs = load_file(f"{tmp_path / 'vectors'}.{name}")
        for index, vectors in enumerate(encoded.token_arrays()):
            np.testing.assert_allclose(theirs[str(index)].numpy(), vectors, atol=1e-4)
