"""The plan for a large index: its models, and the stand-ins that it measures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hiperrag.benchmarks.scale_measure import repeated_lists
from hiperrag.benchmarks.scale_model import Lists, Measured, Model, Point, fit
from hiperrag.index.build import encode_piece, write_shard
from hiperrag.index.candidates import number_of_centroids
from hiperrag.index.shard import Shard
from hiperrag.index.vectors import BLOCK_ROWS, CandidateArrays

TOKENS = 100


def lists(n: int, centroids: int | None = None) -> Lists:
    """Times that follow the model: 0.5 + C / 1000 + 2 L / 1000 + 3 n / 10^6."""
    centroids = centroids or number_of_centroids(n * TOKENS)
    postings = n * TOKENS * 7 // 10
    return Lists(n, centroids, postings, 0.5 + centroids / 1e3 + 2e-3 * postings / centroids + 3e-6 * n)


def point(n: int) -> Point:
    return Point(lists(n), n * TOKENS, 5.12, 512, 4e-4 * n, 200_000_000 + 8_000 * n)


MEASURED = Measured(
    points=[point(10_000), point(30_000), point(100_000)],
    stand_ins=[lists(300_000, 4_096), lists(1_000_000, 4_096)],
    cuts=[(2_048, 0.05 + 2_048e-6), (131_072, 0.05 + 131_072e-6)],
    bytes_per_token=66.0,
    bytes_per_passage=400.0,
    encode_ms_per_passage=0.5,
    query_tokens=20.0,
    dim=128,
    process_bytes=10**8,
    exchange_ms=0.2,
)


def test_fit_finds_the_coefficients_and_keeps_them_above_zero():
    x = np.array([1.0, 2, 3, 5])
    assert fit(np.stack([np.ones(4), x], 1), 3 + 2 * x) == pytest.approx([3, 2])
    falling = fit(np.stack([np.ones(4), x], 1), 10 - x)
    assert falling[1] == 0
    assert falling[0] > 0


def test_the_model_gives_back_what_it_rests_on():
    model = Model(MEASURED)
    assert model.candidates_ms(10_000) == pytest.approx(lists(10_000).candidates_ms)
    assert model.candidates_ms(2_000_000) == pytest.approx(lists(2_000_000).candidates_ms)
    assert model.maxsim_ms(10**6) == pytest.approx(0.01)
    assert model.total_bytes(1_000) == pytest.approx(1_000 * (TOKENS * 66 + 400))
    assert model.peak_bytes(10**6) == pytest.approx(8.2e9)
    assert model.build_cpu_s(10**6) == pytest.approx(900)
    assert model.held_out_errors() == pytest.approx([0] * 5, abs=0.02)


def test_a_row_of_the_table_adds_up():
    model = Model(MEASURED)
    one = model.predict(16_400_000, 100_000, nodes=1, cores=32)
    assert (one["shards"], one["shards_on_busiest_node"]) == (164, 164)
    assert one["disk_gb"] == pytest.approx(114.8)
    assert one["memory_gb_per_node"] == pytest.approx(114.9)
    candidates, cut = lists(100_000).candidates_ms, 0.05 + 164 * 512e-6
    assert one["latency_ms_p50"] == pytest.approx(6 * candidates + 5.12 + cut, abs=0.01)
    assert one["queries_per_s"] == pytest.approx(32_000 / (164 * candidates + 5.12 + cut), rel=1e-3)
    assert one["message_kb_received_by_a_rank"] == 0
    many = model.predict(16_400_000, 1_000_000, nodes=64, cores=32)
    assert many["shards_on_busiest_node"] == 1
    assert many["memory_gb_per_node"] == pytest.approx(114.8 / 17 + 0.1, abs=0.01)
    assert many["message_kb_received_by_a_rank"] == pytest.approx((63 * 512 * 12 + 20 * 132) / 1e3, abs=0.1)
    assert many["of_which_maxsim_ms"] < 5.12 / 17 * 3, "no rank scores much more than its share"
    halved = dataclasses.replace(MEASURED, query_tokens=10.0)
    assert Model(halved).predict(10**6, 10**5, 1, 1) == model.predict(10**6, 10**5, 1, 1), (
        "tokens only go into messages"
    )


def contents(arrays: CandidateArrays) -> set[tuple[int, int]]:
    """(centroid, passage) of all postings."""
    found = set()
    for block, starts in enumerate(arrays.starts.astype(int)):
        for centroid in range(len(arrays.centroids)):
            rows = arrays.postings[starts[centroid] : starts[centroid + 1]].astype(int) + block * BLOCK_ROWS
            assert np.all(np.diff(rows) > 0)
            found |= {(centroid, row) for row in rows.tolist()}
    return found


def test_repeated_lists_hold_every_passage_as_often(tmp_path):
    n = 30_000
    vectors = np.random.default_rng(0).standard_normal((n, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_shard(tmp_path / "s", [encode_piece(vectors, np.arange(n + 1), None, 4)], n, n)
    shard = Shard(tmp_path / "s")
    tokens, repeated = repeated_lists(shard, 3)
    assert len(tokens.mean_scales) == len(tokens.offsets) - 1 == 3 * n
    once = contents(shard.lists)
    assert len(repeated.starts) == 2
    assert contents(repeated) == {(centroid, row + copy * n) for centroid, row in once for copy in range(3)}
