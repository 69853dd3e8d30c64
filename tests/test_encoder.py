"""The late-interaction encoder, with the packaged base model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from hiperrag import encoders
from hiperrag.encoders import load_encoder, load_tokenizer
from hiperrag.encoders.base import Encoded
from hiperrag.encoders.batching import length_sorted_batches
from hiperrag.encoders.config import read_config
from hiperrag.encoders.late_interaction import LateInteractionEncoder
from hiperrag.encoders.measuring import AGREEMENT, best, measure
from hiperrag.encoders.precision import PRECISIONS, sample_text, split_spec
from hiperrag.errors import UserError

TEXTS = [
    "Zero-dimensional biomaterials show inductive properties.",
    "",
    "p53",
    "What fraction of patients (n = 214) improved, and by how much?",
    *sample_text().splitlines()[:6],
    "A long passage about the regulation of gene expression. " * 60,
]
LONG = len(TEXTS) - 1


@pytest.fixture(scope="module")
def folder(models: dict[str, Path]) -> Path:
    return models["minilm"]


@pytest.fixture(scope="module")
def exact(folder: Path) -> LateInteractionEncoder:
    return load_encoder(f"{folder}:float32")


@pytest.fixture(scope="module")
def reference(folder: Path) -> list[npt.NDArray[np.float32]]:
    """Last hidden states of TEXTS, each alone, from transformers' own model."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return [
            model(**tokenizer(text, truncation=True, max_length=256, return_tensors="pt")).last_hidden_state[0].numpy()
            for text in TEXTS
        ]


def _unit(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _rows(encoded: Encoded, index: int) -> npt.NDArray[np.float32]:
    return encoded.tokens[encoded.offsets[index] : encoded.offsets[index + 1]]


def test_vectors_equal_a_plain_forward_pass(
    exact: LateInteractionEncoder, reference: list[npt.NDArray[np.float32]]
) -> None:
    encoded = exact.encode_queries(TEXTS)
    for index, hidden in enumerate(reference):
        np.testing.assert_allclose(encoded.pooled[index], _unit(hidden.mean(0)), atol=1e-5)
        np.testing.assert_allclose(_rows(encoded, index), _unit(hidden), atol=1e-5)


def test_shapes_and_unit_norms(exact: LateInteractionEncoder) -> None:
    for encoded in (exact.encode_passages(TEXTS), exact.encode_queries(TEXTS)):
        assert encoded.tokens.shape == (encoded.offsets[-1], exact.dim)
        assert encoded.pooled.shape == (len(TEXTS), exact.pooled_dim)
        assert encoded.tokens.dtype == encoded.pooled.dtype == np.float32
        assert encoded.offsets.dtype == np.int64
        np.testing.assert_allclose(np.linalg.norm(encoded.tokens, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(encoded.pooled, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_vector_does_not_depend_on_its_company(folder: Path, precision: str) -> None:
    encoder = load_encoder(f"{folder}:{precision}")
    together = encoder.encode_passages(TEXTS)
    backwards = encoder.encode_passages(TEXTS[::-1])
    for index, text in enumerate(TEXTS):
        alone = encoder.encode_passages([text])
        np.testing.assert_allclose(together.pooled[index], alone.pooled[0], atol=1e-5)
        np.testing.assert_allclose(_rows(together, index), alone.tokens, atol=1e-5)
        np.testing.assert_allclose(_rows(backwards, len(TEXTS) - 1 - index), alone.tokens, atol=1e-5)


def test_same_call_same_bits(exact: LateInteractionEncoder) -> None:
    assert np.array_equal(exact.encode_passages(TEXTS).tokens, exact.encode_passages(TEXTS).tokens)


def test_passages_drop_punctuation_and_queries_keep_it(exact: LateInteractionEncoder) -> None:
    text = "cells, (mice) [rats]; 37 °C."  # 7 marks; the degree sign is no punctuation
    passage, query = exact.encode_passages([text]), exact.encode_queries([text])
    count = load_tokenizer("minilm").count([text])[0]
    assert len(query.tokens) == count
    assert len(passage.tokens) == count - 7
    np.testing.assert_allclose(passage.pooled, query.pooled, atol=1e-6)  # pooling keeps punctuation


def test_only_punctuation_still_has_vectors(exact: LateInteractionEncoder) -> None:
    encoded = exact.encode_passages(["...", ""])
    assert encoded.offsets.tolist() == [0, 2, 4]
    assert np.isfinite(encoded.tokens).all()


def test_no_texts(exact: LateInteractionEncoder) -> None:
    encoded = exact.encode_passages([])
    assert encoded.tokens.shape == (0, exact.dim)
    assert encoded.pooled.shape == (0, exact.pooled_dim)
    assert encoded.offsets.tolist() == [0]


def test_truncation_is_reported(exact: LateInteractionEncoder) -> None:
    encoded = exact.encode_passages(TEXTS)
    assert encoded.truncated.tolist() == [index == LONG for index in range(len(TEXTS))]
    assert encoded.offsets[LONG + 1] - encoded.offsets[LONG] <= exact.max_tokens
    words = "cell " * (exact.max_tokens - 2)
    assert exact.encode_passages([words, words + "cell"]).truncated.tolist() == [False, True]


def test_a_very_long_text_is_bounded(exact: LateInteractionEncoder) -> None:
    started = time.monotonic()
    encoded = exact.encode_passages(["gene " * 200_000, "x" * 1_000_000])
    assert encoded.truncated.tolist() == [True, False]  # one endless word is one unknown token
    assert time.monotonic() - started < 30


def test_tokenizer_counts_what_the_encoder_sees(exact: LateInteractionEncoder) -> None:
    tokenizer = load_tokenizer("minilm")
    encoded = exact.encode_queries(TEXTS[:LONG])
    assert tokenizer.count(TEXTS[:LONG]) == np.diff(encoded.offsets).tolist()
    assert tokenizer.max_tokens == exact.max_tokens
    assert tokenizer.count(TEXTS)[LONG] > tokenizer.max_tokens


def test_tokenizer_needs_no_torch(models: dict[str, Path]) -> None:
    code = (
        "import sys; from hiperrag.encoders import load_tokenizer;"
        f"print(load_tokenizer({str(models['minilm'])!r}).count(['a cell'])); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[4]", done.stderr


def test_int8_agrees_with_float32(folder: Path, exact: LateInteractionEncoder) -> None:
    texts = sample_text().splitlines()[::4]  # the paragraphs that calibration does not see
    quick = load_encoder(f"{folder}:int8").encode_queries(texts)
    slow = exact.encode_queries(texts)
    assert (quick.tokens * slow.tokens).sum(1).mean() >= AGREEMENT
    assert (quick.pooled * slow.pooled).sum(1).mean() >= AGREEMENT


def test_the_choice_of_precision_is_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hiperrag.encoders import measuring
    from hiperrag.encoders.precision import chosen_precision

    monkeypatch.setenv("HIPERRAG_CACHE", str(tmp_path))
    config = read_config(folder)
    calls: list[Path] = []
    figures = {"token_cosine_mean": 1.0, "pooled_cosine_mean": 1.0}

    def measured(path: Path, _config: object) -> object:
        calls.append(path)
        return {
            "float32": figures | {"tokens_per_cpu_second": 100.0},
            "bfloat16": figures | {"tokens_per_cpu_second": 250.0},
        }

    monkeypatch.setattr(measuring, "measure", measured)
    assert [chosen_precision(folder, config) for _ in range(2)] == ["bfloat16", "bfloat16"]
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("speeds", "cosine", "choice"),
    [
        ((100, 200, 150), 1.0, "bfloat16"),
        ((100, 50, 150), 0.9991, "int8"),
        ((100, 50, 300), 0.9985, "float32"),
        ((100, 200, 220), 1.0, "bfloat16"),
        ((100, 110, 110), 1.0, "float32"),
    ],
)
def test_best_precision(speeds: tuple[int, int, int], cosine: float, choice: str) -> None:
    measured = {
        precision: {
            "token_cosine_mean": cosine if precision == "int8" else 1.0,
            "pooled_cosine_mean": 1.0,
            "tokens_per_cpu_second": float(speed),
        }
        for precision, speed in zip(PRECISIONS, speeds, strict=True)
    }
    assert best(measured) == choice


def test_float32_stands_in_where_int8_is_not_exact(
    folder: Path, exact: LateInteractionEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hiperrag.encoders import measuring

    monkeypatch.setattr(measuring, "int8_is_exact", lambda: False)
    encoder = load_encoder(f"{folder}:int8")
    assert encoder.identity == encoders.describe(f"{folder}:int8").identity
    assert np.array_equal(encoder.encode_passages(TEXTS).tokens, exact.encode_passages(TEXTS).tokens)


def test_int8_works_with_a_cache_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    normal = load_encoder(f"{folder}:int8").encode_passages(TEXTS[:1])
    monkeypatch.setenv("HIPERRAG_CACHE", str(tmp_path / "file"))
    np.testing.assert_allclose(
        load_encoder(f"{folder}:int8").encode_passages(TEXTS[:1]).tokens, normal.tokens, atol=0.01
    )


@pytest.mark.slow
def test_measuring_covers_every_precision(folder: Path) -> None:
    measured = measure(folder, read_config(folder))
    assert "float32" in measured
    assert measured["float32"]["token_cosine_min"] == pytest.approx(1.0)
    assert all(result["tokens_per_cpu_second"] > 0 for result in measured.values())


def test_description_agrees_with_the_encoder(folder: Path) -> None:
    entry = encoders.describe(f"{folder}:float32")
    encoder = load_encoder(entry.spec)
    assert (entry.identity, entry.dim, entry.pooled_dim, entry.max_tokens) == (
        encoder.identity,
        encoder.dim,
        encoder.pooled_dim,
        encoder.max_tokens,
    )
    assert encoders.describe(f"{folder}:int8").identity != entry.identity


def test_a_folder_can_say_how_to_encode(folder: Path, tmp_path: Path, exact: LateInteractionEncoder) -> None:
    own = tmp_path / "model"
    shutil.copytree(folder, own)
    projection = torch.linalg.qr(torch.randn(384, 64, generator=torch.Generator().manual_seed(0))).Q.T.contiguous()
    save_file({"weight": projection}, own / "projection.safetensors")
    config = {
        "passage_max_tokens": 32,
        "query_prefix": "query: ",
        "pooling": "cls",
        "projection": "projection.safetensors",
        "keep_special_tokens": False,
    }
    (own / "hiperrag_encoder.json").write_text(json.dumps(config))
    encoder = load_encoder(f"{own}:float32")
    assert encoder.dim == encoders.describe(f"{own}:float32").dim == 64
    assert load_tokenizer(str(own)).max_tokens == encoder.max_tokens == 32
    assert encoder.identity != exact.identity

    text = "Stem cells repair the heart"
    plain, ours = exact.encode_queries([text]), encoder.encode_passages([text])
    expected = functional.normalize(torch.from_numpy(plain.tokens[1:-1]) @ projection.T, dim=1)
    np.testing.assert_allclose(ours.tokens, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.pooled[0], plain.tokens[0], atol=1e-5)
    prefixed = exact.encode_queries([f"query: {text}"])
    np.testing.assert_allclose(encoder.encode_queries([text]).pooled[0], prefixed.tokens[0], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "max"}, "pooling"),
        ({"colour": "red"}, "colour"),
        ({"passage_max_tokens": 4096}, "512 positions"),
        ({"projection": "absent.safetensors"}, "not there"),
    ],
)
def test_unusable_settings_are_explained(folder: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    own = tmp_path / "model"
    shutil.copytree(folder, own)
    (own / "hiperrag_encoder.json").write_text(json.dumps(change))
    with pytest.raises(UserError, match=message):
        load_encoder(f"{own}:float32")


def test_unusable_models_are_explained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="minilm"):
        load_encoder("no-such-encoder")
    own = tmp_path / "model"
    shutil.copytree(folder, own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"model_type": "roberta"}))
    with pytest.raises(UserError, match="roberta"):
        load_encoder(f"{own}:float32")
    (own / "config.json").write_text(json.dumps(config))
    weights = load_file(own / "model.safetensors")
    save_file({name: w for name, w in weights.items() if "layer.5" not in name}, own / "model.safetensors")
    with pytest.raises(UserError, match="6 BERT layers"):
        load_encoder(f"{own}:float32")


def test_specs_with_and_without_precision() -> None:
    assert split_spec("minilm") == ("minilm", None)
    assert split_spec("minilm:int8") == ("minilm", "int8")
    assert split_spec("/models/a:b") == ("/models/a:b", None)
    assert split_spec("/models/a:b:bfloat16") == ("/models/a:b", "bfloat16")


def test_batches_hold_every_text_once_within_the_budget() -> None:
    lengths = [5, 300, 7, 7, 120, 2, 7]
    batches = length_sorted_batches(lengths, 128)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert batches[0] == [1]
    assert all(sum(lengths[index] for index in batch) <= 128 for batch in batches[1:])
    assert [lengths[index] for batch in batches for index in batch] == sorted(lengths, reverse=True)
