"""Compression of token vectors: how far off it is, and that it depends on nothing but the passage."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from index_helpers import normal, offsets_of, topical, unit

from hiperrag.index import CODES_VERSION, codec
from hiperrag.index.codec import BITS, Codec

DISTORTION = {2: 0.1175, 4: 0.0095, 8: 0.0001}
"""Of the optimal quantizers of a normal variable (Max 1960, table I); 8 bits: evenly spaced, from the step's width."""


def vectors(kind: str, dim: int, n_passages: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(dim)
    lengths = rng.integers(1, 90, size=n_passages)
    return (topical(rng, lengths, dim) if kind == "topical" else unit(rng, int(lengths.sum()), dim)), lengths


def residuals(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    means = np.add.reduceat(tokens, offsets_of(lengths)[:-1], axis=0) / lengths[:, None]
    return tokens - np.repeat(means, lengths, axis=0)


@pytest.mark.parametrize("kind", ["random", "topical"])
@pytest.mark.parametrize("dim", [20, 96, 100, 128])
@pytest.mark.parametrize("bits", BITS)
def test_error_is_that_of_the_best_quantizer(kind, dim, bits):
    tokens, lengths = vectors(kind, dim)
    chosen = Codec(dim, bits)
    codes = chosen.encode(tokens, offsets_of(lengths))
    assert codes.codes.shape == (len(tokens), chosen.code_dim * bits // 8)
    errors = chosen.decode(codes) - chosen.rotate(tokens)
    relative = (errors**2).sum() / (residuals(tokens, lengths) ** 2).sum()
    # Scales that make products unbiased stretch the error by 1 / (1 - D).
    theory = DISTORTION[bits] / (1 - DISTORTION[bits])
    assert 0.7 * theory < relative < 1.2 * theory


@pytest.mark.parametrize("bits", BITS)
def test_inner_products_are_unbiased(bits):
    tokens, lengths = vectors("random", 128, n_passages=200)
    chosen = Codec(128, bits)
    decoded, exact = chosen.decode(chosen.encode(tokens, offsets_of(lengths))), chosen.rotate(tokens)
    rng = np.random.default_rng(0)
    queries = normal(exact + 2 * unit(rng, *exact.shape))
    wanted, got = np.einsum("ij,ij->i", queries, exact), np.einsum("ij,ij->i", queries, decoded)
    spread = (got - wanted).std() / np.sqrt(len(tokens))
    assert abs((got - wanted).mean()) < max(4 * spread, 2e-4)
    assert np.polyfit(wanted, got, 1)[0] == pytest.approx(1, abs=0.02), "2 bits would shrink them by 12% unscaled"


@pytest.mark.parametrize("dim", [16, 20, 100, 384])
def test_rotation_keeps_inner_products(dim):
    rng = np.random.default_rng(1)
    first, second = unit(rng, 50, dim), unit(rng, 50, dim)
    chosen = Codec(dim, 4)
    np.testing.assert_allclose(chosen.rotate(first) @ chosen.rotate(second).T, first @ second.T, atol=1e-3)


@pytest.mark.parametrize("dim", [20, 128, 384])
@pytest.mark.parametrize("bits", BITS)
def test_a_passage_alone_and_among_others_gets_the_same_codes(monkeypatch, dim, bits):
    rng = np.random.default_rng(3)
    lengths = [1, 0, 1, 300, 8, 9, *rng.integers(0, 40, size=120)]
    offsets = offsets_of(lengths)
    tokens = topical(rng, lengths, dim)
    chosen = Codec(dim, bits)
    together = chosen.encode(tokens, offsets)
    monkeypatch.setattr(codec, "_BLOCK", 500)
    in_blocks = chosen.encode(tokens, offsets)
    for field in ("codes", "scales", "lengths", "means", "mean_scales"):
        np.testing.assert_array_equal(getattr(together, field), getattr(in_blocks, field))
    for row, length in enumerate(lengths):
        of_row = slice(offsets[row], offsets[row + 1])
        alone = chosen.encode(tokens[of_row], np.array([0, length]))
        np.testing.assert_array_equal(alone.codes, together.codes[of_row])
        np.testing.assert_array_equal(alone.scales, together.scales[of_row])
        np.testing.assert_array_equal(alone.means[0], together.means[row])
        assert alone.mean_scales[0] == together.mean_scales[row]


def test_codes_stay_as_they_are():
    """Codes written by one version are read by the next: where these digests change, `CODES_VERSION` must."""
    steps = (np.arange(30 * 40, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(16)).astype(np.float64)
    tokens = normal(steps.reshape(30, 40) / 32768 - 1)
    digests = {}
    for bits in BITS:
        codes = Codec(40, bits).encode(tokens, np.array([0, 1, 12, 12, 30]))
        stored = codes.codes.tobytes() + codes.scales.tobytes() + codes.means.tobytes()
        digests[bits] = hashlib.sha256(stored).hexdigest()[:16]
    assert (CODES_VERSION, digests) == (1, {2: "095ad1d10a35d0d3", 4: "7196c448a25229c6", 8: "d8e47c903f691571"})


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.filterwarnings("error")
def test_unusual_passages(bits):
    rng = np.random.default_rng(4)
    chosen = Codec(32, bits)
    token = unit(rng, 1, 32)
    tokens = np.concatenate([np.zeros((3, 32), np.float32), token, np.repeat(token, 5, axis=0), token, -token])
    codes = chosen.encode(tokens, offsets_of([3, 0, 1, 5, 2]))
    decoded = chosen.decode(codes)
    np.testing.assert_array_equal(decoded[:3], 0)
    np.testing.assert_allclose(decoded[3:9], chosen.rotate(tokens[3:9]), atol=0.004)
    np.testing.assert_allclose(decoded[9], -decoded[10], atol=1e-6)


def test_half_precision_is_taken_at_its_value():
    tokens = unit(np.random.default_rng(5), 40, 48).astype(np.float16)
    chosen, offsets = Codec(48, 4), offsets_of([10, 30])
    half, full = chosen.encode(tokens, offsets), chosen.encode(tokens.astype(np.float32), offsets)
    np.testing.assert_array_equal(half.codes, full.codes)
    np.testing.assert_array_equal(half.means, full.means)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bits", BITS)
def test_nothing_to_encode(bits):
    chosen = Codec(16, bits)
    for lengths in ([], [0], [0, 0]):
        codes = chosen.encode(np.empty((0, 16), np.float32), offsets_of(lengths))
        assert codes.codes.shape == (0, chosen.width)
        assert len(codes.lengths) == len(codes.means) == len(codes.mean_scales) == len(lengths)
    assert len(chosen.encode_query(np.empty((0, 16), np.float32)).values) == 0


def test_a_passage_of_too_many_tokens_is_refused():
    tokens = np.zeros((codec.MOST_TOKENS + 1, 16), np.float32)
    chosen = Codec(16, 2)
    assert chosen.encode(tokens[1:], np.array([0, codec.MOST_TOKENS])).lengths.tolist() == [codec.MOST_TOKENS]
    with pytest.raises(ValueError, match="65536 token vectors"):
        chosen.encode(tokens, np.array([0, codec.MOST_TOKENS + 1]))


def test_queries_lose_little():
    tokens = unit(np.random.default_rng(6), 32, 128)
    chosen = Codec(128, 4)
    query = chosen.encode_query(tokens)
    exact = chosen.rotate(tokens)
    assert np.abs(query.values * query.scales[:, None] - exact).max() <= np.abs(exact).max() / 127 / 2 * 1.001
