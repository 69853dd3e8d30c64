"""Evaluation: tasks read official files, protocols arrange questions, replies are parsed strictly."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from hiperrag.benchmarks.evaluation import corpora
from hiperrag.benchmarks.evaluation.answers import json_answer, letter_answer, paper_answer
from hiperrag.benchmarks.evaluation.items import Item, support_id
from hiperrag.benchmarks.evaluation.prompting import Prompts
from hiperrag.benchmarks.evaluation.protocols import PROTOCOLS, Given
from hiperrag.benchmarks.evaluation.tasks import TASKS, beir
from hiperrag.errors import UserError

SCIQ = {
    "question": "What carries blood away from the heart",
    "distractor1": "veins",
    "distractor2": "nerves",
    "distractor3": "lymph",
    "correct_answer": "Arteries",
    "support": " Arteries carry blood away from the heart.",
}
PUBMED = {
    str(n): {
        "QUESTION": f"Does drug {n} help?",
        "CONTEXTS": ["We gave it.", "They improved."],
        "LONG_ANSWER": "It seems to help most patients.",
        "final_decision": decision,
    }
    for n, decision in enumerate(("yes", "no", "maybe", "yes"))
}
ITEM = Item("q", "Which?", ("red", "green", "blue"), 1, "It is green.", ("d1",))


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


class TestTasks:
    @pytest.mark.parametrize("name", ["valid.json", "valid.jsonl", "valid.jsonl.gz"])
    def test_sciq_in_its_forms(self, tmp_path, name):
        rows = [SCIQ, SCIQ | {"support": "", "question": "Second?"}]
        text = json.dumps(rows) if name.endswith("json") else "\n".join(map(json.dumps, rows))
        data = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        first, second = TASKS["sciq"].items(tmp_path, "valid")
        assert first.item_id == "sciq:valid:0"
        assert first.options == ("veins", "nerves", "lymph", "Arteries")
        assert first.options[first.gold] == "Arteries"
        assert first.support == "Arteries carry blood away from the heart."
        assert first.sources == (support_id(SCIQ["support"]),)
        assert (second.support, second.sources) == ("", ())

    def test_pubmedqa_splits(self, tmp_path):
        write(tmp_path / "ori_pqal.json", PUBMED)
        write(tmp_path / "test_ground_truth.json", {"1": "no", "3": "yes"})
        ids = {split: [i.item_id for i in TASKS["pubmedqa"].items(tmp_path, split)] for split in ("dev", "test", "all")}
        assert ids["test"] == ["pubmedqa:1", "pubmedqa:3"]
        assert ids["dev"] == ["pubmedqa:0", "pubmedqa:2"]
        assert len(ids["all"]) == 4
        item = TASKS["pubmedqa"].items(tmp_path, "dev")[1]
        assert item.options[item.gold] == "maybe"
        assert item.support == "We gave it.\nThey improved."
        assert item.sources == ("pubmed:2",)

    def test_pubmedqa_dev_file_alone(self, tmp_path):
        write(tmp_path / "ori_pqal_dev.json", PUBMED)
        assert len(TASKS["pubmedqa"].items(tmp_path, "dev")) == 4
        with pytest.raises(UserError, match=r"test_ground_truth\.json"):
            TASKS["pubmedqa"].items(tmp_path, "test")

    def test_choice_from_a_table_and_from_objects(self, tmp_path):
        table = write(
            tmp_path / "q.csv",
            "id,question,option_1,option_2,option_10,answer,sources\n007,Which?,1.0,None,3,None,a; b\n",
        )
        objects = write(
            tmp_path / "test.jsonl",
            json.dumps({"question": "Which?", "options": ["x", "y"], "answer": "y", "support": "y it is"})
            + "\n"
            + json.dumps({"question": "Which?", "options": ["x", "z"], "answer": "x"}),
        )
        (item,) = TASKS["choice"].items(table, "test")
        assert item == Item("007", "Which?", ("1.0", "None", "3"), 1, "", ("a", "b"))
        first, second = TASKS["choice"].items(objects.parent, "test")
        assert (first.item_id, first.gold, first.support) == ("1", 1, "y it is")
        assert second.gold == 0

    def test_choice_reads_litqa(self, tmp_path):
        row = {"id": "a", "question": "Which?", "ideal": "x", "distractors": ["y", "z"], "sources": ["10.1/2"]}
        (item,) = TASKS["choice"].items(write(tmp_path / "litqa.jsonl", row), "test")
        assert item == Item("a", "Which?", ("x", "y", "z"), 0, "", ("10.1/2",))

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ({"question": "Which?", "options": ["x", "y"], "answer": "z"}, "row 1: the answer 'z' is not"),
            ({"question": "Which?", "options": ["x", "x"], "answer": "x"}, "2 to 26 options, all different"),
            ({"question": "Which?", "options": "xy", "answer": "x"}, "options must be a list"),
            ({"question": " ", "options": ["x", "y"], "answer": "x"}, "field 'question' is missing"),
        ],
    )
    def test_choice_says_what_is_wrong(self, tmp_path, row, said):
        with pytest.raises(UserError, match=said):
            TASKS["choice"].items(write(tmp_path / "test.jsonl", row), "test")

    def test_beir(self, tmp_path):
        write(tmp_path / "queries.jsonl", '{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n')
        write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq2\t07\t2\nq2\td9\t0\n")
        assert beir.load(tmp_path, "test") == [beir.Query("q2", "two", {"07": 2, "d9": 0})]

    @pytest.mark.parametrize("name", [*TASKS, "beir"])
    def test_missing_data_is_one_line_with_the_files(self, tmp_path, name):
        load = beir.load if name == "beir" else TASKS[name].items
        files = {"sciq": "valid.json", "pubmedqa": "ori_pqal.json", "choice": ".jsonl", "beir": "queries.jsonl"}
        for data in (None, tmp_path / "nothing"):
            with pytest.raises(UserError) as said:
                load(data, "valid")
            assert files[name] in str(said.value)
            assert "\n" not in str(said.value)
        with pytest.raises(UserError):
            load(tmp_path, "dev")


class TestReplies:
    @pytest.mark.parametrize(
        "reply", ["B", " B. ", "(B)", "B)", "B:", "Answer: B", "The answer is B.", "B. green", "green", "Green."]
    )
    def test_an_answer(self, reply):
        assert letter_answer(reply, ITEM) == 1

    @pytest.mark.parametrize(
        "reply", ["", "D", "A or B", "B. red", "I think B", "B because", "A\nB", "red and green", "b", "(B", "Because"]
    )
    def test_no_answer_is_no_guess(self, reply):
        assert letter_answer(reply, ITEM) is None

    def test_json(self):
        assert json_answer('Sure: {"step_by_step_thinking": "x", "answer_choice": "C"}', ITEM) == 2
        for reply in ("C", "{}", '{"answer_choice": "E"}', '{"answer_choice": ["A"]}', '{"answer_choice": "A"', "[1]"):
            assert json_answer(reply, ITEM) is None

    def test_paper(self):
        assert paper_answer("2. Green.") == "green"
        assert paper_answer("") == ""


class TestProtocols:
    def test_sound_shuffles_by_seed_and_keeps_the_answer(self):
        sound = PROTOCOLS["sound"]
        items = [Item(f"q{n}", "?", ("a", "b", "c", "d"), 2) for n in range(400)]
        arranged = [sound.arrange(item, 0) for item in items]
        assert all(item.options[item.gold] == "c" and len(item.options) == 4 for item in arranged)
        counts = [sum(item.gold == position for item in arranged) for position in range(4)]
        assert min(counts) > 70  # 100 expected; 70 is 3.5 standard deviations off
        assert arranged == [sound.arrange(item, 0) for item in items]
        assert arranged != [sound.arrange(item, 1) for item in items]

    def test_sound_searches_by_the_bare_question(self):
        assert PROTOCOLS["sound"].query(ITEM, Prompts()) == "Which?"
        assert PROTOCOLS["mirage"].query(ITEM, Prompts()) == "Which?"

    def test_prompts_of_sound(self):
        sound, prompts, given = PROTOCOLS["sound"], Prompts(), [Given("Grass. "), Given("Leaves $5.")]
        assert sound.prompt(ITEM, [], "cloze", prompts) == "Question: Which?\nAnswer:"
        assert sound.prompt(ITEM, given, "cloze", prompts) == "Grass.\nLeaves $5.\nQuestion: Which?\nAnswer:"
        assert sound.prompt(ITEM, [], "letters", prompts) == "Question: Which?\nA. red\nB. green\nC. blue\nAnswer:"

    def test_lm_eval_has_the_harness_prompts(self):
        harness, prompts = PROTOCOLS["lm-eval"], Prompts()
        sciq = Item("sciq:valid:0", "Which?", ("a", "b"), 1, "Text. ")
        given = harness.oracle(sciq)
        assert harness.prompt(sciq, given, "cloze", prompts) == "Text. \nQuestion: Which?\nAnswer:"
        assert harness.arrange(sciq, 3) == sciq
        pubmed = Item("pubmedqa:1", "Which?", ("yes", "no", "maybe"), 1, "One.\nTwo.")
        asked = harness.prompt(pubmed, harness.oracle(pubmed), "cloze", prompts)
        assert asked == "Abstract: One.\nTwo.\nQuestion: Which?\nAnswer:"

    def test_paper_has_the_published_quirks(self):
        paper, prompts = PROTOCOLS["paper"], Prompts()
        sciq = Item("sciq:valid:0", "What is it", ("b", "c", "d", "Darwin"), 3)
        arranged = paper.arrange(sciq, 0)
        assert (arranged.options, arranged.gold) == (("Darwin", "b", "c"), 0)
        assert paper.query(arranged, prompts) == "What is it?\nOptions:\n1. Darwin\n2. b\n3. c"
        assert paper.judge("1. Darwin.", arranged) == (0, False)  # the gold answer is not lower-cased
        assert paper.judge("B", arranged) == (1, False)
        pubmed = Item("pubmedqa:1", "Is it?", ("yes", "no", "maybe"), 1, "The abstract.")
        query = paper.query(pubmed, prompts)
        assert query == "Most relevant context:\nThe abstract.\nIs it?\nOptions:\n1. yes\n2. no\n3. maybe"
        assert query in paper.prompt(pubmed, [Given("P", score=3.5)], "generation", prompts)
        assert "Context: P, score: 3.5" in paper.prompt(pubmed, [Given("P", score=3.5)], "generation", prompts)
        assert paper.judge("No.", pubmed) == (1, True)

    def test_protocols_refuse_what_they_do_not_define(self):
        with pytest.raises(UserError, match="mirage is defined for pubmedqa only"):
            PROTOCOLS["mirage"].check("sciq", None, ())
        with pytest.raises(UserError, match="--arms rag"):
            PROTOCOLS["lm-eval"].check("sciq", None, ("rag",))
        with pytest.raises(UserError, match="--answer cloze"):
            PROTOCOLS["paper"].check("sciq", "cloze", ())
        assert PROTOCOLS["sound"].check("choice", None, ("rag",)) == "cloze"


class TestPrompts:
    def test_a_folder_replaces_them(self, tmp_path):
        write(tmp_path / "cloze.txt", "Q ${question} costs $$1\n")
        prompts = Prompts(tmp_path)
        assert prompts.fill("cloze", question="x") == "Q x costs $1"
        assert prompts.hashes()["cloze"] != Prompts().hashes()["cloze"]
        assert prompts.hashes()["letters"] == Prompts().hashes()["letters"]

    def test_errors_name_the_file(self, tmp_path):
        with pytest.raises(UserError, match="no such folder"):
            Prompts(tmp_path / "none")
        write(tmp_path / "cloze.txt", "${qestion}")
        with pytest.raises(UserError, match=r"prompt cloze\.txt: 'qestion' is no placeholder"):
            Prompts(tmp_path).fill("cloze", question="x")
        write(tmp_path / "clozed.txt", "")
        with pytest.raises(UserError, match=r"clozed\.txt: no prompt has that name"):
            Prompts(tmp_path)


class TestCorpora:
    def test_supports_once_each_under_the_names_the_items_give(self, tmp_path):
        write(tmp_path / "valid.json", [SCIQ, SCIQ | {"question": "Again?"}, SCIQ | {"support": ""}])
        corpora.main(
            ["supports", "sciq", "--data", str(tmp_path), "--split", "valid", "--out", str(tmp_path / "out.jsonl.gz")]
        )
        with gzip.open(tmp_path / "out.jsonl.gz", "rt") as lines:
            rows = [json.loads(line) for line in lines]
        assert rows == [{"_id": support_id(SCIQ["support"]), "text": "Arteries carry blood away from the heart."}]

    def test_articles(self, tmp_path):
        article = {
            "id": "10.1/x",
            "title": "T",
            "abstract": "A.",
            "paragraphs": [["S", "one"], ["S", " "], ["S", "two"]],
        }
        path = write(tmp_path / "in.jsonl", article)
        assert [row["_id"] for row in corpora.articles(path, False)] == ["10.1/x#0", "10.1/x#2"]
        assert list(corpora.articles(path, True)) == [{"_id": "10.1/x#abstract", "title": "T", "text": "A."}]
