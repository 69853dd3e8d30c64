"""What tests of training share: tiny random models, tokenizers and pairs, made on the fly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, MistralConfig, MistralModel, ModernBertConfig, ModernBertModel

from hiperrag.encoders.training.pairs import Pair
from hiperrag.encoders.training.ranks import Ranks
from hiperrag.encoders.training.settings import TrainSettings
from hiperrag.encoders.training.trainer import Trainer

WORDS = [f"w{number:03d}" for number in range(180)]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "."]
_SIZES: dict[str, Any] = {
    "vocab_size": len(_SPECIAL) + len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def tiny_model(folder: Path, kind: str = "bert") -> Path:
    """A random model of two layers with its tokenizer in `folder`."""
    torch.manual_seed(1)
    if kind == "bert":
        model: Any = BertModel(BertConfig(**_SIZES))
    elif kind == "modernbert":
        sizes = _SIZES | {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        model = ModernBertModel(ModernBertConfig(**sizes, global_attn_every_n_layers=2, local_attention=16))
    else:
        model = MistralModel(MistralConfig(**_SIZES, num_key_value_heads=2, sliding_window=None, head_dim=8))
    # Random models map all texts to nearly one vector; wider embeddings keep them apart.
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
    model.save_pretrained(folder)
    vocabulary = {token: number for number, token in enumerate([*_SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(_SPECIAL[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]", '
        '"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}'
    )
    return folder


def made_pairs(count: int = 40, negatives: int = 0, seed: int = 0, sources: Sequence[str] = ("a",)) -> list[Pair]:
    """Queries of 3 to 8 words and passages of 6 to 30 that share three of them."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        query = draw.sample(WORDS, draw.randint(3, 8))

        def passage(words: list[str]) -> str:
            filler = draw.choices(WORDS, k=draw.randint(3, 27))
            return " ".join(draw.sample([*words, *filler], len(words) + len(filler))) + ", w000."

        pairs.append(
            Pair(
                query=" ".join(query),
                positive=passage(query[:3]),
                negatives=tuple(passage([]) for _ in range(negatives)),
                teacher_scores=tuple(draw.uniform(0, 5) for _ in range(1 + negatives)) if negatives else None,
                source=sources[number % len(sources)],
                licence="CC0",
                document=f"d{number}",
            )
        )
    return pairs


def tiny_settings(base: Path, **changes: Any) -> TrainSettings:
    """Quick settings on the tiny model."""
    values = {"base": str(base), "batch": 8, "block": 4, "dim": 16, "chunk_tokens": 200, "rank": 4, "save_every": 2}
    return TrainSettings(**(values | {"precision": "float32", "steps": 4, "passage_tokens": 40} | changes))


def trainer(settings: TrainSettings, pairs: list[Pair], out: Path, ranks: Ranks | None = None) -> Trainer:
    """A trainer whose LoRA matrices are not zero, so that every gradient counts."""
    made = Trainer(settings, pairs, out, ranks or Ranks())
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in made.encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return made


def gradients_of(made: Trainer, step: int = 0) -> dict[str, torch.Tensor]:
    """All gradients of one step."""
    made.gradients(step)
    return {name: p.grad.clone() for name, p in made.encoder.named_parameters() if p.grad is not None}
