"""Hard negatives: which passages are none, pairs searched among each other and in a collection, stops, wrong inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from collection_helpers import SENTENCES, delete, row, write_rows

from hiperrag.encoders.training.pairs import Pair, read_pairs, text_hash, write_pairs
from hiperrag.training_data import mining
from hiperrag.training_data.false_negatives import Candidate, Known, negatives_among
from hiperrag.training_data.mining import MineSettings, mine

QUERIES = {
    1: "Which whales sing?",
    2: "Which bird migrates from pole to pole?",
    4: "How do bees tell where flowers are?",
    7: "Why do perovskite solar cells degrade?",
    9: "Why do aerogels insulate?",
    14: "When do coral reefs bleach?",
    18: "How fast do neutron stars spin?",
    21: "When were gravitational waves measured?",
    27: "Which vitamin do gut bacteria make?",
    28: "What does insulin do?",
}
LONG = "The quick brown fox jumps over the lazy dog and runs into the dark forest before the hunters come"


def _pairs(file: Path, *more: Pair) -> Path:
    own = [
        Pair(query=query, positive=SENTENCES[number], document=f"r{number}", source="s", licence="CC0")
        for number, query in QUERIES.items()
    ]
    write_pairs(file, [*own, *more])
    return file


def _written(out: Path) -> list[Pair]:
    return read_pairs([out], held_out=0.0).training


def _candidate(text: str, score: float, document: str = "other") -> Candidate:
    return Candidate(text, frozenset([text_hash(text)]), frozenset([document]), score)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (_candidate("An answer.", 5.0), "positive"),
        (_candidate("Something else.", 5.0, "own"), "own_document"),
        (_candidate("Something else.", 9.6), "too_similar"),
        (_candidate(f"Once more: {LONG.lower()}!", 5.0), "near_duplicate"),
        (_candidate("They hide until the night falls. The quick brown fox jumps over a small stream then", 5.0), ""),
        (_candidate("We asked: why do so many birds of the far north fly south in autumn", 5.0), "contains_query"),
        (_candidate("Why birds fly south", 9.5), ""),
    ],
)
def test_what_may_answer_is_no_negative(candidate: Candidate, reason: str) -> None:
    query = "Why do so many birds of the far north fly south?"
    known = Known(query, LONG, 10.0, {text_hash("An answer.")}, {"own"})
    taken, left_out = negatives_among([candidate], known, wanted=3, margin=0.95)
    assert dict(left_out) == ({reason: 1} if reason else {})
    assert taken == ([] if reason else [candidate])


def test_the_best_negatives_are_taken_and_the_rest_is_not_looked_at() -> None:
    candidates = [_candidate(f"text {number}", 10.0 - number) for number in range(6)]
    known = Known("q", "p", 10.0, set(), {"d"})
    taken, left_out = negatives_among(candidates, known, wanted=2, margin=0.85)
    assert [one.text for one in taken] == ["text 2", "text 3"]
    assert left_out == {"too_similar": 2}


def test_pairs_are_negatives_of_each_other(tmp_path: Path, in_process) -> None:
    second = Pair(query=QUERIES[1], positive="Humpbacks do.", document="x")
    sibling = Pair(query="Who dances?", positive=SENTENCES[5], document="r4")
    given = Pair(query="What is steel?", positive=SENTENCES[11], negatives=("Not this.",), document="r11")
    file, out = _pairs(tmp_path / "pairs.jsonl", second, sibling, given), tmp_path / "out" / "mined.jsonl"
    card = mine([file], None, out, MineSettings(negatives=3, depth=12, margin=1.0), quiet=True)
    pairs = _written(out)
    assert [(pair.query, pair.positive, pair.document) for pair in pairs] == [
        (pair.query, pair.positive, pair.document) for pair in _written(file)
    ]
    positives = {pair.positive for pair in pairs}
    by_query = {pair.query: pair for pair in pairs}
    for pair in pairs:
        if pair.query == given.query:
            assert pair.negatives == ("Not this.",)
            continue
        assert pair.positive not in pair.negatives
        assert set(pair.negatives) <= positives
        assert len(pair.negatives) == 3 or pair.source == "pairs"
    assert "Humpbacks do." not in by_query[QUERIES[1]].negatives
    assert SENTENCES[1] not in next(pair for pair in pairs if pair.positive == "Humpbacks do.").negatives
    assert SENTENCES[4] not in by_query["Who dances?"].negatives
    assert SENTENCES[5] not in by_query[QUERIES[4]].negatives
    assert card["pairs"]["had_negatives"] == 1
    assert card["candidates"]["taken"] == sum(len(pair.negatives) for pair in pairs) - 1
    assert yaml.safe_load((tmp_path / "out" / "mined.data_card.yaml").read_text()) == card
    assert sorted(path.name for path in out.parent.iterdir()) == ["mined.data_card.yaml", "mined.jsonl"]


def test_negatives_of_a_collection_score_below_the_positive(tmp_path: Path, root: Path, in_process) -> None:
    file = _pairs(tmp_path / "pairs.jsonl", Pair(query="Which stars spin?", positive="Pulsars spin quickly indeed."))
    outs = {}
    for margin in (0.3, 1.0):
        outs[margin] = tmp_path / f"{margin}.jsonl"
        card = mine([file], root, outs[margin], MineSettings(negatives=4, depth=20, margin=margin), quiet=True)
        assert card["negatives_from"]["passages"] == len(SENTENCES)
    strict, loose = (_written(outs[margin]) for margin in (0.3, 1.0))
    for pair in loose:
        assert pair.positive not in pair.negatives
        assert set(pair.negatives) <= set(SENTENCES)
    assert len(loose[0].negatives) == 4
    assert sum(len(pair.negatives) for pair in strict) < sum(len(pair.negatives) for pair in loose)
    assert len(loose[-1].negatives) == 4, "a positive that is not in the collection has a score all the same"


def test_positives_that_are_not_found_are_kept_or_dropped(tmp_path: Path, root: Path, in_process) -> None:
    stray = Pair(query=QUERIES[18], positive=SENTENCES[30], document="r30")
    file = _pairs(tmp_path / "pairs.jsonl", stray)
    kept = mine([file], root, tmp_path / "kept.jsonl", MineSettings(2, 4), quiet=True)
    dropped = mine([file], root, tmp_path / "dropped.jsonl", MineSettings(2, 4, unfound="drop"), quiet=True)
    assert kept["pairs"]["positive_not_found"] == dropped["pairs"]["positive_not_found"] == 1
    last = _written(tmp_path / "kept.jsonl")[-1]
    assert (last.query, last.positive, last.negatives) == (stray.query, stray.positive, ())
    assert [pair.positive for pair in _written(tmp_path / "dropped.jsonl")] == [SENTENCES[n] for n in QUERIES]


def test_an_interrupted_mining_goes_on_to_the_same_pairs(tmp_path: Path, root: Path, in_process, monkeypatch) -> None:
    monkeypatch.setattr(mining, "BATCH", 3)
    file = _pairs(tmp_path / "pairs.jsonl")
    mine([file], root, tmp_path / "whole.jsonl", MineSettings(), quiet=True)
    out, seen = tmp_path / "mined.jsonl", []

    def stop(done: int, _total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine([file], root, out, MineSettings(), say=stop)
    progress = out.with_name("mined.jsonl.progress")
    progress.write_bytes(progress.read_bytes() + b'{"rows": [{"found"')  # as a kill leaves it
    assert not out.exists()
    mine([file], root, out, MineSettings(), say=lambda done, total: seen.append((done, total)))
    assert seen == [(6, 10), (9, 10), (10, 10)]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    again = mine([file], root, out, MineSettings(), say=lambda *_: pytest.fail("it is done"))
    assert again["pairs"]["written"] == 10


def test_text_without_queries_is_mined_too(tmp_path: Path, hiperrag, in_process) -> None:
    rows = [
        {
            "_id": f"a{n}",
            "title": f"{SENTENCES[n][:-1]} and more",
            "text": " ".join(SENTENCES[n : n + 4]) + " It is so.",
        }
        for n in range(0, 24, 4)
    ]
    out = tmp_path / "out.jsonl"
    status, _, errors = hiperrag("train", "mine", write_rows(tmp_path / "texts.jsonl", rows), "--out", out, "--quiet")
    assert status == 0, errors
    assert {pair.source for pair in _written(out)} == {"texts/title", "texts/sentence"}
    assert any("negatives" in line for line in errors)


def test_wrong_inputs_are_one_line(tmp_path: Path, root: Path, hiperrag, in_process) -> None:
    pairs, out = _pairs(tmp_path / "pairs.jsonl"), tmp_path / "out.jsonl"

    def message(*arguments: object) -> str:
        status, _, errors = hiperrag("train", "mine", *arguments, "--quiet")
        assert status == 2, errors
        assert len(errors) == 1, errors
        return errors[0]

    assert "no such file of pairs" in message(tmp_path / "none.jsonl", "--out", out)
    assert "no such file of pairs" in message(tmp_path / "none.jsonl", root, "--out", out)
    assert "no such collection" in message(pairs, tmp_path / "none", "--out", out)
    assert "--margin 2" in message(pairs, "--out", out, "--margin", 2)
    assert "--depth" in message(pairs, "--out", out, "--depth", 2)
    assert "--unfound maybe" in message(pairs, "--out", out, "--unfound", "maybe")
    assert "no encoder called nothing" in message(pairs, "--out", out, "--encoder", "nothing")
    assert "--encoder is for mining without" in message(pairs, root, "--out", out, "--encoder", "minilm")
    assert ".jsonl" in message(pairs, root, "--out", tmp_path / "out.parquet")
    assert "give another --out" in message(pairs, root, "--out", pairs)
    manifest = root / "manifest.json"
    whole = manifest.read_text()
    changed = json.loads(whole)
    changed["encoder"]["identity"] = "0" * 24
    manifest.write_text(json.dumps(changed))
    assert "another version of encoder" in message(pairs, root, "--out", out)
    manifest.write_text(whole)
    delete(root, *(str(row(number)["_id"]) for number in range(len(SENTENCES))))
    assert "all its passages are deleted" in message(pairs, root, "--out", out)
    assert not out.exists()
