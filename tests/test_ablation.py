"""The ablation: variants are trained and evaluated by one command, once, and the figures are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from training_helpers import made_pairs, tiny_model

from hiperrag.benchmarks.ablation.__main__ import main
from hiperrag.benchmarks.ablation.scoring import CANDIDATES, evaluate, figures
from hiperrag.benchmarks.ablation.sets import EvaluationSet, n_seen, read_set, sampled, set_of_pairs
from hiperrag.benchmarks.ablation.summary import FIGURES, MEAN, summarise
from hiperrag.benchmarks.ablation.variants import variants
from hiperrag.benchmarks.evaluation.statistics import mean_interval, resampled_means
from hiperrag.encoders import load_encoder
from hiperrag.encoders.training.pairs import Pair, write_pairs
from hiperrag.encoders.training.settings import TrainSettings

NAMES = ["base", "base-projected", "contrastive", "contrastive-hard", "late", "late-hard", "coltrast", "coltrast-hard"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def _beir(folder: Path) -> Path:
    """Ten documents and two queries, one of which asks for words of two documents."""
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{n}", "title": "", "text": f"w{n:03d} w{n + 1:03d} w{n + 2:03d}."} for n in range(0, 100, 10)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [{"_id": "q1", "text": "w020 w021 w022"}, {"_id": "q2", "text": "w070 w071"}]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td20\t1\nq2\td70\t1\nq2\td80\t1\n")
    return folder


def test_one_command_makes_what_is_not_there(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path / "pairs.jsonl", made_pairs(120, negatives=1))
    (tmp_path / "settings.yaml").write_text(
        f"base: {base}\nbatch: 8\nblock: 4\ndim: 16\nrank: 4\nsteps: 2\nheld_out: 0.2\nprecision: float32\n"
    )
    out = tmp_path / "out"
    command = ["--pairs", str(tmp_path / "pairs.jsonl"), "--out", str(out), "--set", str(_beir(tmp_path / "made"))]
    command += ["--settings", str(tmp_path / "settings.yaml"), "--precision", "float32"]
    command += ["--variants", "base-projected", "late", "coltrast"]
    assert main(command) == 0
    results = json.loads((out / "results.json").read_text())
    assert list(results["labels"]) == ["base", "base-projected", "late", "coltrast"]
    assert list(results["summary"]) == ["held-out", "made", MEAN]
    assert results["variants"]["base"]["dim"] == 32
    assert {one["dim"] for name, one in results["variants"].items() if name != "base"} == {16}
    assert len({one["encoder"] for one in results["variants"].values()}) == 4
    of_mean, sets = results["summary"][MEAN]["coltrast"], ("held-out", "made")
    for ranking, measure in FIGURES:
        each = [results["summary"][name]["coltrast"]["figures"][ranking][measure]["mean"] for name in sets]
        assert of_mean["figures"][ranking][measure]["mean"] == pytest.approx(np.mean(each), abs=1e-4)
        base_mean = results["summary"][MEAN]["base"]["figures"][ranking][measure]["mean"]
        difference = of_mean["figures"][ranking][measure]["mean"] - base_mean
        assert of_mean["against"]["base"][ranking][measure]["mean"] == pytest.approx(difference, abs=3e-5)
    page = (out / "report.md").read_text()
    assert all(label in page for label in results["labels"].values())
    assert (out / "ablation.png").stat().st_size > 10_000

    def times() -> dict[Path, int]:
        kept = [*(out / "variants").rglob("*.safetensors"), *(out / "evaluations").rglob("*.json")]
        return {path: path.stat().st_mtime_ns for path in kept}

    before = times()
    (out / "evaluations" / "late" / "made.json").unlink()
    assert main(command) == 0
    changed = {path for path, time in times().items() if before[path] != time}
    assert changed == {out / "evaluations" / "late" / "made.json"}
    assert json.loads((out / "results.json").read_text())["summary"] == results["summary"]

    capsys.readouterr()
    assert main([*command[:-1], "later"]) == 1
    assert "there are base, base-projected" in capsys.readouterr().err
    assert main([*command, "--set", str(tmp_path / "made")]) == 1
    assert "another name" in capsys.readouterr().err


def test_variants_are_those_that_differ() -> None:
    one_block = TrainSettings(batch=16)
    assert [one.name for one in variants(one_block, with_negatives=False)] == [
        "base",
        "base-projected",
        "contrastive",
        "late",
        "coltrast",
    ]
    blocks = {one.name: one.settings for one in variants(TrainSettings(batch=32, block=16), with_negatives=True)}
    assert list(blocks) == [*NAMES, "coltrast-no-gather"]
    hard, plain, within = blocks["coltrast-hard"], blocks["coltrast"], blocks["coltrast-no-gather"]
    assert hard is not None
    assert plain is not None
    assert within is not None
    assert (hard.hard_negatives, plain.hard_negatives, within.hard_negatives) == (1, 0, 0)
    assert (plain.gather, within.gather) == (True, False)
    assert "base-projected" not in [one.name for one in variants(TrainSettings(dim=None), with_negatives=True)]


def test_rankings_are_those_of_a_collection(base: Path, tmp_path: Path) -> None:
    """Pooled vectors and MaxSim worked out by hand; every passage is a candidate of so small an index."""
    data = read_set(_beir(tmp_path / "made"), "test")
    encoder = load_encoder(f"{base}:float32")
    found = evaluate(encoder, encoder.tokenizer, data, tmp_path, 1)
    queries = encoder.encode_queries(list(data.queries.values()))
    passages = encoder.encode_passages([row["text"] for row in data.rows])
    names = [row["_id"] for row in data.rows]
    for number, query in enumerate(data.queries):
        tokens = queries.token_arrays()[number]
        exact = [float((tokens @ passage.T).max(axis=1).sum()) for passage in passages.token_arrays()]
        pooled = passages.pooled @ queries.pooled[number]
        ranked = {
            "maxsim": [[names[row] for row in np.argsort(-np.array(exact), kind="stable")]],
            "pooled": [[names[row] for row in np.argsort(-pooled, kind="stable")]],
        }
        wanted = figures(ranked, [data.judged[query]])
        for ranking in ("maxsim", "pooled"):
            assert {name: values[number] for name, values in found["figures"][ranking].items()} == {
                name: pytest.approx(values[0]) for name, values in wanted[ranking].items()
            }
    assert found["figures"]["two-stage"]["recall@20"] == [1.0, 1.0]
    assert found["figures"]["maxsim"]["mrr@10"] == found["figures"]["two-stage"]["mrr@10"] == [1.0, 1.0]


def test_candidates_are_counted_against_exact_maxsim() -> None:
    best = [f"d{n}" for n in range(20)]
    others = [f"x{n}" for n in range(97)]
    ranked = {"maxsim": [best], "pooled": [[*others, "d3", "d15", "d0"]], "two-stage": [best]}
    found = figures(ranked, [{"d1": 1}])
    assert found["pooled"][CANDIDATES] == [0.2]
    assert found["two-stage"]["mrr@10"] == [0.5]


def test_a_querys_own_document_is_not_wrong() -> None:
    pairs = [
        Pair(query="a", positive="first passage", document="one"),
        Pair(query="b", positive="second passage", document="one"),
        Pair(query="a", positive="third passage", document="two"),
        Pair(query="c", positive="third passage", document="two"),
    ]
    data = set_of_pairs("made", pairs)
    texts = {row["_id"]: row["text"] for row in data.rows}
    by_query = {text: query for query, text in data.queries.items()}
    assert {texts[row] for row in data.judged[by_query["a"]]} == {"first passage", "third passage"}
    assert {texts[row] for row in data.beside[by_query["a"]]} == {"second passage"}
    assert by_query["c"] not in data.beside
    assert n_seen(data, [Pair(query="C", positive="Second  passage")]) == {"queries": 1, "passages": 1}


def test_samples_keep_what_is_right() -> None:
    pairs = [Pair(query=f"q{n}", positive=f"passage {n}") for n in range(50)]
    data = set_of_pairs("made", pairs)
    some = sampled(data, 10, 15, seed=3)
    assert (len(some.queries), len(some.rows)) == (10, 15)
    kept = {row["_id"] for row in some.rows}
    assert all(set(judged) <= kept for judged in some.judged.values())
    assert sampled(data, 10, 15, seed=3).identity == some.identity != sampled(data, 10, 15, seed=4).identity
    assert len(sampled(data, 10, 2, seed=3).rows) == 10


def test_intervals_are_of_paired_samples() -> None:
    draw = np.random.default_rng(0)
    a = draw.random(400)
    b = a + 0.1

    def evaluation(values: np.ndarray) -> dict[str, object]:
        listed: dict[str, dict[str, list[float]]] = {}
        for ranking, measure in FIGURES:
            listed.setdefault(ranking, {})[measure] = values.tolist()
        return {"figures": listed}

    found = summarise({"base": {"s": evaluation(a)}, "coltrast": {"s": evaluation(b)}}, ("base", "coltrast"))
    assert MEAN not in found
    mine = found["s"]["base"]["figures"]["pooled"]["mrr@10"]
    theirs = mean_interval(a)
    assert all(mine[name] == pytest.approx(theirs[name], abs=2e-3) for name in ("mean", "low", "high"))
    difference = found["s"]["coltrast"]["against"]["base"]["pooled"]["mrr@10"]
    assert difference == {"mean": 0.1, "low": 0.1, "high": 0.1}
    assert resampled_means(np.stack([a, b], axis=1)).shape == (10_000, 2)
    assert isinstance(EvaluationSet("n", {}, [], {}, {}).identity, str)
