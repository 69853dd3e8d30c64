"""Shards and search over them, against MaxSim written plainly."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hiperrag.errors import UserError
from hiperrag.index.search import search, search_exact
from hiperrag.index.shard import PartVectors, Shard, write_shard

DIM, POOLED = 16, 8
RNG = np.random.default_rng(7)


def unit(*shape: int) -> np.ndarray:
    x = RNG.standard_normal(shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make_part(folder: Path, lengths: list[int]) -> tuple[PartVectors, np.ndarray, np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens, pooled = unit(int(offsets[-1]), DIM), unit(len(lengths), POOLED)
    part = PartVectors(folder)
    part.write(tokens, offsets, pooled, np.zeros(len(lengths), dtype=bool))
    return part, tokens, offsets, pooled


def plain_maxsim(query: np.ndarray, tokens: np.ndarray) -> float:
    return float(sum(max(float(q @ t) for t in tokens) for q in query)) if len(tokens) else -np.inf


@pytest.fixture
def shards(tmp_path: Path) -> tuple[list[Shard], list[list[np.ndarray]], list[np.ndarray]]:
    """Two shards of two parts each; passage 3 of the first has no tokens."""
    opened, passages, pooled = [], [], []
    for number, groups in enumerate(([[5, 9, 1], [0, 7]], [[4, 4], [12, 3, 6]])):
        parts, texts, vectors = [], [], []
        for position, lengths in enumerate(groups):
            part, tokens, offsets, pool = make_part(tmp_path / f"v{number}{position}", lengths)
            parts.append(part)
            stored = tokens.astype(np.float16).astype(np.float32)
            texts += [stored[a:b] for a, b in pairwise(offsets)]
            vectors.append(pool)
        write_shard(tmp_path / f"{number}", parts)
        opened.append(Shard(tmp_path / f"{number}"))
        passages.append(texts)
        pooled.append(np.concatenate(vectors))
    return opened, passages, pooled


def test_exact_search_is_maxsim_over_everything(shards):
    opened, passages, _ = shards
    query = unit(6, DIM)
    expected = sorted(
        ((plain_maxsim(query, tokens), s, r) for s, texts in enumerate(passages) for r, tokens in enumerate(texts)),
        key=lambda item: (-item[0], item[1], item[2]),
    )[:-1]
    other = unit(3, DIM)
    found, found_other = search_exact(opened, [query, other], k=10)
    assert [(match.shard, match.row) for match in found] == [(s, r) for _, s, r in expected]
    assert [match.score for match in found] == pytest.approx([score for score, _, _ in expected], abs=1e-4)
    alone = search_exact(opened, [other], k=10)[0]
    assert [(m.shard, m.row) for m in found_other] == [(m.shard, m.row) for m in alone]
    assert (0, 3) not in {(match.shard, match.row) for match in found}, "a passage without tokens is not found"


def test_small_blocks_score_the_same(shards):
    opened, _, _ = shards
    query = unit(6, DIM)
    np.testing.assert_allclose(opened[1].maxsim_all([query], block_tokens=5), opened[1].maxsim_all([query]), atol=1e-5)


def test_candidates_limit_what_is_scored(shards):
    opened, _, pooled = shards
    query, direction = unit(6, DIM), unit(1, POOLED)[0]
    nearest = sorted(
        ((float(vector @ direction), s, r) for s, vectors in enumerate(pooled) for r, vector in enumerate(vectors)),
        reverse=True,
    )[:3]
    found = search(opened, query, direction, k=3, n_candidates=3)
    assert {(match.shard, match.row) for match in found} == {(s, r) for _, s, r in nearest}
    assert [match.score for match in found] == sorted((match.score for match in found), reverse=True)
    everything = search(opened, query, direction, k=10, n_candidates=1)
    assert len(everything) == 9, "all that have tokens, however few candidates were asked for"


def test_equal_scores_come_in_shard_and_row_order(tmp_path):
    tokens, pooled = unit(1, DIM), unit(1, POOLED)
    for name in ("a", "b"):
        part = PartVectors(tmp_path / f"v{name}")
        part.write(np.repeat(tokens, 3, axis=0), np.arange(4), np.repeat(pooled, 3, axis=0), np.zeros(3, dtype=bool))
        write_shard(tmp_path / name, [part])
    found = search([Shard(tmp_path / "a"), Shard(tmp_path / "b")], unit(2, DIM), pooled[0], k=4)
    assert [(match.shard, match.row) for match in found] == [(0, 0), (0, 1), (0, 2), (1, 0)]


@pytest.mark.parametrize("name", ["tokens.npy", "offsets.npy", "pooled.faiss"])
@pytest.mark.parametrize("damage", ["truncate", "empty", "missing", "foreign"])
def test_damaged_shards_are_refused_in_one_line(tmp_path, name, damage):
    part, *_ = make_part(tmp_path / "v", [5, 9, 30])
    write_shard(tmp_path / "s", [part])
    path = tmp_path / "s" / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncate": data[: len(data) // 2], "empty": b"", "foreign": b"%PDF-1.4 not ours"}[damage])
    with pytest.raises(UserError) as caught:
        Shard(tmp_path / "s")
    assert "\n" not in str(caught.value)
    assert "doctor" in str(caught.value)
