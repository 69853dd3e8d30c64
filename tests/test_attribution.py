"""Attribution against brute force on a model whose sequences can all be written out, and on planted facts."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from answering_helpers import make_hits
from chat_helpers import Retriever

from hiperrag.answering import generators, retrieval
from hiperrag.answering.attribution import Attribution, attribute
from hiperrag.answering.generators.base import Message
from hiperrag.answering.generators.local import LocalGenerator
from hiperrag.answering.generators.remote_scoring import score_remotely
from hiperrag.answering.generators.scoring import CannotScoreError, TokenScore, score_tokens
from hiperrag.answering.marginalisation import marginalise
from hiperrag.answering.prompts import answer_messages
from hiperrag.errors import UserError

WORDS = ["red", "green", "blue", "iron", "zinc", "melts"]
TEXTS = ["red iron melts", "green zinc", "blue blue zinc", "iron melts red"]
QUESTION = "iron zinc"


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> LocalGenerator:
    """A random model of two layers that knows eight tokens, in double precision."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("toy")
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(["[UNK]", "[END]", *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[END]").save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.7,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    generator = LocalGenerator(folder, "hf:toy")
    generator.model.double()
    return generator


def all_sequences(toy: LocalGenerator, beginning: list[int], length: int) -> dict[tuple[int, ...], float]:
    """The probability of every sequence of `length` tokens after `beginning`, each passed through the model whole."""
    sequences = list(itertools.product(range(8), repeat=length))
    ids = torch.tensor([[*beginning, *sequence] for sequence in sequences])
    with torch.inference_mode():
        p = toy.model(input_ids=ids, use_cache=False, logits_to_keep=length + 1).logits[:, :-1].softmax(-1)
    chosen = p.gather(2, ids[:, -length:, None])[:, :, 0].prod(1)
    return dict(zip(sequences, chosen.tolist(), strict=True))


def prompt_ids(toy: LocalGenerator, without: Sequence[int] = ()) -> list[int]:
    text = toy.prompt(answer_messages(QUESTION, make_hits(TEXTS), without=without))
    return list(toy.tokenizer(text)["input_ids"])


def test_effects_entropies_and_groups_equal_brute_force(toy: LocalGenerator) -> None:
    sentences = ["red iron [1]", "zinc melts [2]"]
    found = attribute(QUESTION, make_hits(TEXTS), sentences, toy)
    answer = tuple(toy.tokenizer("red iron zinc melts")["input_ids"])
    joint = {
        some: all_sequences(toy, prompt_ids(toy, some), 2)
        for some in [(), (1,), (2,), (3,), (4,), (1, 4), (1, 2, 3, 4)]
    }
    second = {some: all_sequences(toy, [*prompt_ids(toy, some), *answer[:2]], 2) for some in joint}
    for one, tables, part in zip(found.sentences, (joint, second), (answer[:2], answer[2:]), strict=True):
        assert math.isclose(sum(tables[()].values()), 1.0, abs_tol=1e-9)
        log_p = {some: math.log(tables[some][part]) for some in joint}
        assert one.log_p == pytest.approx(log_p[()], abs=1e-6)
        assert one.log_p_no_context == pytest.approx(log_p[(1, 2, 3, 4)], abs=1e-6)
        for single in one.passages:
            assert single.effect == pytest.approx(log_p[()] - log_p[single.ns], abs=1e-6)
        assert (1, 4) in [group.ns for group in one.groups]
        for group in one.groups:
            if group.ns in log_p:
                assert group.effect == pytest.approx(log_p[()] - log_p[group.ns], abs=1e-6)
        for place, token in enumerate(one.tokens):
            following = [0.0] * 8
            for sequence, p in tables[()].items():
                if sequence[:place] == part[:place]:
                    following[sequence[place]] += p
            whole = sum(following)
            entropy = -sum(p / whole * math.log(p / whole) for p in following)
            assert token.entropy == pytest.approx(entropy, abs=1e-6)
            assert token.log_p == pytest.approx(math.log(following[part[place]] / whole), abs=1e-6)
    assert "".join(token.text for one in found.sentences for token in one.tokens) == "red iron zinc melts"


def test_a_marginalised_token_equals_the_sum_over_all_sequences(toy: LocalGenerator) -> None:
    """p(response | prompt without token) from the joint distribution of every (token, rest, response)."""
    beginning, rest, response = [2, 5, 3], [4], [6, 2]
    joint = all_sequences(toy, beginning, 1 + len(rest) + len(response))
    actual = 5
    of_rest = {v: sum(p for s, p in joint.items() if s[0] == v and s[1:2] == tuple(rest)) for v in range(8)}
    of_both = {v: joint[(v, *rest, *response)] for v in range(8)}
    posterior = [of_rest[v] / sum(of_rest.values()) for v in range(8)]
    effect = math.log(of_both[actual] / of_rest[actual]) - math.log(sum(of_both.values()) / sum(of_rest.values()))
    prompt = [*beginning, actual, *rest]
    [exact] = marginalise(toy.model, prompt, response, [3], alternatives=8)
    assert exact.effect == pytest.approx(effect, abs=1e-6)
    assert exact.entropy == pytest.approx(-sum(p * math.log(p) for p in posterior), abs=1e-6)
    assert exact.mass == pytest.approx(1.0, abs=1e-6)
    [short] = marginalise(toy.model, prompt, response, [3], alternatives=2)
    likely = {actual, *sorted(range(8), key=lambda v: -sum(p for s, p in joint.items() if s[0] == v))[:2]}
    kept = math.log(sum(of_both[v] for v in likely) / sum(of_rest[v] for v in likely))
    assert short.effect == pytest.approx(math.log(of_both[actual] / of_rest[actual]) - kept, abs=1e-6)
    assert short.mass < 1


def test_long_beginnings_pass_in_steps(toy: LocalGenerator, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(0, 8, (n,), generator=generator).tolist() for n in (40, 23, 31)]
    pairs = [(texts[0][:30], texts[2]), (texts[0], texts[2]), (texts[1], texts[2]), (texts[0], texts[2])]
    whole = {i: (scores, entropies) for i, scores, entropies in score_tokens(toy.model, pairs)}
    monkeypatch.setattr("hiperrag.answering.generators.scoring.STEP", 7)
    stepped = {i: (scores, entropies) for i, scores, entropies in score_tokens(toy.model, pairs)}
    assert sorted(whole) == [0, 1, 2, 3]
    for i, (scores, entropies) in whole.items():
        assert stepped[i][0] == pytest.approx(scores, abs=1e-9)
        assert stepped[i][1] == pytest.approx(entropies, abs=1e-9)
    assert whole[1] == whole[3] != whole[0]


class Copier:
    """Finds a word of the answer likely where a passage has it, by the number of passages that do."""

    spec = "copier"
    capable = True

    def stream(self, messages: list[Message], max_tokens: int) -> Iterator[str]:
        raise AssertionError("attribution generates nothing")

    def score_answers(
        self, conversations: Sequence[list[Message]], answer: str
    ) -> Iterator[tuple[int, list[TokenScore]]]:
        for i, messages in reversed(list(enumerate(conversations))):
            words = messages[-1]["content"].rpartition("Question:")[0].split()
            end, tokens = 0, []
            for word in answer.split():
                end = answer.index(word, end) + len(word)
                tokens.append(TokenScore(word, end, 0.0 if word.strip(".") in words else -5.0, None))
            yield i, tokens


def ranked(texts: Sequence[str], *sentences: str) -> Attribution:
    return attribute("Which?", make_hits(texts), sentences, Copier())


def test_duplicates_are_one_cause_and_unrelated_passages_are_not() -> None:
    fact = "The zorvanite crystal melts at 412 kelvin in sealed pans"
    texts = ["Corals bleach when warm .", fact, "Terns migrate far .", f"As said before , {fact}", "Bees dance ."]
    found = ranked(texts, f"{fact} [2].", "Terns migrate far [3].")
    first, second = found.sentences
    assert [one.effect for one in first.passages] == [0.0] * 5  # each copy makes up for the other
    assert [(group.ns, group.effect) for group in first.groups] == [((2, 4), 50.0)]
    assert (first.causes[0].ns, [one.ns for one in first.causes[1:]]) == ((2, 4), [(1,), (3,), (5,)])
    assert second.causes[0].ns == (3,)
    assert second.log_p_no_context == second.log_p - second.causes[0].effect
    shown = found.to_json()["sentences"][0]
    assert shown["passages"][3] == {"n": 4, "passage_id": "p4", "effect": 0.0}
    assert shown["entropy"] is None


def test_passages_that_differ_in_a_number_are_no_duplicates() -> None:
    texts = ["The zorvanite crystal melts at 412 kelvin", "The zorvanite crystal melts at 618 kelvin"]
    [found] = ranked(texts, "The zorvanite crystal melts at 412 kelvin [1].").sentences
    assert found.groups == []
    assert found.causes[0].ns == (1,)


def test_a_group_that_does_no_more_than_its_members_is_no_cause() -> None:
    [found] = ranked(["alpha beta gamma", "delta epsilon zeta"], "alpha beta gamma delta epsilon zeta").sentences
    assert [(group.ns, group.effect) for group in found.groups] == [((1, 2), 30.0)]
    assert [(one.ns, one.effect) for one in found.causes] == [((1,), 15.0), ((2,), 15.0)]


def test_what_cannot_be_attributed_is_said() -> None:
    class Mute:
        spec = "mute"
        capable = True

        def stream(self, messages: list[Message], max_tokens: int) -> Iterator[str]:
            yield ""

    with pytest.raises(UserError, match="no log-probabilities"):
        attribute("Which?", make_hits(TEXTS), ["red."], Mute())
    with pytest.raises(UserError, match="nothing to attribute"):
        ranked([], "red.")
    with pytest.raises(UserError, match="nothing to attribute"):
        ranked(TEXTS, "[1]")


def test_a_prompt_beyond_the_window_is_refused(toy: LocalGenerator) -> None:
    with pytest.raises(UserError, match="the generator takes 1024; ask for fewer passages"):
        attribute(QUESTION, make_hits(["red iron " * 600]), ["red."], toy)


def test_an_attribution_can_be_stopped(toy: LocalGenerator) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total > 2
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        attribute(QUESTION, make_hits(TEXTS), ["red iron."], toy, stop)


class Writer(Copier):
    """Answers with the second passage; one of its words is elsewhere too."""

    def stream(self, messages: list[Message], max_tokens: int) -> Iterator[str]:
        yield "Male humpback whales sing for hours [2]."


@pytest.fixture
def ask(monkeypatch, hiperrag):
    """`hiperrag ask` over stand-ins: the arguments to what is printed."""
    monkeypatch.setattr(retrieval, "Retriever", Retriever)
    monkeypatch.setattr(Retriever, "timings_ms", {"encode": 1.0, "search": 1.0, "fetch": 1.0}, raising=False)
    monkeypatch.setattr(generators, "load_generator", lambda spec: Writer())

    def run(*arguments: str) -> str:
        status, output, errors = hiperrag("ask", "papers", "What do whales do?", *arguments)
        assert status == 0, errors
        return str(output)

    return run


def test_ask_shows_a_bar_for_each_passage(ask) -> None:
    lines = ask("--attribute").splitlines()
    at = lines.index("Male humpback whales sing for hours [2].", 1)
    assert lines[at + 1].split() == ["[1]", "+0.00"]
    assert lines[at + 2].split() == ["[2]", "█" * 24, "+25.00", "←", "most"]
    assert lines[at + 3].split() == ["[3]", "+0.00"]
    assert lines[at + 4] == "  all passages together +25.00 (log p -5.00)"
    assert "+25.00" not in ask()


def test_ask_prints_the_attribution_as_json(ask) -> None:
    whole = json.loads(ask("--attribute", "--json"))
    [sentence] = whole["attribution"]["sentences"]
    assert sentence["causes"][0] == {"ns": [2], "effect": 25.0}
    assert whole["citations"][0]["n"] == 2
    assert "attribution" not in json.loads(ask("--json"))


class Server:
    """A server whose tokens are those of `cut`, each likelier where the prompt has it already."""

    def __init__(self, chat: bool, text: bool) -> None:
        self._chat, self._text = chat, text

    def __call__(self, path: str, body: dict[str, Any]) -> Any:
        if path == "chat/completions":
            if not self._chat:
                raise UserError("answered 400: unknown parameter prompt_logprobs")
            *before, last = body["messages"]
            assert body["continue_final_message"]
            assert last["role"] == "assistant"
            prompt = "".join(f"<{one['role']}>{one['content']}" for one in before) + "<assistant>"
            tokens = self.scored(prompt, last["content"])
            listed = [
                {"7": {"logprob": p, "decoded_token": t}, "8": {"logprob": 0.0, "decoded_token": "x"}}
                for t, p in tokens
            ]
            return {"prompt_logprobs": [None, *listed]}
        assert path == "completions"
        if not self._text:
            return {"choices": [{"text": "", "logprobs": None}]}
        beginning, _, answer = body["prompt"].rpartition("\n\n")
        tokens = [*self.scored(f"{beginning}\n\n", answer), (" more", -1.0)]
        starts = list(itertools.accumulate([len(text) for text, _ in tokens], initial=0))[:-1]
        scores = [None, *(p for _, p in tokens[1:])]
        return {"choices": [{"logprobs": {"text_offset": starts, "token_logprobs": scores}}]}

    def scored(self, prompt: str, answer: str) -> list[tuple[str, float]]:
        known = set(re.findall(r"\w+", prompt))
        return [(t, -0.5 if t.strip() in known else -4.0) for t in re.findall(r"\s*\w+|\s*\W", prompt) + cut(answer)]


def cut(answer: str) -> list[str]:
    """Words; a dash is two tokens that are no characters by themselves."""
    return [
        piece for word in re.findall(r" ?\w+|\W", answer) for piece in (["\ufffd", "\ufffd"] if word == "–" else [word])
    ]


@pytest.mark.parametrize(("chat", "text"), [(True, False), (False, True)])
def test_servers_that_give_log_probabilities_of_prompts(chat: bool, text: bool) -> None:
    conversations = [answer_messages(QUESTION, make_hits(TEXTS), without=some) for some in ((), (2,), (1, 2, 3, 4))]
    answer = "zinc is green." if text else "–zinc–green–"
    found = dict(score_remotely(Server(chat, text), "tiny", conversations, answer))
    assert sorted(found) == [0, 1, 2]
    sums = [sum(token.log_p for token in found[i]) for i in range(3)]
    assert sums[0] == sums[1] + 3.5  # "green" is in passage 2 alone
    assert {token.entropy for tokens in found.values() for token in tokens} == {None}
    assert [token.end for token in found[0]] == ([4, 7, 13, 14] if text else [1, 1, 5, 6, 6, 11, 12, 12])


def test_servers_without_them_are_refused() -> None:
    conversations = [answer_messages(QUESTION, make_hits(TEXTS))]
    with pytest.raises(CannotScoreError, match="no log-probabilities"):
        list(score_remotely(Server(False, False), "tiny", conversations, "zinc"))


@pytest.mark.slow
def test_planted_facts_are_found_by_the_default_generator(models: dict[str, Path]) -> None:
    from hiperrag.answering.generators import load_generator
    from hiperrag.benchmarks.planted_facts import planted_questions

    generator = load_generator("default")
    for planted in planted_questions(3, seed=11):
        found = attribute(planted.question, planted.hits, [planted.answer], generator)
        assert found.sentences[0].causes[0].ns == (planted.n,)
