"""The kernels give the same results to the bit, those of MaxSim; and lists of candidates hold what they must."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_helpers import KERNELS, normal, queries_from, token_arrays, topical, unit, using

from hiperrag.errors import UserError
from hiperrag.index import candidates, kernels
from hiperrag.index.candidates import build_candidates, number_of_centroids
from hiperrag.index.codec import BITS, Codec, QueryCodes
from hiperrag.index.kernels import Effort
from hiperrag.index.vectors import BLOCK_ROWS, CandidateArrays, TokenArrays

LENGTHS = (0, 1, 2, 7, 8, 9, 16, 41, 300)
seeds = st.integers(0, 2**32 - 1)
dims = st.sampled_from([1, 16, 20, 32, 48, 64, 96, 100, 128, 144, 256, 272, 384, 400])
bits_used = st.sampled_from(BITS)
passage_lengths = st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=12)


def same_from_all(function):
    """What the function returns with each of the kernels, which must agree to the bit."""
    results = []
    for name in KERNELS:
        with using(name):
            results.append(function())
    for name, result in zip(KERNELS[1:], results[1:], strict=True):
        for expected, got in zip(results[0], result, strict=True):
            expected, got = np.asarray(expected), np.asarray(got)
            assert (expected.dtype, expected.shape) == (got.dtype, got.shape), name
            assert expected.tobytes() == got.tobytes(), f"{name} differs from {KERNELS[0]}"
    return results[0]


def plain_maxsim(query: np.ndarray, decoded: np.ndarray, tokens: TokenArrays) -> np.ndarray:
    scores = []
    for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        scores.append((query @ decoded[start:stop].T).max(axis=1).sum() if stop > start else -np.inf)
    return np.array(scores)


def decode(tokens: TokenArrays) -> np.ndarray:
    codec, lengths = tokens.codec, np.diff(tokens.offsets)
    levels = (codec.unpack(tokens.codes).astype(np.float64) - 128) * codec.scale_table[tokens.scales][:, None]
    means = (tokens.means.astype(np.float64) - 128) * tokens.mean_scales[:, None]
    return levels + np.repeat(means, lengths, axis=0)


@settings(max_examples=60, deadline=None)
@given(seeds, dims, bits_used, passage_lengths, st.lists(st.integers(1, 70), min_size=1, max_size=4))
def test_maxsim_is_the_same_from_all_kernels_and_that_of_the_decoded_vectors(seed, dim, bits, lengths, n_query_tokens):
    rng = np.random.default_rng(seed)
    tokens = token_arrays(unit(rng, sum(lengths), dim), lengths, bits)
    exact = [unit(rng, n, dim) for n in n_query_tokens]
    queries = [tokens.codec.encode_query(query) for query in exact]
    (scores,) = same_from_all(lambda: [kernels.maxsim(tokens, queries, range(len(lengths)))])
    rows = rng.permutation(len(lengths))[: 1 + len(lengths) // 2]
    (some,) = same_from_all(lambda: [kernels.maxsim(tokens, queries, rows)])
    np.testing.assert_array_equal(some, scores[:, rows])
    first = int(rng.integers(len(lengths)))
    (later,) = same_from_all(lambda: [kernels.maxsim(tokens, queries, range(first, len(lengths)))])
    np.testing.assert_array_equal(later, scores[:, first:])
    decoded = decode(tokens)
    np.testing.assert_array_equal(np.isneginf(scores[0]), np.array(lengths) == 0)
    for query, coded, found in zip(exact, queries, scores, strict=True):
        stored = coded.values.astype(np.float64) * coded.scales[:, None]
        np.testing.assert_allclose(found, plain_maxsim(stored, decoded, tokens), atol=2e-5 * len(query))
        rotated = tokens.codec.rotate(query).astype(np.float64)
        # A coordinate of the query is off by half a step, and a vector of length 1 sums to at most sqrt(dim).
        allowed = (coded.scales / 2).sum() * np.sqrt(tokens.codec.code_dim) * 1.3
        np.testing.assert_allclose(found, plain_maxsim(rotated, decoded, tokens), atol=allowed)


def test_decode_is_that_of_the_codec():
    rng = np.random.default_rng(0)
    for bits in BITS:
        codec = Codec(48, bits)
        codes = codec.encode(unit(rng, 30, 48), np.array([0, 9, 9, 30]))
        tokens = TokenArrays(codec, codes.codes, codes.scales, np.array([0, 9, 9, 30]), codes.means, codes.mean_scales)
        np.testing.assert_allclose(codec.decode(codes), decode(tokens), atol=1e-6)


def maxsim_of_first(tokens: TokenArrays, query: QueryCodes) -> list[np.ndarray]:
    return [kernels.maxsim(tokens, [query], range(1))]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 39, 40, 41])
@pytest.mark.parametrize("bits", BITS)
def test_padding_never_counts(length, bits):
    """All similarities are negative, so that a zero of padding would win."""
    rng = np.random.default_rng(length)
    for n_query_tokens in (1, 15, 16, 17):
        query = normal(np.ones((1, 100)) + 0.1 * unit(rng, n_query_tokens, 100))
        tokens = token_arrays(-normal(np.ones((1, 100)) + 0.1 * unit(rng, length, 100)), [length], bits)
        coded = tokens.codec.encode_query(query)
        (scores,) = same_from_all(partial(maxsim_of_first, tokens, coded))
        assert scores[0, 0] == pytest.approx(-n_query_tokens, rel=0.03)


def test_no_queries_no_scores():
    tokens = token_arrays(unit(np.random.default_rng(1), 5, 16), [2, 3], 4)
    (scores,) = same_from_all(lambda: [kernels.maxsim(tokens, [], range(2))])
    assert scores.shape == (0, 2)


@settings(max_examples=60, deadline=None)
@given(
    seeds,
    dims,
    bits_used,
    passage_lengths,
    st.integers(1, 70),
    st.builds(
        Effort,
        n=st.integers(1, 60),
        n_first=st.integers(1, 80),
        n_probe=st.integers(1, 40),
        mean_weight=st.sampled_from([0.0, 0.75, 1.0]),
    ),
    st.sampled_from(["none", "some", "few", "strided", "nothing"]),
    st.booleans(),
)
def test_candidates_are_the_same_from_all_kernels(seed, dim, bits, lengths, n_tokens, effort, masking, unlisted):
    rng = np.random.default_rng(seed)
    lengths = lengths * 3  # and the same passages again, so that there are ties
    some = topical(rng, lengths[: len(lengths) // 3], dim, n_topics=3)
    tokens = token_arrays(np.concatenate([some] * 3), lengths, bits)
    lists = build_candidates(tokens)
    query = tokens.codec.encode_query(unit(rng, n_tokens, dim))
    mask = None
    if masking != "none":
        share = {"some": 0.5, "few": 0.1, "strided": 0.5, "nothing": 0.0}[masking]
        mask = rng.random(len(lengths) * 2)[:: 2 if masking == "strided" else 1][: len(lengths)] < share
    rows, estimates = same_from_all(lambda: kernels.candidates(tokens, lists, query, mask, effort, unlisted))
    order = np.lexsort((rows, -estimates))
    np.testing.assert_array_equal(order, np.arange(len(rows)), "best first, equal ones in the order of rows")
    assert len(set(rows.tolist())) == len(rows) <= effort.n
    possible = np.array(lengths) > 0
    if mask is not None:
        possible &= mask
    assert possible[rows].all()
    if unlisted:
        assert len(rows) == min(effort.n, np.count_nonzero(possible))


def plain_estimates(tokens: TokenArrays, lists: CandidateArrays, query: np.ndarray, effort: Effort) -> dict[int, float]:
    """Estimates of MaxSim of all listed passages, as `kernels.candidates` defines them."""
    centroids = (lists.centroids.astype(np.float64) - 128) * lists.centroid_scales[:, None]
    cosines = query @ centroids.T
    gained: dict[int, float] = {}
    for row in cosines:
        order = np.argsort(-row, kind="stable")
        imputed = row[order[min(effort.n_probe, len(row) - 1)]]
        best: dict[int, float] = {}
        for centroid in order[: effort.n_probe]:
            for passage in listed(lists, centroid):
                best.setdefault(passage, row[centroid] - imputed)
        for passage, gain in best.items():
            gained[passage] = gained.get(passage, 0.0) + gain
    floor = sum(np.sort(row)[::-1][min(effort.n_probe, len(row) - 1)] for row in cosines)
    means = (tokens.means.astype(np.float64) - 128) * tokens.mean_scales[:, None]
    by_mean = means @ query.sum(axis=0) * effort.mean_weight
    return {passage: gain + floor + by_mean[passage] for passage, gain in gained.items()}


def listed(lists: CandidateArrays, centroid: int) -> list[int]:
    found = []
    for block, starts in enumerate(lists.starts):
        entries = lists.postings[int(starts[centroid]) : int(starts[centroid + 1])]
        found += [int(entry) + block * BLOCK_ROWS for entry in entries]
    return found


def test_estimates_are_what_they_are_said_to_be():
    rng = np.random.default_rng(2)
    lengths = rng.integers(0, 20, size=80)
    vectors = topical(rng, lengths, 32)
    tokens = token_arrays(vectors, lengths, 4)
    lists = build_candidates(tokens)
    effort = Effort(n=80, n_first=80, n_probe=3, mean_weight=0.75)
    for query in queries_from(rng, vectors, lengths, 5):
        coded = tokens.codec.encode_query(query)
        rows, estimates = kernels.candidates(tokens, lists, coded, None, effort)
        expected = plain_estimates(tokens, lists, coded.values * coded.scales[:, None].astype(np.float64), effort)
        assert set(rows.tolist()) == set(expected)
        np.testing.assert_allclose(estimates, [expected[row] for row in rows.tolist()], atol=1e-4)


def test_more_passages_than_a_block_holds():
    rng = np.random.default_rng(3)
    n = 2 * BLOCK_ROWS + 1_000
    lengths = np.ones(n, dtype=np.int64)
    lengths[::1000] = 0
    words = unit(rng, 500, 16)
    tokens = token_arrays(words[rng.integers(500, size=int(lengths.sum()))], lengths, 2)
    lists = build_candidates(tokens)
    assert lists.starts.shape == (3, number_of_centroids(int(lengths.sum())) + 1)
    assert len(lists.postings) == lengths.sum(), "one token, one centroid"
    query = tokens.codec.encode_query(words[:3])
    effort = Effort(n=2_000, n_first=3_000, n_probe=4, mean_weight=0.75)
    rows, _ = same_from_all(lambda: kernels.candidates(tokens, lists, query, None, effort))
    assert {row // BLOCK_ROWS for row in rows.tolist()} == {0, 1, 2}
    last = np.arange(n) >= 2 * BLOCK_ROWS
    rows, _ = same_from_all(lambda: kernels.candidates(tokens, lists, query, last, effort, unlisted=True))
    assert sorted(rows.tolist()) == [row for row in range(2 * BLOCK_ROWS, n) if row % 1000]
    (scores,) = same_from_all(lambda: [kernels.maxsim(tokens, [query], range(BLOCK_ROWS - 50, BLOCK_ROWS + 50))])
    (sums,) = same_from_all(lambda: [kernels.passage_checksums(tokens, np.array([0, 1, BLOCK_ROWS, n - 1]))])
    assert scores.shape == (1, 100)
    assert len(set(sums.tolist())) == 4


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(0, 100))
def test_checksums_are_the_same_from_all_kernels_and_see_every_bit(seed, size):
    rng = np.random.default_rng(seed)
    data = rng.integers(256, size=size, dtype=np.uint8)
    (sound,) = same_from_all(lambda: [np.uint64(kernels.checksum(data))])
    for bit in range(8 * size):
        damaged = data.copy()
        damaged[bit // 8] ^= 1 << bit % 8
        assert kernels.checksum(damaged) != sound


def test_checksums_of_passages_cover_all_that_is_scored():
    rng = np.random.default_rng(4)
    lengths = [3, 0, 5, 1]
    tokens = token_arrays(unit(rng, 9, 48), lengths, 2)
    (sound,) = same_from_all(lambda: [kernels.passage_checksums(tokens, range(4))])
    (some,) = same_from_all(lambda: [kernels.passage_checksums(tokens, np.array([3, 0]))])
    np.testing.assert_array_equal(some, sound[[3, 0]])
    owners = np.repeat(np.arange(4), lengths)
    for field, of_row in (("codes", owners), ("scales", owners), ("means", np.arange(4))):
        array = getattr(tokens, field)
        for position in range(array.size):
            damaged = array.copy()
            damaged.reshape(-1)[position] ^= 1 << int(rng.integers(8))
            sums = kernels.passage_checksums(dataclasses.replace(tokens, **{field: damaged}), range(4))
            wrong = of_row[position // (array.size // len(array))]
            assert np.flatnonzero(sums != sound).tolist() == [wrong]


SCRIPT = """
import hashlib, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from index_helpers import token_arrays, topical
from hiperrag.index import kernels
from hiperrag.index.candidates import build_candidates
rng = np.random.default_rng(5)
lengths = rng.integers(0, 30, size=100)
vectors = topical(rng, lengths, 100)
tokens = token_arrays(vectors, lengths, 4)
lists = build_candidates(tokens)
query = tokens.codec.encode_query(vectors[:20])
found = kernels.candidates(tokens, lists, query, None, kernels.Effort(50, 80, 3, 0.75))
scores = kernels.maxsim(tokens, [query], found[0])
parts = [*found, scores, kernels.passage_checksums(tokens, range(100)), lists.centroids, lists.postings]
print(kernels.kernel(), hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
"""


def test_the_variable_picks_the_kernels():
    digests = set()
    for name in KERNELS:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, Path(__file__).parent],
            env={**os.environ, kernels.VARIABLE: name, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        used, digest = done.stdout.split()
        assert used == name
        digests.add(digest)
    assert len(digests) == 1


def test_an_impossible_choice_of_kernels_is_refused(monkeypatch):
    monkeypatch.setenv(kernels.VARIABLE, "quantum")
    kernels.kernel.cache_clear()
    try:
        with pytest.raises(UserError, match="HIPERRAG_KERNELS=quantum: not possible here; choose one of numpy"):
            kernels.kernel()
    finally:
        kernels.kernel.cache_clear()


@pytest.mark.parametrize("bits", BITS)
def test_lists_hold_every_token(monkeypatch, bits):
    rng = np.random.default_rng(6)
    lengths = [3, 0, 300, 1, *rng.integers(0, 60, size=120), 0]
    tokens = token_arrays(topical(rng, lengths, 48), lengths, bits)
    whole = build_candidates(tokens)
    monkeypatch.setattr(candidates, "_BLOCK_TOKENS", 97)  # passages straddle what is assigned at a time
    lists = build_candidates(tokens)
    for field in ("centroids", "centroid_scales", "starts", "postings"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(lists, field))
    n_centroids = number_of_centroids(sum(lengths))
    tree = candidates._grow(candidates._sample(tokens, n_centroids * candidates.SAMPLES_PER_CENTROID), n_centroids)
    leaves = candidates._assign(candidates._decode(tokens, np.arange(sum(lengths))), tree)
    expected = set(zip(leaves.tolist(), np.repeat(np.arange(len(lengths)), lengths).tolist(), strict=True))
    found = [(centroid, row) for centroid in range(n_centroids) for row in listed(lists, centroid)]
    assert found == sorted(expected), "each once, in rising order"
    centroids = (lists.centroids.astype(np.float32) - 128) * lists.centroid_scales[:, None]
    nearest = (decode(tokens) @ centroids.T).argmax(axis=1)
    assert np.mean(nearest == leaves) > 0.6, "two levels find the nearest centroid for most tokens"


@pytest.mark.parametrize("lengths", [[3], [0], [1], [0, 0, 5], [2] * 40])
def test_lists_of_tiny_shards(lengths):
    rng = np.random.default_rng(7)
    tokens = token_arrays(unit(rng, sum(lengths), 20), lengths, 4)
    lists = build_candidates(tokens)
    assert len(lists.centroids) % kernels.CENTROID_BLOCK == 0
    query = tokens.codec.encode_query(unit(rng, 4, 20))
    effort = Effort(n=100, n_first=100, n_probe=100, mean_weight=0.75)
    rows, _ = same_from_all(lambda: kernels.candidates(tokens, lists, query, None, effort))
    assert sorted(rows.tolist()) == np.flatnonzero(lengths).tolist(), "all centroids probed, all passages found"
