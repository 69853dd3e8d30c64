"""Generators in int8, and the scoring of options over what prompts have in common."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from eval_helpers import tiny_model

from hiperrag.answering.generators import load_generator
from hiperrag.answering.generators.int8 import Int8Projection
from hiperrag.answering.generators.local import LocalGenerator
from hiperrag.benchmarks.evaluation.likelihood import OptionScorer
from hiperrag.encoders.linear import int8_is_exact
from hiperrag.errors import UserError

exact = pytest.mark.skipif(not int8_is_exact(), reason="this machine has no exact int8 arithmetic")

QUESTION = "Question: what carries the blood through the body?\nAnswer:"
OPTIONS = [" vessels", " blood vessels of the body", " the answer", " question"]
PASSAGES = ["The heart drives blood through vessels. ", "Vessels of the body are arteries, veins and the rest. "]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HIPERRAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@exact
def test_a_projection_is_close_and_float_columns_take_the_outliers():
    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 256)
    x = torch.randn(40, 256)
    x[:, 7] *= 300
    exact_y = linear(x).detach()
    errors = [
        float((Int8Projection(linear, torch.tensor(columns, dtype=torch.long))(x) - exact_y).norm() / exact_y.norm())
        for columns in ([7], [8])
    ]
    assert errors[0] < 5e-4
    assert errors[1] > 3 * errors[0]


@exact
def test_a_rotation_spreads_large_values():
    torch.manual_seed(0)
    linear = torch.nn.Linear(384, 64)
    x = torch.randn(40, 384)
    x[torch.arange(40), torch.randint(384, (40,))] = 40.0
    wanted = linear(x).detach()
    rotated = Int8Projection(linear, torch.tensor([0, 9]))
    wide = torch.nn.Linear(384, 384)
    with torch.no_grad():
        wide.weight[:64], wide.bias[:64] = linear.weight, linear.bias
        plain = Int8Projection(wide, torch.tensor([0, 9]))
    errors = [float((found - wanted).norm() / wanted.norm()) for found in (rotated(x), plain(x)[:, :64])]
    assert errors[0] < 0.012
    assert errors[1] > 1.5 * errors[0]


@exact
def test_a_token_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    projection = Int8Projection(torch.nn.Linear(96, 48), torch.tensor([3, 50]))
    x = torch.randn(4, 7, 96)
    together = projection(x)
    assert together.shape == (4, 7, 48)
    x[1:] *= 1000
    torch.testing.assert_close(projection(x)[0], together[0])
    torch.testing.assert_close(projection(x[0, 2]), together[0, 2])


@exact
@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
def test_int8_is_close_to_float32(tmp_path, cache, kind):
    folder = tiny_model(tmp_path / kind, kind)
    plain = LocalGenerator(folder, "hf:tiny", precision="float32")
    rounded = LocalGenerator(folder, "hf:tiny:int8", precision="int8")
    assert not any(isinstance(module, torch.nn.Linear) for module in rounded.model.modules())
    prompt = "".join(PASSAGES) + QUESTION
    wanted = OptionScorer(plain).score(prompt, OPTIONS).log_likelihoods
    found = OptionScorer(rounded).score(prompt, OPTIONS).log_likelihoods
    assert found == pytest.approx(wanted, abs=0.05)
    assert found != wanted
    assert rounded.log_likelihood(prompt, OPTIONS) == pytest.approx(plain.log_likelihood(prompt, OPTIONS), abs=0.05)
    messages = [{"role": "user", "content": prompt}]
    assert isinstance("".join(rounded.stream(messages, 4)), str)


@exact
def test_the_columns_are_chosen_once(tmp_path, cache, monkeypatch):
    spec = f"hf:{tiny_model(tmp_path / 'model')}:int8"
    first = load_generator(spec)
    assert first.spec == spec
    assert len(list((cache / "int8").glob("*.json"))) == 1
    monkeypatch.setattr("hiperrag.answering.generators.int8._largest_columns", lambda *_: pytest.fail("again"))
    again = load_generator(spec)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.equal(first.model(ids).logits, again.model(ids).logits)


def test_float32_stands_in_where_int8_is_not_exact(tmp_path, cache, monkeypatch, caplog):
    monkeypatch.setattr("hiperrag.answering.generators.int8.int8_is_exact", lambda: False)
    generator = load_generator(f"hf:{tiny_model(tmp_path / 'model')}:int8")
    assert any(isinstance(module, torch.nn.Linear) for module in generator.model.modules())
    assert "no exact int8" in caplog.text


def test_int8_on_a_gpu_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(UserError, match="int8 is for CPUs"):
        load_generator(f"hf:{tiny_model(tmp_path)}:int8")


def test_a_precision_by_name(tmp_path):
    folder = tiny_model(tmp_path)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        assert load_generator(f"hf:{folder}:{name}").model.dtype == dtype


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize("step", [512, 20])
def test_what_prompts_share_is_read_once_and_changes_nothing(tmp_path, monkeypatch, kind, step):
    monkeypatch.setattr("hiperrag.benchmarks.evaluation.likelihood.STEP", step)
    generator = LocalGenerator(tiny_model(tmp_path, kind), "hf:tiny", precision="float32")
    scorer = OptionScorer(generator)
    prompts = ["".join(PASSAGES[:n]) + QUESTION for n in (1, 2, 0, 2)]
    read: list[int] = []
    generator.model.register_forward_pre_hook(
        lambda _, __, options: read.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    kept = []
    for prompt in prompts:
        read.clear()
        kept.append((scorer.score(prompt, OPTIONS), sum(read)))
    for prompt, (scored, n_read) in zip(prompts, kept, strict=True):
        scorer.forget()
        read.clear()
        alone = scorer.score(prompt, OPTIONS)
        assert scored.log_likelihoods == pytest.approx(alone.log_likelihoods, abs=1e-4)
        assert scored.n_tokens == alone.n_tokens
        assert n_read <= sum(read)
    assert kept[1][1] < sum(read)  # the second prompt begins with the passage of the first


def test_a_common_head_is_read_once_and_questions_are_the_same_in_any_order(tmp_path):
    generator = LocalGenerator(tiny_model(tmp_path), "hf:tiny", precision="float32")
    scorer, plain = OptionScorer(generator), OptionScorer(generator)
    head = "The answer to a question is one of its options. Here is what is known: "
    prompts = [head + passage + QUESTION for passage in (*PASSAGES, "", "Veins. ")]
    n_head = scorer.read_head([head + "Why", head + "How"])
    assert 10 < n_head < len(generator.tokenizer(head)["input_ids"]) + 1

    def ask(order: list[int]) -> dict[int, list[float]]:
        found = {}
        for i in order:
            scorer.forget()
            found[i] = scorer.score(prompts[i], OPTIONS).log_likelihoods
        return found

    first = ask([0, 1, 2, 3])
    shuffled = [0, 1, 2, 3]
    random.Random(1).shuffle(shuffled)
    assert ask(shuffled) == first
    for i, prompt in enumerate(prompts):
        plain.forget()
        assert first[i] == pytest.approx(plain.score(prompt, OPTIONS).log_likelihoods, abs=1e-4)


@exact
@pytest.mark.slow
def test_smollm2_in_int8_ranks_as_in_float32(models):
    """Log-likelihoods within a tenth of a nat a token, and pairs of options ordered alike where they are far apart."""
    plain = LocalGenerator(models["smollm2"], "hf:smollm2", precision="float32")
    rounded = LocalGenerator(models["smollm2"], "hf:smollm2:int8", precision="int8")
    subjects = {
        "The heart pumps blood through": [" the vessels", " the moon", " a stone", " the market"],
        "Water boils when it is": [" heated", " painted", " asleep", " elected"],
        "Plants turn sunlight into": [" energy", " music", " gold", " Tuesday"],
    }
    for prompt, options in subjects.items():
        wanted = OptionScorer(plain).score(prompt, options).log_likelihoods
        found = OptionScorer(rounded).score(prompt, options).log_likelihoods
        assert found == pytest.approx(wanted, abs=0.3)
        assert max(range(4), key=found.__getitem__) == max(range(4), key=wanted.__getitem__)
