"""Evaluation: likelihoods over a cache, whole runs, resume, planted answers, the command."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from collection_helpers import InlinePool, index, use_inline_pool
from eval_helpers import Reader, tiny_model

from hiperrag.answering.generators.local import LocalGenerator
from hiperrag.answering.retrieval import Retriever
from hiperrag.benchmarks.evaluation import evaluate as evaluation
from hiperrag.benchmarks.evaluation import fanout
from hiperrag.benchmarks.evaluation.compare import compare
from hiperrag.benchmarks.evaluation.evaluate import Request, evaluate, sample
from hiperrag.benchmarks.evaluation.folders import RunFolder, read_run
from hiperrag.benchmarks.evaluation.leakage import leakage
from hiperrag.benchmarks.evaluation.likelihood import OptionScorer
from hiperrag.benchmarks.evaluation.tasks import TASKS
from hiperrag.errors import UserError

PROMPT = "The heart.\nQuestion: what is the answer?\nAnswer:"
OPTIONS = [" blood", " blood vessels and more", " blood vessels", " x", " an answer that is longer than the others"]
STATIONS = """Albatross Basalt Cathedral Dolphin Eclipse Firefly Glacier Harpoon Igloo Jasmine Kangaroo Lantern Magnolia
Nectar Octopus Pyramid Quartz Rainbow Saffron Tornado Umbrella Volcano Walnut Yogurt"""
N_PLANTED = len(STATIONS.split())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory, models):
    """Stations with made-up code words: (data folder, collection). Nothing but the collection can tell them."""
    folder = tmp_path_factory.mktemp("planted")
    draw = random.Random(0)
    words = [a + b + c for a in ("zor", "kel", "mip", "tav") for b in ("an", "ux", "ob") for c in ("dle", "fex", "gim")]
    draw.shuffle(words)
    rows, corpus = [], []
    for n, name in enumerate(STATIONS.split()):
        station, code = f"Station {name}", f"{words[(n + 9) % len(words)]}-{n:02d}"
        wrong = [f"{words[(n + k) % len(words)]}-{n:02d}" for k in (3, 5, 7)]
        source = f"log{n}"
        corpus.append({"_id": source, "text": f"The code word of {station} in the north is {code}."})
        support = corpus[-1]["text"]
        rows.append(
            {
                "id": f"q{n}",
                "question": f"What is the code word of {station}?",
                "options": [code, *wrong],
                "answer": code,
                "support": support,
                "sources": [source],
            }
        )
    (folder / "data").mkdir()
    (folder / "in").mkdir()
    (folder / "data" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "in" / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    with pytest.MonkeyPatch.context() as patch:
        use_inline_pool(patch)
        index(folder / "in", folder / "c")
    return folder / "data", folder / "c"


def plain_score(generator: LocalGenerator, prompt: str, option: str) -> float:
    """One forward pass over everything, without a cache: the definition."""
    n_prompt = len(generator.tokenizer(prompt)["input_ids"])
    ids = generator.tokenizer(prompt + option)["input_ids"]
    with torch.inference_mode():
        logits = generator.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return float(sum(logits[i - 1, ids[i]] for i in range(n_prompt, len(ids))))


class TestLikelihood:
    @pytest.mark.parametrize("kind", ["qwen", "gemma"])
    def test_the_cache_changes_nothing(self, tmp_path, kind):
        generator = LocalGenerator(tiny_model(tmp_path, kind), "hf:tiny", precision="float32")
        found = OptionScorer(generator).score(PROMPT, OPTIONS)
        assert found.log_likelihoods == pytest.approx([plain_score(generator, PROMPT, o) for o in OPTIONS], abs=1e-4)
        assert not found.truncated

    def test_an_option_scores_the_same_in_any_company(self, tiny):
        scorer = OptionScorer(LocalGenerator(tiny, "hf:tiny", precision="float32"))
        together = scorer.score(PROMPT, OPTIONS).log_likelihoods
        alone = [scorer.score(PROMPT, [option]).log_likelihoods[0] for option in OPTIONS]
        assert together == pytest.approx(alone, abs=1e-4)
        assert scorer.score(PROMPT, OPTIONS[::-1]).log_likelihoods == pytest.approx(together[::-1], abs=1e-4)

    def test_white_space_at_the_end_belongs_to_the_option(self, tiny):
        scorer = OptionScorer(LocalGenerator(tiny, "hf:tiny", precision="float32"))
        found = scorer.score(PROMPT + " ", ["blood"])
        scorer.forget()
        assert found == scorer.score(PROMPT, [" blood"])

    def test_a_prompt_beyond_the_window_loses_its_beginning(self, tiny):
        generator = LocalGenerator(tiny, "hf:tiny", precision="float32")
        scorer = OptionScorer(generator)
        found = scorer.score("filler " * 200 + PROMPT, OPTIONS[:2])
        assert found.truncated
        assert found.n_tokens < 256 + 20


def fail_at(*calls: int) -> Callable[[str, int], None]:
    def fault(name: str, call: int) -> None:
        if call in calls:
            raise OSError("the worker is gone")

    return fault


def without_cost(folder: Path) -> list[dict[str, Any]]:
    records = read_run(folder)[1]
    for record in records:
        for arm in record["arms"].values():
            del arm["cost"]
    return records


def run(out: Path, data: Path, **options):
    return evaluate(Request("choice", data=data, out=out, **options))


class TestRuns:
    def test_planted_answers(self, planted, in_process, tmp_path, monkeypatch):
        """A reader that knows nothing is right by chance without passages and always with them."""
        data, collection = planted
        monkeypatch.setattr(evaluation, "load_generator", lambda spec: Reader())
        folder, results = run(
            tmp_path / "r", data, collection=collection, answering="generation", n_passages=(1,), seed=1
        )
        arms = results["arms"]
        assert arms["rag@1"]["accuracy"]["mean"] == arms["oracle"]["accuracy"]["mean"] == 1.0
        assert arms["closed-book"]["accuracy"]["low"] <= 0.25 <= arms["closed-book"]["accuracy"]["high"]
        assert results["retrieval"]["n_with_source"] == N_PLANTED
        assert results["retrieval"]["source@1"]["mean"] == 1.0
        (rag_over_closed,) = [c for c in results["comparisons"] if (c["a"], c["b"]) == ("closed-book", "rag@1")]
        assert rag_over_closed["mcnemar"]["p"] < 1e-4
        assert results["leakage"]["questions"]["contained"] == 0
        assert results["leakage"]["supports"]["contained"] == N_PLANTED
        assert results["settings"]["collection"]["passages"] == N_PLANTED
        page = (folder / "report.html").read_text()
        assert page.count("data:image/png;base64,") == 1
        record = read_run(folder)[1][0]
        assert record["hits"][0]["document"] == record["sources"][0]
        assert record["arms"]["rag@1"]["prompt"][1]["content"].startswith(record["hits"][0]["text"])
        assert record["arms"]["rag@1"]["cost"]["cpu_s"] > 0

    def test_deleted_passages_are_not_in_the_collection(self, planted, in_process, tmp_path, hiperrag):
        data, collection = planted
        shutil.copytree(collection, tmp_path / "c")
        assert hiperrag("delete", tmp_path / "c", "log0", "log1")[0] == 0
        retriever = Retriever(tmp_path / "c")
        items = TASKS["choice"].items(data, "test")
        assert leakage(items, retriever)["supports"]["contained"] == N_PLANTED - 2
        present = evaluation._sources_present(items, retriever)
        assert present == {f"log{n}" for n in range(2, N_PLANTED)}

    def test_a_killed_run_goes_on_and_ends_the_same(self, planted, tiny, tmp_path):
        data, _ = planted
        whole, results = run(tmp_path / "whole", data, generator=f"hf:{tiny}", limit=6)
        cut = tmp_path / "cut"
        calls = []

        class StoppedError(Exception):
            pass

        def stop(done: int, total: int) -> None:
            calls.append((done, total))
            if done == 3:
                raise StoppedError

        request = Request("choice", data=data, out=cut, generator=f"hf:{tiny}", limit=6)
        with pytest.raises(StoppedError):
            evaluate(request, stop)
        with (cut / "items.jsonl").open("a") as out:
            out.write('{"item_id": "half a li')
        calls.clear()
        _, resumed = evaluate(request, lambda done, total: calls.append((done, total)))
        assert calls == [(4, 6), (5, 6), (6, 6)]

        assert without_cost(cut) == without_cost(whole)
        for name, arm in results["arms"].items():
            assert resumed["arms"][name]["accuracy"] == arm["accuracy"]

    def test_workers_give_the_same_in_any_order_and_after_losses(self, planted, tiny, tmp_path, monkeypatch):
        data, _ = planted
        here, _ = run(tmp_path / "here", data, generator=f"hf:{tiny}", limit=12)

        class LastFirst(InlinePool):
            def finished(self, timeout):
                self.tasks.reverse()
                yield from super().finished(timeout)

        monkeypatch.setattr(fanout, "Pool", LastFirst)
        monkeypatch.setattr(fanout, "PART", 5)
        monkeypatch.setattr(InlinePool, "calls", 0)
        monkeypatch.setattr(InlinePool, "fault", staticmethod(fail_at(2, 3)))
        there, results = run(tmp_path / "there", data, generator=f"hf:{tiny}", limit=12, site="local")
        assert without_cost(there) == without_cost(here)
        assert results["machine"]["site"] == "local"
        monkeypatch.setattr(InlinePool, "fault", staticmethod(fail_at(*range(100))))
        with pytest.raises(UserError, match="failed 3 times, last with OSError"):
            run(tmp_path / "never", data, generator=f"hf:{tiny}", limit=12, site="local")

    def test_other_settings_are_another_run(self, planted, tiny, tmp_path):
        data, _ = planted
        run(tmp_path / "r", data, generator=f"hf:{tiny}", limit=2)
        with pytest.raises(UserError, match=r"holds a run with other settings \(answering\)"):
            run(tmp_path / "r", data, generator=f"hf:{tiny}", limit=2, answering="letters")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").touch()
        with pytest.raises(UserError, match="not an evaluation"):
            run(tmp_path / "mine", data, generator=f"hf:{tiny}", limit=2)

    def test_one_process_at_a_time(self, tmp_path):
        folder = RunFolder(tmp_path / "r", {})

        def ask(_: range) -> list[dict[str, object]]:
            with pytest.raises(UserError, match="another process"):
                RunFolder(tmp_path / "r", {}).ask_all(["a"], ask)
            return [{"item_id": "a"}]

        assert folder.ask_all(["a"], ask) == [{"item_id": "a"}]

    def test_what_cannot_be_is_said(self, planted, tmp_path, monkeypatch):
        data, _ = planted
        monkeypatch.setattr(evaluation, "load_generator", lambda spec: Reader())
        with pytest.raises(UserError, match="gives no log-likelihoods; use --answer generation"):
            run(tmp_path / "r", data)
        with pytest.raises(UserError, match="the RAG arm needs --collection"):
            run(tmp_path / "r", data, arms=("rag",), answering="generation")
        with pytest.raises(UserError, match="no task 'chess'"):
            evaluate(Request("chess"))
        with pytest.raises(UserError, match="no protocol 'mine'"):
            evaluate(Request("sciq", protocol="mine"))

    def test_a_sample_is_seeded_and_in_order(self):
        found = sample(range(100), 10, 3)
        assert found == sorted(found) == sample(range(100), 10, 3)
        assert found != sample(range(100), 10, 4)
        assert sample(range(5), 9, 0) == [0, 1, 2, 3, 4]


class TestCommand:
    def test_evaluates_and_compares(self, planted, tiny, tmp_path, hiperrag):
        data, _ = planted
        for name, answer in (("a", "cloze"), ("b", "letters")):
            options = ("--data", data, "--generator", f"hf:{tiny}", "--limit", 4, "--answer", answer)
            status, out, err = hiperrag("eval", "choice", *options, "--out", tmp_path / name, "--json")
            assert status == 0, err
            found = json.loads(out)
            assert found["n_items"] == found["arms"]["oracle"]["n"] == 4
        status, out, _ = hiperrag("eval", "--compare", tmp_path / "a", tmp_path / "b", "--json")
        assert status == 0
        assert json.loads(out) == compare(tmp_path / "a", tmp_path / "b")
        status, out, _ = hiperrag("eval", "--compare", tmp_path / "a", tmp_path / "b")
        assert "closed-book: " in out
        assert "over 4 questions" in out

    def test_retrieval(self, planted, in_process, tmp_path, hiperrag):
        _, collection = planted
        data = tmp_path / "beir"
        (data / "qrels").mkdir(parents=True)
        (data / "queries.jsonl").write_text(
            '{"_id": "1", "text": "code word of Station Zorandle"}\n{"_id": "2", "text": "north"}\n'
        )
        (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tlog0\t1\n1\tnowhere\t1\n")
        arguments = ("eval", "beir", "--data", data, "--collection", collection, "--out", tmp_path / "r", "--json")
        status, out, err = hiperrag(*arguments)
        assert status == 0, err
        figures = json.loads(out)["figures"]
        assert set(figures) == {"ndcg@10", "mrr", "recall@5", "recall@10", "recall@100"}
        assert figures["recall@100"]["mean"] == 0.5
        compared = compare(tmp_path / "r", tmp_path / "r")["comparisons"]
        assert all(one["difference"]["mean"] == 0 for one in compared)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ((), "give either a TASK"),
            (("sciq",), "no --data given; give a folder that holds SciQ's train.json"),
            (("beir", "--data", "."), "task beir needs --collection"),
            (("--compare", "a", "b"), "not the folder of a finished evaluation"),
        ],
    )
    def test_errors_are_one_line(self, hiperrag, arguments, said):
        status, out, err = hiperrag("eval", *arguments)
        assert (status, out) == (2, "")
        assert len(err) == 1
        assert said in err[0]


@pytest.mark.slow
def test_planted_answers_with_a_real_model(planted, models, tmp_path):
    """SmolLM2 by likelihood: all right with the passage, by chance without."""
    data, collection = planted
    _, results = run(tmp_path / "r", data, collection=collection, n_passages=(1,))
    arms = results["arms"]
    assert arms["rag@1"]["accuracy"]["mean"] == 1.0
    assert arms["closed-book"]["accuracy"]["low"] <= 0.25 <= arms["closed-book"]["accuracy"]["high"]
