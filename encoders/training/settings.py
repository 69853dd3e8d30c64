"""Settings of a training run, kept in settings.yaml beside what it made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hiperrag.errors import UserError, first_mistake
from hiperrag.models import BASE_ENCODER

Method = Literal["lora", "ia3", "qlora", "full"]
Loss = Literal["coltrast", "contrastive", "late"]
METHODS: tuple[Method, ...] = get_args(Method)
LOSSES: tuple[Loss, ...] = get_args(Loss)


class TrainSettings(BaseModel):
    """Everything that shapes the result of a training run; equal settings and pairs give equal results.

    Lengths are in tokens, special tokens and prefix included. What is trained at a length is not a limit on what the
    encoder takes later.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = BASE_ENCODER
    """Packaged model or model folder."""
    method: Method = "lora"
    loss: Loss = "coltrast"
    seed: int = 0

    dim: int | None = Field(default=128, ge=8, le=128)
    """Dimensions of token vectors; None leaves them as the base model has them."""
    query_tokens: int = Field(default=32, ge=3)
    passage_tokens: int = Field(default=128, ge=3)
    query_prefix: str | None = None
    """Put before queries; None: as the base model's folder says."""
    passage_prefix: str | None = None
    pooling: Literal["mean", "cls", "last"] | None = None

    rank: int = Field(default=16, ge=1)
    """Of LoRA's matrices."""
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()
    """Names of the modules that are adapted; empty: all linear layers (LoRA), keys, values and feed-forward (IA3)."""
    freeze_layers: int = Field(default=0, ge=0)
    """The lowest transformer layers that are left as they are; they cost no backward pass."""

    batch: int = Field(default=64, ge=2)
    """Rows of one step, over all ranks."""
    block: int | None = Field(default=None, ge=2)
    """Rows that compete in the late-interaction loss; None: the whole batch, or 64 where it is larger."""
    negatives: int | None = Field(default=None, ge=2)
    """N of min(N, W): positives that a row is compared with in the contrastive loss; None: all W of the batch."""
    gather: bool = True
    """Whether the contrastive loss looks beyond the block."""
    hard_negatives: int = Field(default=1, ge=0)
    """Given negatives used of each row, at most."""
    distillation: float = Field(default=0.0, ge=0, le=1)
    """Share of the late-interaction loss that follows the teacher's scores, where a row has them."""
    late_temperature: float = Field(default=0.05, gt=0)
    contrastive_temperature: float = Field(default=0.05, gt=0)
    learn_temperature: bool = False

    steps: int | None = Field(default=None, ge=1)
    """None: as `epochs` says."""
    epochs: float = Field(default=1.0, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    """None: 2e-4 for LoRA and QLoRA, 3e-3 for IA3, 2e-5 for full fine-tuning."""
    projection_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the token projection."""
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; after that it falls to 0 linearly."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of a step's gradient."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on GPUs that have it and on processors with AMX or AVX512-BF16, else float32."""
    cache_gradients: bool | None = None
    """Encode twice and keep no activations; None: where the batch is larger than 256 rows a rank."""
    chunk_tokens: int | None = Field(default=None, ge=16)
    """Tokens that pass through the model at a time; None: 4,096 a thread on CPU, 32,768 on a GPU."""

    held_out: float = Field(default=0.05, ge=0, lt=1)
    """Share of documents whose pairs are kept out of training."""
    save_every: int = Field(default=200, ge=1)
    """Steps between checkpoints."""

    @model_validator(mode="after")
    def _blocks_fill_the_batch(self) -> TrainSettings:
        if self.batch % self.block_rows:
            raise ValueError(f"a batch of {self.batch} rows cannot be cut into blocks of {self.block_rows}")
        return self

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        if self.block is not None:
            return self.block
        return 64 if self.batch > 64 and self.batch % 64 == 0 else self.batch

    @property
    def rate(self) -> float:
        """Learning rate of the backbone."""
        rates = {"lora": 2e-4, "qlora": 2e-4, "ia3": 3e-3, "full": 2e-5}
        return self.learning_rate or rates[self.method]


def read_settings(file: Path | None, given: dict[str, Any]) -> TrainSettings:
    """Settings of a YAML file, if one is named, with those in `given` in their place. UserError for unusable ones."""
    values: Any = {}
    if file is not None:
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
        if not isinstance(values, dict):
            raise UserError(f"{file} holds no settings: it has to be `name: value` lines")
    try:
        return TrainSettings.model_validate(values | given)
    except ValidationError as error:
        raise UserError(f"training settings: {first_mistake(error)}") from error
