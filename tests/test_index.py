"""Search over shards against MaxSim written plainly; shards made of shards."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from index_helpers import make_shard, normal, offsets_of, passage, queries_from, topical, unit

from hiperrag.errors import UserError
from hiperrag.index import kernels
from hiperrag.index.build import encode_piece, pieces_of, write_shard
from hiperrag.index.kernels import Effort
from hiperrag.index.lexical import LexicalSearcher
from hiperrag.index.search import Match, Searcher, effort_of, parse_quality
from hiperrag.index.shard import Shard, open_shards

DIM, N = 32, 6_000
K = 10
QUALITIES = ("fast", "balanced", "exact", 30)


@dataclasses.dataclass
class Corpus:
    """One shard, the same passages in three, queries, and what was compressed."""

    tokens: np.ndarray
    offsets: np.ndarray
    pooled: np.ndarray
    whole: Shard
    parts: list[Shard]
    queries: list[np.ndarray]

    @property
    def filled(self) -> np.ndarray:
        return np.diff(self.offsets) > 0

    def in_whole(self, matches: list[Match]) -> list[Match]:
        """Matches of the three shards, as rows of the one."""
        firsts = offsets_of([shard.n_passages for shard in self.parts])
        return [Match(0, int(firsts[match.shard]) + match.row, match.score) for match in matches]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """More passages than the first stage of a search keeps, so that every stage has something to leave out."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(11)
    lengths = rng.integers(0, 9, size=N)
    tokens, offsets, pooled = topical(rng, lengths, DIM), offsets_of(lengths), unit(rng, N, 8)
    whole = make_shard(folder / "whole", tokens, lengths, pooled=pooled)
    parts = []
    for first, last in itertools.pairwise([0, 2_500, 2_501, N]):
        some = tokens[offsets[first] : offsets[last]]
        parts.append(make_shard(folder / f"{first}", some, lengths[first:last], pooled=pooled[first:last]))
    return Corpus(tokens, offsets, pooled, whole, parts, queries_from(rng, tokens, lengths, 12))


@pytest.fixture
def searcher(corpus) -> Searcher:
    return Searcher([corpus.whole], threads=2)


def rows_of(matches: list[Match]) -> list[int]:
    return [match.row for match in matches]


def test_exact_search_is_maxsim_over_everything(corpus, searcher):
    codec = corpus.whole.codec
    decoded = codec.decode(codec.encode(corpus.tokens, corpus.offsets))
    for query, matches in zip(corpus.queries, searcher.search(corpus.queries, K, "exact"), strict=True):
        similar = codec.rotate(query) @ decoded.T
        scores = np.full(N, -np.inf)
        best = np.maximum.reduceat(similar, corpus.offsets[:-1][corpus.filled], axis=1)
        scores[corpus.filled] = best.sum(axis=0)
        # 8 bits for each coordinate of the query change a score by less than this.
        assert [match.score for match in matches] == pytest.approx(scores[rows_of(matches)], abs=0.02)
        assert min(scores[rows_of(matches)]) > np.sort(scores)[-K] - 0.04
        assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)


def test_compressed_search_finds_what_float_vectors_would(corpus, searcher):
    found = []
    for query, matches in zip(corpus.queries, searcher.search(corpus.queries, K, "exact"), strict=True):
        best = np.maximum.reduceat(query @ corpus.tokens.T, corpus.offsets[:-1][corpus.filled], axis=1).sum(axis=0)
        expected = np.flatnonzero(corpus.filled)[np.argsort(-best)[:K]]
        found.append(len(set(expected) & set(rows_of(matches))) / K)
    assert np.mean(found) > 0.85


def test_exact_search_does_not_depend_on_the_cut_into_shards(corpus, searcher):
    for query in corpus.queries:
        whole = searcher.search([query], 25, "exact")[0]
        parts = Searcher(corpus.parts, threads=2).search([query], 25, "exact")[0]
        assert corpus.in_whole(parts) == whole


@pytest.mark.parametrize(("quality", "least"), [("balanced", 0.97), ("fast", 0.9), (60, 0.75)])
@pytest.mark.parametrize("cut", [False, True])
def test_recall_of_the_candidates(corpus, searcher, quality, least, cut):
    exact = searcher.search(corpus.queries, K, "exact")
    shards = corpus.parts if cut else [corpus.whole]
    found = Searcher(shards, threads=2).search(corpus.queries, K, quality)
    if cut:
        found = [corpus.in_whole(matches) for matches in found]
    shared = [len(set(rows_of(a)) & set(rows_of(b))) / K for a, b in zip(exact, found, strict=True)]
    assert np.mean(shared) >= least
    scores = {match.row: match.score for match in searcher.search(corpus.queries[:1], N, "exact")[0]}
    assert all(scores[match.row] == match.score for match in found[0]), "what is found has its MaxSim"


@pytest.mark.parametrize("quality", QUALITIES)
def test_batches_threads_and_repetitions_change_nothing(corpus, quality):
    shards = corpus.parts
    single, several = Searcher(shards, threads=1), Searcher(shards, threads=4)
    expected = [single.search([query], K, quality)[0] for query in corpus.queries]
    assert single.search(corpus.queries, K, quality) == expected
    for _ in range(3):
        assert several.search(corpus.queries, K, quality) == expected
        assert [several.search([query], K, quality)[0] for query in corpus.queries] == expected


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("n_left", [0, 1, K - 1, K, K + 1, 700, 5_000])
def test_k_results_under_any_mask(corpus, searcher, quality, n_left):
    rng = np.random.default_rng(n_left)
    mask = np.zeros(N, dtype=bool)
    mask[rng.choice(N, n_left, replace=False)] = True
    possible = np.flatnonzero(mask & corpus.filled)
    found = searcher.search(corpus.queries[:4], K, quality, [mask])
    exact = searcher.search(corpus.queries[:4], K, "exact", [mask])
    for matches, best in zip(found, exact, strict=True):
        assert len(matches) == min(K, len(possible))
        assert set(rows_of(matches)) <= set(possible.tolist())
        if len(possible) <= effort_of(30, K).n:
            assert matches == best, "all that are left are scored"


@pytest.mark.parametrize("quality", QUALITIES)
def test_k_results_when_the_mask_leaves_what_no_probed_centroid_lists(corpus, searcher, quality):
    shard, query = corpus.whole, corpus.queries[0][:1]
    everything = Effort(n=N, n_first=N, n_probe=4, mean_weight=0.75)
    listed = kernels.candidates(shard.tokens, shard.lists, shard.codec.encode_query(query), None, everything)[0]
    mask = np.ones(N, dtype=bool)
    mask[listed[3:]] = False
    assert np.count_nonzero(mask) > effort_of("balanced", K).n_first, "so many that the lists are asked first"
    assert len(searcher.search([query], K, quality, [mask])[0]) == K


@pytest.mark.parametrize("quality", QUALITIES)
def test_masks_and_deletions_over_several_shards(corpus, quality):
    rng = np.random.default_rng(13)
    deleted = [rng.random(shard.n_passages) < 0.5 for shard in corpus.parts]
    masks = [rng.random(shard.n_passages) < 0.5 for shard in corpus.parts]
    masks[1] = None
    shards = [Shard(shard.folder, gone) for shard, gone in zip(corpus.parts, deleted, strict=True)]
    kept = [~gone if mask is None else mask & ~gone for gone, mask in zip(deleted, masks, strict=True)]
    found = Searcher(shards, threads=2).search(corpus.queries, K, quality, masks)
    assert found == Searcher(corpus.parts, threads=2).search(corpus.queries, K, quality, kept)
    for matches in found:
        assert len(matches) == K
        assert all(kept[match.shard][match.row] for match in matches)


@pytest.mark.parametrize("quality", QUALITIES)
def test_equal_scores_come_in_shard_and_row_order(tmp_path, quality):
    rng = np.random.default_rng(14)
    one = topical(rng, [5], DIM)
    shards = [
        make_shard(tmp_path / f"{n}", np.concatenate([one, unit(rng, 5, DIM), one, one]), [5] * 4) for n in range(2)
    ]
    for threads in (1, 4):
        found = Searcher(shards, threads).search([one[:3]], 5, quality)[0]
        assert [(match.shard, match.row) for match in found] == [(0, 0), (0, 2), (0, 3), (1, 0), (1, 2)]
        assert len({match.score for match in found}) == 1


@pytest.mark.parametrize("quality", QUALITIES)
def test_more_results_than_there_are_passages(corpus, quality):
    shards = [corpus.parts[1], corpus.parts[2]]
    n_filled = int(corpus.filled[2_500:].sum())
    found = Searcher(shards, threads=2).search(corpus.queries[:2], 2 * N, quality)
    assert [len({(match.shard, match.row) for match in matches}) for matches in found] == [n_filled] * 2
    assert found == Searcher(shards, threads=2).search(corpus.queries[:2], 2 * N, "exact")


@pytest.mark.parametrize("quality", QUALITIES)
def test_no_queries(searcher, quality):
    assert searcher.search([], K, quality) == []


def test_pooled_search(corpus):
    searcher = Searcher(corpus.parts, threads=1)
    rng = np.random.default_rng(15)
    masks = [rng.random(shard.n_passages) < 0.5 for shard in corpus.parts]
    for direction in unit(rng, 5, 8):
        cosines = corpus.pooled @ direction
        matches = corpus.in_whole(searcher.search_pooled(direction, K))
        assert [match.score for match in matches] == pytest.approx(cosines[rows_of(matches)], abs=0.02)
        assert min(cosines[rows_of(matches)]) > np.sort(cosines)[-K] - 0.04
        left = np.where(np.concatenate(masks), cosines, -1)
        matches = corpus.in_whole(searcher.search_pooled(direction, K, masks))
        assert min(left[rows_of(matches)]) > np.sort(left)[-K] - 0.04
        nothing = [np.zeros(shard.n_passages, dtype=bool) for shard in corpus.parts]
        assert searcher.search_pooled(direction, K, nothing) == []


def test_quality_is_a_name_or_a_number():
    assert [parse_quality(text) for text in ("fast", "balanced", "exact", "2000")] == [*QUALITIES[:3], 2000]
    for text in ("", "best", "0", "-3", "1.5", "1e3", " 5", "²", "Exact"):
        with pytest.raises(UserError, match="give fast, balanced, exact, or how many"):
            parse_quality(text)
    assert effort_of("exact", 10) is None
    assert effort_of(2_000, 10).n == 2_000
    for quality in ("fast", "balanced", 5):
        effort = effort_of(quality, 3_000)
        assert effort.n >= 3_000
        assert effort.n_first > effort.n, "k results need at least as many candidates"


def test_an_enormous_number_of_candidates_scores_everything(corpus, searcher):
    assert searcher.search(corpus.queries[:2], K, 10**15) == searcher.search(corpus.queries[:2], K, "exact")


# Shards made of shards


def stored(shard: Shard, rows: np.ndarray) -> list[bytes]:
    """All that is kept of each passage's token vectors."""
    tokens, kept = shard.tokens, []
    for row in rows:
        of_row = slice(tokens.offsets[row], tokens.offsets[row + 1])
        parts = (tokens.codes[of_row], tokens.scales[of_row], tokens.means[row], tokens.mean_scales[row : row + 1])
        kept.append(b"".join(part.tobytes() for part in parts))
    return kept


def test_merging_and_leaving_out_keep_codes_as_they_are(tmp_path, corpus, searcher):
    rng = np.random.default_rng(16)
    keep = [np.flatnonzero(rng.random(shard.n_passages) < 0.7) for shard in corpus.parts]
    keep[1] = np.array([0])
    firsts = offsets_of([shard.n_passages for shard in corpus.parts])
    rows = np.concatenate([some + first for some, first in zip(keep, firsts, strict=False)])
    pieces = itertools.chain.from_iterable(
        pieces_of(shard, some) for shard, some in zip(corpus.parts, keep, strict=True)
    )
    write_shard(tmp_path / "s", pieces, len(rows), int(np.diff(corpus.offsets)[rows].sum()))
    merged = Shard(tmp_path / "s")
    assert stored(merged, np.arange(len(rows))) == stored(corpus.whole, rows)
    mask = np.zeros(N, dtype=bool)
    mask[rows] = True
    expected = searcher.search(corpus.queries, 30, "exact", [mask])
    found = Searcher([merged], threads=2).search(corpus.queries, 30, "exact")
    in_whole = [[Match(0, int(rows[match.row]), match.score) for match in matches] for matches in found]
    assert in_whole == expected
    np.testing.assert_allclose(merged.pooled_vectors(), corpus.pooled[rows], atol=0.02)


def test_the_same_pieces_make_the_same_files(tmp_path, corpus):
    sums = []
    for name in ("a", "b"):
        pieces = pieces_of(corpus.parts[0], np.arange(500))
        sums.append(write_shard(tmp_path / name, pieces, 500, int(corpus.offsets[500])))
    assert sums[0] == sums[1]
    assert {path.name for path in (tmp_path / "a").iterdir()} == set(sums[0])


def test_a_shard_with_text_gives_its_passages_back(tmp_path):
    rng, lengths = np.random.default_rng(17), [4, 0, 2, 7, 1, 3]
    passages = [passage(number) for number in range(6)]
    shard = make_shard(tmp_path / "s", unit(rng, sum(lengths), DIM), lengths, passages=passages)
    assert [shard.passages[row] for row in range(6)] == passages
    assert shard.passages.documents == [one.document for one in passages]
    assert shard.passages.metadata_names == {"year", "journal"}
    columns = shard.passages.columns(["kind", "metadata.year", "metadata.none", "page_start"])
    assert sorted(columns.column_names) == ["kind", "metadata.year", "page_start"]
    assert columns["metadata.year"].to_pylist() == [one.metadata.get("year") for one in passages]
    found = LexicalSearcher([shard.lexical]).query("word3 helices").search(2)
    assert found.rows[0] == 3
    bare = make_shard(tmp_path / "bare", unit(rng, 3, DIM), [3])
    with pytest.raises(UserError, match="without their passages"):
        _ = bare.passages


@pytest.mark.parametrize("counts", [(3, 8), (2, 9), (3, 10), (4, 9)])
def test_wrong_counts_leave_nothing_behind(tmp_path, counts):
    piece = encode_piece(unit(np.random.default_rng(18), 9, DIM), offsets_of([4, 2, 3]), None, 4)
    with pytest.raises(ValueError, match=r"passages and|broadcast"):
        write_shard(tmp_path / "s", [piece], *counts)
    assert list(tmp_path.iterdir()) == []


def test_pieces_of_one_shard_have_one_codec(tmp_path):
    rng = np.random.default_rng(19)
    pieces = [encode_piece(unit(rng, 4, DIM), np.array([0, 4]), None, bits) for bits in (4, 2)]
    with pytest.raises(ValueError, match="one codec"):
        write_shard(tmp_path / "s", pieces, 2, 8)


def test_shards_of_different_encoders_are_not_searched_together(tmp_path):
    rng = np.random.default_rng(20)
    for dim in (16, 32):
        make_shard(tmp_path / f"{dim}", unit(rng, 4, dim), [4])
    with pytest.raises(UserError, match="different encoders"):
        open_shards([tmp_path / "16", tmp_path / "32"])


def test_bits_of_shards_may_differ(tmp_path):
    rng = np.random.default_rng(21)
    one = unit(rng, 6, DIM)
    shards = [make_shard(tmp_path / f"{bits}", normal(one), [6], bits=bits) for bits in (2, 4, 8)]
    found = Searcher(shards, threads=1).search([one[:3]], 3, "exact")[0]
    assert sorted(match.shard for match in found) == [0, 1, 2]
    assert [match.score for match in found] == pytest.approx([3, 3, 3], rel=0.1)


MEMORY = """
import resource, sys
from pathlib import Path
import faiss
import numpy as np
from hiperrag.index import kernels
from hiperrag.index.build import encode_piece, write_shard
def pieces():
    for n in range(60):
        tokens = np.random.default_rng(n).standard_normal((12_000, 64), dtype=np.float32)
        tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
        yield encode_piece(tokens, np.arange(0, 12_001, 12), None, 4)
for _ in range(2):  # what libraries set aside once is not the shard's
    write_shard(Path(sys.argv[1]) / "small", [next(pieces())], 1_000, 12_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_shard(Path(sys.argv[1]) / "large", pieces(), 60_000, 720_000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_of_a_build_is_bounded_by_the_compressed_shard(tmp_path):
    """60,000 passages: 184 MB of float32 token vectors, 25 MB of files; what is decoded at a time is bounded."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    size = sum(path.stat().st_size for path in (tmp_path / "large").iterdir()) >> 20
    assert 20 < size < 40
    assert int(done.stdout) < 120
