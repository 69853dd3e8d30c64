"""BM25 over shards, against BM25 written plainly; and its fusion with MaxSim."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hiperrag.benchmarks.hybrid import ndcg, paired_p_value
from hiperrag.errors import UserError
from hiperrag.index.fusion import LEXICAL_WEIGHT, fuse
from hiperrag.index.lexical import FILES, Analyzer, Lexical, LexicalSearcher, write_lexical

RNG = np.random.default_rng(5)
VOCABULARY = [f"{a}{b}{c}o" for a in "bdkm" for b in "aiu" for c in "lnrz"]
QUERIES = ["balo diro muzo", "kano", "balo balo kiro zzz unheard", "dazo milo baro kulo muno"]


def some_texts(n: int) -> list[str]:
    """Texts of 0 to 40 words with a skewed distribution, so that terms are rare and common."""
    weights = 1 / np.arange(1, len(VOCABULARY) + 1)
    return [" ".join(RNG.choice(VOCABULARY, RNG.integers(0, 40), p=weights / weights.sum())) for _ in range(n)]


TEXTS = some_texts(400)


def open_shards(folder: Path, *groups: list[str]) -> list[Lexical]:
    opened = []
    for number, texts in enumerate(groups):
        (folder / str(number)).mkdir(parents=True)
        write_lexical(folder / str(number), iter(texts))
        opened.append(Lexical(folder / str(number)))
    return opened


def plain_bm25(query: str, texts: list[str]) -> list[float]:
    counts = [Counter(text.split()) for text in texts]
    mean = sum(one.total() for one in counts) / len(texts)
    scores = [0.0] * len(texts)
    for term in query.split():
        df = sum(term in one for one in counts)
        idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        for row, one in enumerate(counts):
            scores[row] += idf * one[term] / (one[term] + 1.2 * (0.25 + 0.75 * one.total() / mean))
    return scores


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> LexicalSearcher:
    return LexicalSearcher(open_shards(tmp_path_factory.mktemp("whole"), TEXTS))


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_search_is_bm25(whole, query, k):
    expected = plain_bm25(query, TEXTS)
    ranking = sorted((row for row, score in enumerate(expected) if score), key=lambda row: (-expected[row], row))[:k]
    found = whole.query(query).search(k)
    assert found.scores == pytest.approx([expected[row] for row in ranking], rel=1e-5)
    assert [expected[row] for row in found.rows] == pytest.approx([expected[row] for row in ranking], rel=1e-5)
    assert np.all(found.scores < whole.query(query).limit)


@pytest.mark.parametrize("query", QUERIES)
def test_scores_do_not_depend_on_the_cut(tmp_path, whole, query):
    cuts = [0, 3, 3, 150, 151, 400]
    groups = [TEXTS[a:b] for a, b in pairwise(cuts)]
    cut = LexicalSearcher(open_shards(tmp_path, *groups))
    for k in (5, 400):
        expected, found = whole.query(query).search(k), cut.query(query).search(k)
        assert (np.array(cuts)[found.shards] + found.rows).tolist() == expected.rows.tolist()
        assert found.scores.tolist() == expected.scores.tolist(), "bit for bit"
    assert cut.query(query).limit == whole.query(query).limit


def test_deleted_passages_are_in_no_result_and_no_statistic(tmp_path):
    alive = RNG.random(len(TEXTS)) < 0.6
    shards = open_shards(tmp_path / "with", TEXTS[:250], TEXTS[250:])
    searcher = LexicalSearcher(shards, [alive[:250], alive[250:]])
    never = LexicalSearcher(
        open_shards(tmp_path / "without", [text for text, kept in zip(TEXTS, alive, strict=True) if kept])
    )
    for query in QUERIES:
        found, expected = searcher.query(query).search(50), never.query(query).search(50)
        assert (250 * found.shards + found.rows).tolist() == np.flatnonzero(alive)[expected.rows].tolist()
        assert found.scores.tolist() == expected.scores.tolist()


@pytest.mark.parametrize("query", QUERIES)
def test_filters_find_k_where_k_exist_and_change_no_score(tmp_path, whole, query):
    allowed = RNG.random(len(TEXTS)) < 0.1
    everything = whole.query(query).search(len(TEXTS))
    kept = allowed[everything.rows]
    found = whole.query(query).search(10, [allowed])
    assert found.rows.tolist() == everything.rows[kept][:10].tolist()
    assert found.scores.tolist() == everything.scores[kept][:10].tolist()


def test_score_is_what_search_says(whole):
    query = whole.query(QUERIES[3])
    found = query.search(len(TEXTS))
    others = np.setdiff1d(np.arange(len(TEXTS)), found.rows)
    assert len(others) > 0
    rows = np.concatenate([found.rows[::-1], others])
    assert query.score(0, rows).tolist() == found.scores[::-1].tolist() + [0.0] * len(others)


def test_equal_scores_come_in_shard_and_row_order(tmp_path):
    searcher = LexicalSearcher(open_shards(tmp_path, ["balo"] * 3, ["kano", "balo"], ["balo"] * 2))
    found = searcher.query("balo").search(5)
    assert list(zip(found.shards, found.rows, strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 1), (2, 0)]


def test_within_looks_in_some_shards_with_the_statistics_of_all(tmp_path):
    searcher = LexicalSearcher(open_shards(tmp_path, TEXTS[:100], TEXTS[100:200], TEXTS[200:]))
    query = searcher.query(QUERIES[0])
    everything = query.search(len(TEXTS))
    parts = [query.search(len(TEXTS), within=[number]) for number in (2, 0, 1)]
    shards, rows, scores = (np.concatenate(values) for values in zip(*parts, strict=True))
    best = np.lexsort((rows, shards, -scores))
    assert rows[best].tolist() == everything.rows.tolist()
    assert scores[best].tolist() == everything.scores.tolist()


def test_words_are_folded_stemmed_and_stopped():
    analyze = Analyzer()
    assert analyze("The cells of H₂O, INHIBITED") == analyze("cell h2o inhibits")
    assert analyze("IL-6") == analyze("il 6") != analyze("IL-8")
    assert analyze("the of and") == analyze("") == analyze("… — !") == []
    assert len(analyze("\ud800 lone surrogate")) == 2


def test_nothing_known_finds_nothing(tmp_path, whole):
    for text in ("", "the of", "unheard"):
        query = whole.query(text)
        assert len(query.search(5).rows) == 0
        assert query.limit == 0
        assert query.score(0, np.arange(3)).tolist() == [0, 0, 0]
    empty = LexicalSearcher(open_shards(tmp_path, [], ["", "the"]))
    assert len(empty.query("balo").search(5).rows) == 0
    assert len(LexicalSearcher([]).query("balo").search(5).rows) == 0


def test_counts_saturate(tmp_path):
    searcher = LexicalSearcher(open_shards(tmp_path, ["balo " * 300, "balo " * 300 + "kano", "kano"]))
    found = searcher.query("balo").search(3)
    assert found.rows.tolist() == [0, 1]
    assert np.all(np.isfinite(found.scores))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncate", "empty", "missing", "foreign", "other"])
def test_damaged_files_are_refused_in_one_line(tmp_path, name, damage):
    open_shards(tmp_path, TEXTS[:50], TEXTS[50:60])
    path = tmp_path / "0" / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        other = (tmp_path / "1" / name).read_bytes()
        contents = {"truncate": data[:-3], "empty": b"", "foreign": b"%PDF-1.4 not ours", "other": other}
        path.write_bytes(contents[damage])
    with pytest.raises(UserError) as caught:
        LexicalSearcher([Lexical(tmp_path / "0")]).query(" ".join(VOCABULARY)).search(5)
    assert "\n" not in str(caught.value)
    assert "doctor" in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_never_give_a_traceback(tmp_path, name):
    open_shards(tmp_path, TEXTS[:50])
    path = tmp_path / "0" / name
    data = path.read_bytes()
    refused = []
    for _ in range(60):
        damaged = bytearray(data)
        for position in RNG.integers(0, min(len(data), 400), RNG.integers(1, 4)):
            damaged[position] = RNG.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            refused.append(damaged)
            query = LexicalSearcher([Lexical(tmp_path / "0")]).query(" ".join(VOCABULARY))
            query.search(5)
            query.score(0, np.arange(50))
            refused.pop()
    assert refused, "damage to the header at least is seen"


def test_fuse_adds_the_share_of_bm25_in_units_of_maxsim():
    maxsim = np.array([8, 6, -np.inf], dtype=np.float32)
    bm25 = np.array([0, 12, 12], dtype=np.float32)
    assert fuse(maxsim, 10, bm25, 24.0).tolist() == pytest.approx([8, 6 + LEXICAL_WEIGHT * 10 / 2, -np.inf])
    assert fuse(maxsim, 10, np.zeros(3, dtype=np.float32), 0.0).tolist() == maxsim.tolist()


def test_figures_of_the_report():
    assert ndcg(["x", "a", "b"], {"a": 1, "b": 0, "c": 1}) == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert ndcg(["a", "c"], {"a": 1, "c": 1}) == 1
    assert paired_p_value(np.full(40, 0.1, dtype=np.float32)) < 0.001
    assert paired_p_value(np.array([0.1, -0.1] * 20, dtype=np.float32)) > 0.9
