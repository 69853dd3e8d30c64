"""Questions about a collection's passages: choice of passages, strict parsing, the round trip, stops, wrong inputs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from collection_helpers import SENTENCES, index, write_rows

from hiperrag.answering.generators import Cancellation, Message, TokenStream, UnavailableError
from hiperrag.answering.generators.base import Piece
from hiperrag.answering.retrieval import Retriever
from hiperrag.encoders.training.pairs import read_pairs
from hiperrag.errors import UserError
from hiperrag.records import Passage
from hiperrag.training_data import prompting, questions, sampling
from hiperrag.training_data.prompting import conversation, questions_of
from hiperrag.training_data.questions import QuestionSettings, write_questions
from hiperrag.training_data.replies import replies

PASSAGE = Passage(
    "p", "d", "paper.pdf", "Roman concrete", 0, "paragraph", "Results", SENTENCES[32], 1, 1, [], 50, {"license": "CC0"}
)
GOOD = "Why does Roman concrete harden further in sea water?"


class Scripted:
    """Replies as `write` says, to what the last message asks about."""

    spec = "scripted"
    capable = True

    def __init__(self, write: Callable[[str], str]) -> None:
        self._write = write
        self.asked: list[str] = []

    def stream(self, messages: list[Message], max_tokens: int) -> Iterator[str]:
        text = messages[-1]["content"]
        self.asked.append(text)
        return iter([self._write(text)])


def _question(text: str) -> str:
    """The passage's words as a question: it finds the passage again."""
    return f"Is it so that {text.splitlines()[0][:-1].lower()}?"


@pytest.fixture
def short_passages(monkeypatch) -> None:
    monkeypatch.setattr(sampling, "FEWEST_TOKENS", 5)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (GOOD, ""),
        (f'1. "{GOOD}"', ""),
        (f"**Question:** {GOOD}", ""),
        ("", "no_question"),
        ("Roman concrete hardens in sea water.", "no_question"),
        (f"{GOOD} It hardens.", "no_question"),
        (f"{GOOD} And why?", "no_question"),
        ("Why concrete?", "too_short"),
        ("Why " + "does the concrete " * 15 + "harden?", "too_long"),
        ("What does the passage say about Roman concrete?", "points_at_text"),
        ("What do the authors of Roman concrete conclude?", "points_at_text"),
        ("What does Figure 3 show about concrete?", "points_at_text"),
        ("What did we find out about Roman concrete?", "points_at_text"),
        ("Why does it harden, the Roman concrete?", "points_at_text"),
        ("What is it in the sea water?", "points_at_text"),
        ("Which whales sing in winter?", "off_topic"),
        ("At what temperature does sea water freeze?", "example"),
    ],
)
def test_replies_are_parsed_strictly(reply: str, reason: str) -> None:
    usable, unusable = questions_of(reply, "stop", PASSAGE, 1)
    assert dict(unusable) == ({reason: 1} if reason else {})
    assert len(usable) == (not reason)
    assert not usable or usable[0][0].isalpha()


def test_a_reply_that_was_cut_off_keeps_its_whole_questions() -> None:
    reply = f"1) {GOOD}\n\n2) How long does Roman conc"
    assert questions_of(reply, "length", PASSAGE, 2) == ([GOOD], Counter(cut_off=1))
    assert questions_of(reply, "stop", PASSAGE, 2) == ([GOOD], Counter(no_question=1))
    assert questions_of(f"{GOOD}\nWhat is Roman concrete?", "stop", PASSAGE, 1) == ([GOOD], Counter(not_asked_for=1))


def test_examples_are_good_questions_themselves() -> None:
    for text, examples in prompting._EXAMPLES:
        title, _, body = text.partition("\n")
        passage = Passage("p", "d", "x", title, 0, "paragraph", "", body, 1, 1, [], 50)
        found, unusable = questions_of("\n".join(examples), "stop", passage, 3)
        assert (found, dict(unusable)) == ([], {"example": 3})
        assert len(conversation(passage, 2)[2]["content"].splitlines()) == 2


def test_passages_are_spread_evenly_over_documents(tmp_path: Path, in_process) -> None:
    body = " ".join(SENTENCES)
    rows = [{"_id": f"d{n}", "title": f"Title {n}", "text": "\n\n".join([body] * (1 + n))} for n in range(3)]
    rows.append({"_id": "short", "text": "Too short to ask about."})
    rows.append({"_id": "list", "title": "Biology > Bees > References", "text": " ".join(SENTENCES[:6])})
    index(write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "c")
    retriever = Retriever(tmp_path / "c")
    everything = sampling.sample(retriever, None, seed=0)
    sizes = Counter(passage.document for passage in everything)
    assert set(sizes) == {"d0", "d1", "d2"}
    assert sizes["d0"] + 2 <= sizes["d2"]
    for limit in range(1, len(everything)):
        chosen = sampling.sample(retriever, limit, seed=0)
        assert chosen == everything[:limit]
        counts = Counter(passage.document for passage in chosen)
        most = max(counts.values())
        assert all(counts[name] >= min(most - 1, sizes[name]) for name in sizes)
    assert len({passage.passage_id for passage in everything}) == len(everything)
    assert sampling.sample(retriever, None, seed=1) != everything


def test_questions_find_their_passages_and_are_accounted_for(tmp_path, root, in_process, short_passages) -> None:
    def write(text: str) -> str:
        if "Octopuses" in text:
            return "Octopuses are clever."
        if "Glaciers" in text:
            return "Have the Alps anything to do with Greek texts that monks copied?"  # finds the monks
        if "Comets" in text or "Europa" in text:
            return "Why do comets near Europa lose dust?"
        return _question(text)

    out = tmp_path / "pairs.jsonl"
    card = write_questions(root, out, Scripted(write), QuestionSettings(round_trip=1))
    counts = card["counts"]
    assert (counts["passages"], counts["no_question"], counts["duplicate"]) == (len(SENTENCES), 1, 1)
    assert counts["passage_not_found"] in (1, 2)  # of the comets and Europa only one was kept as no duplicate
    assert counts["written"] == len(SENTENCES) - 2 - counts["passage_not_found"]
    pairs = read_pairs([out], held_out=0.0).training
    assert len(pairs) == counts["written"] == card["documents"]
    for pair in pairs:
        assert pair.positive == SENTENCES[int(pair.document[1:])]
        assert pair.source == "c/question"
    assert not {SENTENCES[3], SENTENCES[12]} & {pair.positive for pair in pairs}
    assert yaml.safe_load((tmp_path / "pairs.data_card.yaml").read_text()) == card
    assert card["generator"] == {"spec": "scripted"}
    assert card["licences"] == {"unknown": len(pairs)}


def test_an_interrupted_command_asks_only_what_is_left(tmp_path, root, in_process, short_passages) -> None:
    settings = QuestionSettings(limit=12, per_passage=2)
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    write_questions(root, whole, Scripted(_question), settings)

    def stop(unit: str, done: int, _total: int) -> None:
        if (unit, done) == ("passages", 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_questions(root, out, Scripted(_question), QuestionSettings(limit=20, per_passage=2), say=stop)
    with pytest.raises(UserError, match="other inputs or settings"):
        write_questions(root, out, Scripted(_question), QuestionSettings(limit=12, per_passage=1))
    rest = Scripted(_question)
    write_questions(root, out, rest, settings)
    assert len(rest.asked) == 7
    assert sorted(tmp_path.glob("out.*")) == [tmp_path / "out.data_card.yaml", out]
    assert out.read_bytes() == whole.read_bytes()
    silent = Scripted(_question)
    write_questions(root, out, silent, settings)
    assert not silent.asked


def test_leaving_ends_what_is_being_written() -> None:
    writing = threading.Barrier(3)
    closed = []

    class Endless:
        spec, capable = "endless", True

        def stream(self, messages: list[Message], max_tokens: int) -> TokenStream:
            cancellation, over = Cancellation(), threading.Event()
            cancellation.on_cancel(over.set)

            def pieces() -> Iterator[Piece]:
                if messages[0]["content"] == "0":
                    yield Piece("done", "stop")
                    return
                writing.wait(60)
                over.wait(60)
                closed.append(over.is_set())
                yield Piece("")

            return TokenStream(pieces(), self.spec, cancellation)

    asked = ([{"role": "user", "content": str(number)}] for number in range(9))
    stream = replies(Endless(), asked, 10, concurrency=2)
    # The first reply is handed out when more are under way; two threads then wait within theirs.
    assert next(stream).text == "done"
    writing.wait(60)
    stream.close()
    assert closed == [True, True]


def test_ctrl_c_says_how_to_go_on(tmp_path, hiperrag, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(questions, "write_questions", interrupted)
    status, _, errors = hiperrag("train", "questions", "c", "--out", tmp_path / "out.jsonl")
    assert status == 130
    assert f"hiperrag train questions c --out {tmp_path / 'out.jsonl'}" in errors[-1]


def test_wrong_inputs_are_one_line(tmp_path, root, hiperrag, in_process, monkeypatch) -> None:
    out = tmp_path / "out.jsonl"

    def message(*arguments: object) -> str:
        status, _, errors = hiperrag("train", "questions", *arguments, "--quiet")
        assert status == 2, errors
        assert len(errors) == 1, errors
        return errors[0]

    assert "no such collection" in message(tmp_path / "none", "--out", out)
    assert "--per-passage 4" in message(root, "--out", out, "--per-passage", 4)
    assert "not a known form" in message(root, "--out", out, "--generator", "magic")

    def gone(_text: str) -> str:
        raise UnavailableError("openai: the server is gone")

    monkeypatch.setattr(questions, "load_generator", lambda spec: Scripted(gone))
    assert "long enough" in message(root, "--out", out)
    monkeypatch.setattr(sampling, "FEWEST_TOKENS", 5)
    assert "the server is gone" in message(root, "--out", out)
    monkeypatch.setattr(questions, "load_generator", lambda spec: Scripted(lambda _: "Hm."))
    assert "try another --generator" in message(root, "--out", out)
    assert not out.exists()
