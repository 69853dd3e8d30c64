"""Search and build on a device: the same integers and estimates as on the CPU, with torch on the CPU where no GPU is.

The Triton kernel runs in Triton's interpreter where Triton is installed, and on the device itself in tests marked gpu.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hiperrag.benchmarks import index_gpu
from hiperrag.errors import UserError
from hiperrag.index import gpu, kernels
from hiperrag.index.build import encode_piece, write_shard
from hiperrag.index.candidates import build_candidates
from hiperrag.index.codec import Codec, QueryCodes
from hiperrag.index.gpu import encoding, lists, maxsim, shard
from hiperrag.index.gpu.shard import DeviceShard
from hiperrag.index.gpu.tensors import best
from hiperrag.index.kernels import Effort
from hiperrag.index.search import Searcher
from hiperrag.index.shard import open_shards
from hiperrag.index.vectors import CandidateArrays, TokenArrays
from hiperrag.records import Passage

CPU = torch.device("cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
EFFORT = Effort(n=40, n_first=150, n_probe=3, mean_weight=0.75)
TRITON = importlib.util.find_spec("triton") and importlib.metadata.version("triton")
no_triton = pytest.mark.skipif(
    not TRITON or tuple(map(int, TRITON.split(".")[:2])) < (3, 7),
    reason="Triton is not installed, or so old that its interpreter fails with NumPy 2.4",
)
gpu_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def vectors(rng: np.random.Generator, lengths: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Token vectors of passages that share topics, and their offsets."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    topics = rng.standard_normal((60, dim))
    own = np.repeat(topics[rng.integers(0, 60, len(lengths))], lengths, axis=0)
    noise = rng.standard_normal((int(offsets[-1]), dim))
    return unit(own + topics[rng.integers(0, 60, int(offsets[-1]))] + 0.7 * noise), offsets


def encoded(codec: Codec, tokens: np.ndarray, offsets: np.ndarray) -> TokenArrays:
    codes = codec.encode(tokens, offsets)
    return TokenArrays(codec, codes.codes, codes.scales, offsets, codes.means, codes.mean_scales)


def queries(rng: np.random.Generator, codec: Codec, *lengths: int) -> list[QueryCodes]:
    return [codec.encode_query(unit(rng.standard_normal((n, codec.dim)))) for n in lengths]


@pytest.fixture(scope="module")
def tokens() -> TokenArrays:
    rng = np.random.default_rng(5)
    lengths = rng.integers(0, 90, 700)
    return encoded(Codec(128, 4), *vectors(rng, lengths, 128))


@pytest.fixture(scope="module")
def centroids(tokens) -> CandidateArrays:
    return build_candidates(tokens)


@pytest.fixture(scope="module")
def loaded(tokens, centroids) -> DeviceShard:
    return DeviceShard(tokens, centroids, CPU)


@pytest.fixture(scope="module")
def asked(tokens) -> list[QueryCodes]:
    return queries(np.random.default_rng(6), tokens.codec, 12, 1, 70, 33, 16, 5)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dim", [48, 128, 384])
def test_maxsim_is_that_of_the_cpu(dim, bits):
    rng = np.random.default_rng(dim + bits)
    lengths = np.array([5, 0, 1, 33, 64, 2, 70])
    tokens = encoded(Codec(dim, bits), *vectors(rng, lengths, dim))
    device = DeviceShard(tokens, build_candidates(tokens), CPU)
    asked = queries(rng, tokens.codec, 3, 1, 70, 9)
    expected = kernels.maxsim(tokens, asked, range(7))
    scores = device.maxsim(asked, range(7))
    assert np.isneginf(scores[:, 1]).all()
    np.testing.assert_array_max_ulp(np.delete(scores, 1, axis=1), np.delete(expected, 1, axis=1), maxulp=1)
    rows = np.array([6, 1, 2, 2])
    np.testing.assert_array_equal(device.maxsim(asked, rows), scores[:, rows])
    own = [np.array([3, 0]), np.array([], dtype=int), np.array([1, 4, 5]), np.array([6])]
    for line, listed, values in zip(scores, own, device.maxsim_of_each(asked, own), strict=True):
        np.testing.assert_array_equal(values, line[listed])


@pytest.mark.skipif(INTERPRETED, reason="runs the others in the interpreter")
@no_triton
def test_triton_kernel_is_that_of_the_cpu_in_the_interpreter():
    inner = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "maxsim_is_that or fused_kernel_is"]
    done = subprocess.run(
        [*inner, str(Path(__file__))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "10 passed" in done.stdout


@pytest.mark.skipif(not INTERPRETED, reason="for the run in Triton's interpreter")
def test_fused_kernel_is_what_the_interpreter_runs():
    assert maxsim.fused(CPU)


@no_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("dim", "bits", "lanes", "n_queries"), [(128, 4, 32, 1), (128, 2, 16, 8), (384, 8, 128, 2)])
def test_triton_kernel_compiles_to_integer_tensor_cores(dim, bits, lanes, n_queries, tmp_path, monkeypatch):
    """No GPU is needed to compile for one."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hiperrag.index.gpu import fused_maxsim

    pointers = {"codes": "*u8", "token_scales": "*u8", "scale_table": "*fp32", "offsets": "*i64", "means": "*u8"}
    pointers |= {"mean_scales": "*fp32", "rows": "*i64", "values": "*i8", "query_scales": "*fp32", "out": "*fp32"}
    settings = fused_maxsim.constants(Codec(dim, bits), lanes, n_queries, alone=False) | {"ALL": False}
    names = fused_maxsim.maxsim_kernel.arg_names
    signature = {name: "constexpr" if name in settings else "i32" for name in names} | pointers
    source = ASTSource(fused_maxsim.maxsim_kernel, {name: signature[name] for name in names}, constexprs=settings)
    options = {"num_warps": fused_maxsim.warps(settings), "enable_fp_fusion": False}
    assembly = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"]
    assert "s32.s8.s8.s32" in assembly
    assert "fma.rn" not in assembly


def test_torch_takes_over_where_triton_fails(tokens, loaded, asked, monkeypatch, caplog):
    """A machine without a C compiler cannot launch Triton's kernels."""
    failing = SimpleNamespace(launch=lambda *_: (_ for _ in ()).throw(RuntimeError("no C compiler")))
    monkeypatch.setitem(sys.modules, "hiperrag.index.gpu.fused_maxsim", failing)
    monkeypatch.setattr(gpu, "fused_maxsim", failing, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(maxsim.DeviceTokens, "upload", lambda tokens, device: loaded.tokens)
    monkeypatch.setattr(maxsim, "pack", lambda queries, device: iter([None]))
    assert not maxsim.fused.__wrapped__(torch.device("cuda", 0))
    assert "no C compiler" in caplog.text


def test_memory_that_runs_out_is_one_clear_error(loaded, asked, monkeypatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(maxsim, "maxsim", full)
    with pytest.raises(UserError, match="HIPERRAG_DEVICE=cpu"):
        loaded.best(asked, 3, None)


@pytest.mark.slow
def test_long_batches_and_batches_cut_to_the_workspace_change_nothing(tokens, loaded, asked, monkeypatch):
    expected = (
        loaded.maxsim(asked, range(100, 300)),
        loaded.candidates(asked, None, EFFORT),
        loaded.best(asked, 9, None),
    )
    monkeypatch.setattr(shard, "WORKSPACE_BYTES", 1)
    monkeypatch.setattr(maxsim, "_BLOCK_PRODUCTS", 20_000)
    np.testing.assert_array_equal(loaded.maxsim(asked, range(100, 300)), expected[0])
    for found, wanted in (
        (loaded.candidates(asked, None, EFFORT), expected[1]),
        (loaded.best(asked, 9, None), expected[2]),
    ):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("unlisted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("effort", [EFFORT, Effort(700, 700, 1, 0.0), Effort(5, 5, 1_000, 1.0)], ids=lambda e: str(e.n))
def test_candidates_are_those_of_the_cpu(tokens, centroids, loaded, asked, masked, effort, unlisted):
    allowed = np.random.default_rng(8).random(700) < 0.3 if masked else None
    found = loaded.candidates(asked, allowed, effort, unlisted)
    for query, (rows, estimates) in zip(asked, found, strict=True):
        expected = kernels.candidates(tokens, centroids, query, allowed, effort, unlisted)
        np.testing.assert_array_equal(rows, expected[0])
        np.testing.assert_array_equal(estimates, expected[1])


def test_candidates_beyond_one_block_of_postings():
    rng = np.random.default_rng(9)
    tokens = encoded(Codec(16, 2), *vectors(rng, rng.integers(0, 4, 66_000), 16))
    centroids = build_candidates(tokens)
    assert len(centroids.starts) == 2
    asked = queries(rng, tokens.codec, 8, 3)
    for query, found in zip(asked, DeviceShard(tokens, centroids, CPU).candidates(asked, None, EFFORT), strict=True):
        expected = kernels.candidates(tokens, centroids, query, None, EFFORT)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("masked", [False, True])
def test_best_of_all_passages(tokens, loaded, asked, masked):
    allowed = np.random.default_rng(10).random(700) < 0.02 if masked else None
    rows = np.flatnonzero(np.diff(tokens.offsets) > 0)
    rows = rows if allowed is None else rows[allowed[rows]]
    scores = loaded.maxsim(asked, range(700))
    for line, (found, values) in zip(scores, loaded.best(asked, 30, allowed), strict=True):
        expected = rows[np.lexsort((rows, -line[rows]))[:30]]
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(values, line[expected])


def test_ties_go_to_the_lowest_rows():
    values = torch.tensor([[1.0, -0.0, 0.0, 1.0, -torch.inf, -2.0]])
    columns, counts = best(values, 9, eligible=torch.tensor([True, True, True, True, True, False]))
    assert columns[0, : counts[0]].tolist() == [0, 3, 1, 2, 4]
    rows = torch.tensor([[9, 4, 3, 2, 1, 0]])
    assert best(values, 3, rows=rows)[0][0].tolist() == [3, 0, 2]


@pytest.mark.parametrize("masked", [False, True])
def test_pooled_search(loaded, masked, monkeypatch):
    rng = np.random.default_rng(11)
    pooled, query = unit(rng.standard_normal((700, 24))), rng.standard_normal(24)
    pooled[13] = pooled[500]
    allowed = rng.random(700) < 0.5 if masked else None
    if allowed is not None:
        allowed[[13, 500]] = True
    loaded._pooled = None
    monkeypatch.setattr(shard, "room", lambda device: 4 * 700 * 24 - 1)
    assert not loaded.pooled_fits(24)
    assert loaded.pooled_fits(23)
    scores, rows = loaded.search_pooled(lambda: pooled, pooled[500] + 0.01 * query, 5, allowed)
    assert rows[:2].tolist() == [13, 500]
    assert loaded.pooled_fits(24)
    assert np.all(np.diff(scores) <= 0)
    few = np.zeros(700, dtype=bool)
    few[[3, 600]] = True
    assert sorted(loaded.search_pooled(lambda: pooled, query, 5, few)[1].tolist()) == [3, 600]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("dim", "dtype"), [(48, np.float16), (128, np.float32), (384, np.float32)])
def test_codes_are_those_of_the_cpu(dim, dtype, bits, monkeypatch):
    rng = np.random.default_rng(dim)
    monkeypatch.setattr(encoding, "_BLOCK_VALUES", 100 * dim)
    tokens, offsets = vectors(rng, np.array([0, 3, 150, 1, *rng.integers(0, 60, 100), 0]), dim)
    tokens[:3] = 0
    codec = Codec(dim, bits)
    expected, found = (
        codec.encode(tokens.astype(dtype), offsets),
        encoding.encode(codec, tokens.astype(dtype), offsets, CPU),
    )
    for field in ("lengths", "means", "mean_scales"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
    assert (codec.unpack(found.codes) == codec.unpack(expected.codes)).mean() >= 0.999
    assert (found.scales == expected.scales).mean() >= 0.999
    assert np.abs(found.scales.astype(int) - expected.scales).max() <= 1
    with pytest.raises(ValueError, match="65535"):
        encoding.encode(codec, np.zeros((65_536, dim), np.float32), np.array([0, 65_536]), CPU)


def test_lists_are_of_the_kind_of_the_cpu(tokens, centroids):
    made = lists.build_candidates(tokens, CPU)
    again = lists.build_candidates(tokens, CPU)
    for field in dataclasses.fields(made):
        one, other = getattr(made, field.name), getattr(centroids, field.name)
        assert one.dtype == other.dtype
        assert one.shape == other.shape or field.name == "postings"
        np.testing.assert_array_equal(one, getattr(again, field.name))
    assert made.starts[-1, -1] == len(made.postings)
    assert set(made.postings.tolist()) == set(np.flatnonzero(np.diff(tokens.offsets)).tolist())
    assert len(made.postings) == pytest.approx(len(centroids.postings), rel=0.05)
    for centroid in range(len(made.centroids)):
        assert np.all(np.diff(made.postings[made.starts[0, centroid] : made.starts[0, centroid + 1]].astype(int)) > 0)
    asked = like_passages(tokens, 60)
    assert recall(tokens, made, asked) >= recall(tokens, centroids, asked) - 0.05


def like_passages(tokens: TokenArrays, n: int) -> list[QueryCodes]:
    """Queries that resemble the tokens of one passage each, as codes are in the space of queries."""
    rng = np.random.default_rng(12)
    codes = tokens.codec.unpack(tokens.codes).astype(np.int16) - 128
    asked = []
    for row in rng.choice(np.flatnonzero(np.diff(tokens.offsets) >= 10), n):
        start = int(tokens.offsets[row])
        levels = codes[start : start + 10] * tokens.codec.scale_table[tokens.scales[start : start + 10], None]
        mean = (tokens.means[row].astype(np.float32) - 128) * tokens.mean_scales[row]
        noisy = levels + mean + 0.05 * rng.standard_normal(levels.shape)
        scales = np.abs(noisy).max(axis=1).astype(np.float32) / 127
        asked.append(QueryCodes(np.rint(noisy / scales[:, None]).astype(np.int8), scales))
    return asked


def recall(tokens: TokenArrays, listed: CandidateArrays, asked: list[QueryCodes]) -> float:
    top = [np.argsort(-line)[:10] for line in kernels.maxsim(tokens, asked, range(len(tokens.mean_scales)))]
    found = [kernels.candidates(tokens, listed, query, None, EFFORT)[0] for query in asked]
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(top, found, strict=True)]))


def test_lists_of_empty_passages():
    tokens = encoded(Codec(48, 4), np.empty((0, 48), np.float32), np.zeros(4, np.int64))
    made = lists.build_candidates(tokens, CPU)
    assert len(made.postings) == 0
    device = DeviceShard(tokens, made, CPU)
    asked = queries(np.random.default_rng(1), tokens.codec, 4)
    assert np.isneginf(device.maxsim(asked, range(3))).all()
    assert len(device.candidates(asked, None, EFFORT, unlisted=True)[0][0]) == 0
    assert len(device.best(asked, 5, None)[0][0]) == 0


def test_a_posting_out_of_range_is_refused(tokens, centroids):
    postings = centroids.postings.copy()
    postings[3] = 700
    with pytest.raises(UserError, match="doctor"):
        DeviceShard(tokens, dataclasses.replace(centroids, postings=postings), CPU)


def stand_in(tokens: TokenArrays, centroids: CandidateArrays) -> SimpleNamespace:
    checked: list[range] = []
    return SimpleNamespace(
        tokens=tokens,
        lists=centroids,
        folder="0",
        n_passages=700,
        on_device=None,
        check=checked.append,
        checked=checked,
    )


def test_shards_that_fit_are_loaded_once(tokens, centroids, asked, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    one, other = stand_in(tokens, centroids), stand_in(tokens, centroids)
    needed = shard.bytes_needed(tokens, centroids)
    free = [needed]
    monkeypatch.setattr(gpu, "devices", lambda: [CPU])
    monkeypatch.setattr(shard, "room", lambda device: free[0] - (one.on_device is not None) * needed)
    assert gpu.accelerate([one, other]) == 1
    assert one.checked == [range(700)]
    assert "stays on the CPU" in caplog.text
    assert other.on_device is None
    kept, free[0] = one.on_device, 2 * needed
    assert gpu.accelerate([one, other]) == 2
    assert one.on_device is kept
    np.testing.assert_array_equal(other.on_device.maxsim(asked, range(5)), kept.maxsim(asked, range(5)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_everything_stays_on_the_cpu(tokens, centroids, monkeypatch):
    shards = [stand_in(tokens, centroids)]
    for value in ("auto", "cpu"):
        monkeypatch.setenv(gpu.VARIABLE, value)
        assert gpu.accelerate(shards) == 0
    monkeypatch.setenv(gpu.VARIABLE, "cuda")
    with pytest.raises(UserError, match="no GPU"):
        gpu.accelerate(shards)
    monkeypatch.setenv(gpu.VARIABLE, "tpu")
    with pytest.raises(UserError, match="auto, cpu or cuda"):
        gpu.devices()
    with pytest.raises(UserError, match="auto, cpu or cuda"):
        gpu.pays(1)
    monkeypatch.delenv(gpu.VARIABLE)
    vectors_of, offsets = unit(np.random.default_rng(2).standard_normal((9, 48))), np.array([0, 4, 9])
    np.testing.assert_array_equal(
        gpu.encode(Codec(48, 4), vectors_of, offsets).codes, Codec(48, 4).encode(vectors_of, offsets).codes
    )
    np.testing.assert_array_equal(gpu.build_candidates(tokens).postings, centroids.postings)


def test_nothing_loads_torch_where_no_gpu_is_wanted():
    code = "import sys; from hiperrag.index import gpu; assert not gpu.devices(); assert 'torch' not in sys.modules"
    environment = {**os.environ, gpu.VARIABLE: "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def passages(n: int, first: int) -> list[Passage]:
    words = ["alloy", "protein", "quasar", "neuron", "enzyme", "lattice"]
    texts = [f"{words[i % 6]} {words[i * 5 % 6]} sample {i}" for i in range(first, first + n)]
    return [Passage(f"p{first + i}", "d", "s", "", i, "paragraph", "", t, 0, 0, [], 3) for i, t in enumerate(texts)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Two shards on disk, with pooled vectors and text."""
    rng, written = np.random.default_rng(14), []
    for number, n in enumerate((400, 250)):
        own, offsets = vectors(rng, rng.integers(0, 60, n), 48)
        piece = encode_piece(own, offsets, unit(rng.standard_normal((n, 24))), 4)
        written.append(tmp_path_factory.mktemp("shards") / str(number))
        write_shard(written[-1], [piece], n, int(offsets[-1]), lambda n=n, first=400 * number: passages(n, first))
    return written


@pytest.fixture
def as_if_on_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(gpu, "devices", lambda: [CPU])
    monkeypatch.setattr(shard, "room", lambda device: 1 << 40)


@pytest.mark.parametrize("quality", ["fast", "exact", 30])
@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_searches_on_a_device_find_what_the_cpu_finds(folders, as_if_on_a_gpu, quality, hybrid, masked):
    rng = np.random.default_rng(15)
    deleted = [rng.random(400) < 0.2, None]
    on_cpu, on_device = (Searcher(open_shards(folders, deleted), threads=2) for _ in range(2))
    assert gpu.accelerate(on_device.shards) == 2
    masks = [rng.random(400) < 0.1, rng.random(250) < 0.02] if masked else None
    asked = [unit(rng.standard_normal((n, 48))) for n in (4, 20, 1, 70)]
    texts = ["protein", "quasar alloy", "sample 17", "nothing of it"] if hybrid else None
    expected = on_cpu.search(asked, 12, quality, masks, texts)
    assert on_device.search(asked, 12, quality, masks, texts) == expected
    assert on_device.search(asked[:1], 12, quality, masks, texts and texts[:1]) == expected[:1]
    pooled = unit(rng.standard_normal((1, 24)))[0]
    found, wanted = (searcher.search_pooled(pooled, 9, masks) for searcher in (on_device, on_cpu))
    assert [(match.shard, match.row) for match in found] == [(match.shard, match.row) for match in wanted]
    np.testing.assert_allclose([match.score for match in found], [match.score for match in wanted], rtol=1e-5)


def test_shards_go_to_the_device_when_enough_was_asked(folders, as_if_on_a_gpu):
    searcher = Searcher(open_shards(folders), threads=1)
    asked = [unit(np.random.default_rng(1).standard_normal((5, 48)))] * (gpu.QUERIES_TO_LOAD - 1)
    before = searcher.search(asked, 5)
    assert not any(one.on_device for one in searcher.shards)
    assert searcher.search(asked[:1], 5) == before[:1]
    assert all(one.on_device for one in searcher.shards)


def test_damaged_codes_do_not_reach_the_device(folders, as_if_on_a_gpu, tmp_path):
    folder = shutil.copytree(folders[0], tmp_path / "0")
    codes = np.lib.format.open_memmap(folder / "codes.npy", mode="r+")
    codes[1234, 5] ^= 1
    codes.flush()
    with pytest.raises(UserError, match="checksum"):
        gpu.accelerate(open_shards([folder]))


def test_shards_are_built_on_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "devices", lambda: [CPU])
    own, offsets = vectors(np.random.default_rng(16), np.random.default_rng(17).integers(0, 60, 300), 48)
    piece = encode_piece(own, offsets, None, 4)
    write_shard(tmp_path / "0", [piece], 300, int(offsets[-1]))
    opened = open_shards([tmp_path / "0"])[0]
    found = Searcher([opened], threads=1).search([own[offsets[9] : offsets[10]]], 1)
    assert found[0][0].row == 9


def test_the_benchmark_asks_for_a_gpu(monkeypatch, capsys):
    monkeypatch.setenv(gpu.VARIABLE, "cpu")
    with pytest.raises(SystemExit) as stopped:
        index_gpu.main([])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_benchmark_compares_the_same_results():
    corpus = index_gpu.make_corpus(Codec(48, 4), 150, 3, 10, CPU)
    measured = index_gpu.measure(corpus, CPU, 1)
    assert measured["same_top_10"] == {"exact": 1.0, "two_stage": 1.0}
    assert all(rate > 0 for rate in measured["queries_per_second"].values())


@pytest.mark.gpu
@gpu_only
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dim", [48, 128, 384])
def test_the_device_gives_the_scores_of_the_cpu(dim, bits):
    rng = np.random.default_rng(dim + bits)
    tokens = encoded(Codec(dim, bits), *vectors(rng, rng.integers(0, 180, 4_000), dim))
    centroids, device = build_candidates(tokens), gpu.devices()[0]
    with pytest.raises(UserError, match="auto, cpu or cuda"):
        gpu.pays(1)
    loaded = DeviceShard(tokens, centroids, device)
    asked = queries(rng, tokens.codec, *rng.integers(1, 71, 40), 200)
    expected = kernels.maxsim(tokens, asked, range(4_000))
    np.testing.assert_array_max_ulp(loaded.maxsim(asked, range(4_000)), expected, maxulp=1)
    for query, (rows, estimates) in zip(asked, loaded.candidates(asked, None, EFFORT), strict=True):
        wanted = kernels.candidates(tokens, centroids, query, None, EFFORT)
        np.testing.assert_array_equal(rows, wanted[0])
        np.testing.assert_array_equal(estimates, wanted[1])


@pytest.mark.gpu
@gpu_only
def test_the_device_builds_what_the_cpu_builds():
    rng = np.random.default_rng(3)
    codec, (vectors_of, offsets) = Codec(128, 4), vectors(rng, rng.integers(0, 180, 5_000), 128)
    device = gpu.devices()[0]
    with pytest.raises(UserError, match="auto, cpu or cuda"):
        gpu.pays(1)
    found, expected = encoding.encode(codec, vectors_of, offsets, device), codec.encode(vectors_of, offsets)
    assert (codec.unpack(found.codes) == codec.unpack(expected.codes)).mean() >= 0.999
    np.testing.assert_array_equal(found.means, expected.means)
    tokens = encoded(codec, vectors_of, offsets)
    asked = like_passages(tokens, 60)
    made, again = lists.build_candidates(tokens, device), lists.build_candidates(tokens, device)
    np.testing.assert_array_equal(made.postings, again.postings)
    assert recall(tokens, made, asked) >= recall(tokens, build_candidates(tokens), asked) - 0.05


@pytest.mark.gpu
@gpu_only
def test_pooled_search_with_and_without_faiss_on_the_device(tokens, centroids):
    pooled = unit(np.random.default_rng(4).standard_normal((700, 96)))
    loaded = DeviceShard(tokens, centroids, gpu.devices()[0])
    with pytest.raises(UserError, match="auto, cpu or cuda"):
        gpu.pays(1)
    scores, rows = loaded.search_pooled(lambda: pooled, pooled[77], 10, None)
    masked = loaded.search_pooled(lambda: pooled, pooled[77], 10, np.ones(700, dtype=bool))
    np.testing.assert_array_equal(rows, masked[1])
    np.testing.assert_allclose(scores, masked[0], rtol=1e-5)
    np.testing.assert_array_equal(rows, np.argsort(-(pooled @ pooled[77]), kind="stable")[:10])


@pytest.mark.gpu
@gpu_only
def test_speed_on_the_device():
    rng = np.random.default_rng(7)
    tokens = encoded(Codec(128, 4), *vectors(rng, rng.integers(20, 160, 20_000), 128))
    loaded = DeviceShard(tokens, build_candidates(tokens), gpu.devices()[0])
    with pytest.raises(UserError, match="auto, cpu or cuda"):
        gpu.pays(1)
    asked = queries(rng, tokens.codec, *[20] * 64)
    for name, act in (
        ("exact", lambda: loaded.best(asked, 10, None)),
        ("candidates", lambda: loaded.candidates(asked, None, EFFORT)),
    ):
        act()
        start = time.perf_counter()
        act()
        print(f"{name}: {len(asked) / (time.perf_counter() - start):.0f} queries/s over 20,000 passages")
    assert len(loaded.best(asked, 10, None)[0][0]) == 10
