"""Small models and readers for the tests of evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
_MODELS: dict[str, Any] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen": (Qwen2ForCausalLM, Qwen2Config, {}),
    "gemma": (Gemma3ForCausalLM, Gemma3TextConfig, {"head_dim": 8, "sliding_window": 8}),
}


def tiny_model(folder: Path, kind: str = "llama", window: int = 256) -> Path:
    """A random model with a byte-pair tokenizer, in a transformers folder."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"]
    )
    tokenizer.train_from_iterator(["Question: what is the answer to the question? Answer: blood vessels"] * 20, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    model, config, more = _MODELS[kind]
    torch.manual_seed(7)
    sizes = _SIZES | {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": window}
    made = model(config(**sizes, num_key_value_heads=2, pad_token_id=1, bos_token_id=0, eos_token_id=1, **more))
    made.save_pretrained(folder)
    return folder


class Reader:
    """A generator that knows nothing and reads well: the one option that its passages name, else the letter A."""

    spec, capable = "reader", True

    def stream(self, messages: list[dict[str, str]], max_tokens: int) -> Iterator[str]:
        del max_tokens
        passages, _, asked = messages[-1]["content"].rpartition("Question: ")
        named = [letter for letter, option in re.findall(r"^([A-Z])\. (.+)$", asked, re.M) if option in passages]
        yield named[0] if len(named) == 1 else "A" if not named else "several"
