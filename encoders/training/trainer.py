"""Training: steps over all ranks, checkpoints, and an end that can come at any time."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hiperrag.encoders.config import EncoderConfig, read_config
from hiperrag.encoders.loading import encoder_folder
from hiperrag.encoders.projecting import load_projection
from hiperrag.encoders.training import checkpoints
from hiperrag.encoders.training.backbone import load_model
from hiperrag.encoders.training.batches import Batch, BatchReader
from hiperrag.encoders.training.checkpoints import Checkpoint
from hiperrag.encoders.training.figures import held_out_figures
from hiperrag.encoders.training.losses import Vectors, contrastive_loss, late_interaction_loss
from hiperrag.encoders.training.model import (
    Encoding,
    TextReader,
    TrainedEncoder,
    starting_projection,
)
from hiperrag.encoders.training.pairs import Pair
from hiperrag.encoders.training.ranks import Ranks
from hiperrag.encoders.training.sampling import Order
from hiperrag.encoders.training.settings import TrainSettings
from hiperrag.errors import UserError
from hiperrag.files import fingerprint
from hiperrag.models import weights_hash

_CACHE_ABOVE = 256
"""Rows of a rank above which activations are not kept."""
_PROJECTION_SAMPLE = 128
"""Passages that the token projection's start is computed from."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepReport:
    """One step: its number (from 1), how many there are, its loss per row, and rows a second since the start."""

    step: int
    steps: int
    loss: float
    rows_per_second: float
    seconds_left: float


@dataclasses.dataclass(frozen=True, slots=True)
class Stops:
    """When to end early: at a moment of `time.monotonic()`, or when `asked` says so. Every rank may be asked."""

    deadline: float | None = None
    asked: Callable[[], bool] = lambda: False


class Trainer:
    """One rank's part of a training run. Ranks do the same steps on shares of the same batches."""

    def __init__(self, settings: TrainSettings, pairs: list[Pair], out: Path, ranks: Ranks) -> None:
        self.settings, self.ranks, self._out = settings, ranks, out
        self.folder = encoder_folder(settings.base)
        self.config = encoder_config(self.folder, settings)
        n_blocks = settings.batch // settings.block_rows
        if ranks.size > n_blocks:
            raise UserError(
                f"{ranks.size} processes and {n_blocks} blocks of {settings.block_rows} rows in a batch: "
                f"each needs one; use a larger --batch, a smaller --block, or fewer processes"
            )
        self.identity = fingerprint(
            settings.model_dump_json(), weights_hash(self.folder), [pair.model_dump_json() for pair in pairs]
        )
        self._chunk = settings.chunk_tokens or _chunk_tokens(ranks.device)
        self._reader = TextReader(self.folder, self.config, settings.query_tokens, settings.passage_tokens)
        self._batches = BatchReader(pairs, self._reader, settings)
        self.encoder = self._new_encoder(pairs)
        self._parameters = {name: p for name, p in self.encoder.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise UserError("nothing is trained: every layer is frozen")
        self._order = Order([pair.source for pair in pairs], settings.batch, settings.block_rows, settings.seed)
        self.steps = settings.steps or max(1, round(settings.epochs * self._order.steps_per_epoch))
        self._optimizer, self._schedule = self._new_optimizer()
        self._done = 0
        self.losses: list[float] = []

    def run(self, report: Callable[[StepReport], None], stops: Stops) -> bool:
        """Train from the newest checkpoint to the end; False where a stop came first (what was done is kept)."""
        self._resume()
        start, first, slowest = time.monotonic(), self._done, 0.0
        while self._done < self.steps:
            begun = time.monotonic()
            loss, stop = self.step(stops, slowest)
            slowest = max(slowest, time.monotonic() - begun)
            self.losses.append(loss)
            if not math.isfinite(loss):
                raise UserError(f"step {self._done}: the loss is {loss}; lower --learning-rate")
            rate = (self._done - first) / (time.monotonic() - start)
            report(
                StepReport(self._done, self.steps, loss, rate * self.settings.batch, (self.steps - self._done) / rate)
            )
            if stop or self._done % self.settings.save_every == 0 or self._done == self.steps:
                self._save()
            if stop and self._done < self.steps:
                return False
        return True

    def step(self, stops: Stops, slowest: float = 0.0) -> tuple[float, bool]:
        """One step: its mean loss, and whether any rank has to end. `slowest`: seconds of the slowest step so far."""
        loss = self.gradients(self._done)
        nn.utils.clip_grad_norm_(self._parameters.values(), self.settings.clip)
        self._optimizer.step()
        self._schedule.step()
        self._done += 1
        late = stops.deadline is not None and time.monotonic() + 2 * slowest > stops.deadline
        stop = torch.tensor([float(late or stops.asked())], device=self.ranks.device)
        self.ranks.sum([stop])
        return loss, bool(stop > 0)

    def gradients(self, step: int) -> float:
        """Put the gradients of the step's whole batch into the parameters, on every rank; its mean loss."""
        settings, ranks = self.settings, self.ranks
        self.encoder.zero_grad(set_to_none=True)
        batch = self._batches.read(self._order.rows(step), ranks)
        cache = settings.cache_gradients
        # Dropout has to differ between ranks and steps, and needs no other state than this.
        seed = (settings.seed * 1_000_003 + step) * 65_537 + ranks.rank
        encoding = Encoding(
            self.encoder,
            batch.texts,
            self._chunk,
            seed,
            training_precision(settings, ranks.device),
            len(batch.rows) > _CACHE_ABOVE if cache is None else cache,
        )
        loss = batch_loss(encoding.vectors, batch, self.encoder.temperatures, settings, ranks)
        loss.backward()  # type: ignore[no-untyped-call]
        encoding.backward()
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        total = loss.detach().reshape(1)
        ranks.sum([total, *(p.grad for p in self._parameters.values() if p.grad is not None)])
        return float(total)

    def figures(self, pairs: list[Pair]) -> dict[str, dict[str, float]]:
        """See `hiperrag.encoders.training.figures`."""
        precision = training_precision(self.settings, self.ranks.device)
        return held_out_figures(self.encoder, self._reader, pairs, self._chunk, precision)

    def _new_encoder(self, pairs: list[Pair]) -> TrainedEncoder:
        settings = self.settings
        model = load_model(self.folder, settings, self.ranks.device)
        model.train()
        projection = load_projection(self.folder, self.config)
        temperatures = settings.late_temperature, settings.contrastive_temperature
        encoder = TrainedEncoder(model, self.config.pooling, projection, temperatures).to(self.ranks.device)
        encoder.log_temperatures.requires_grad_(settings.learn_temperature)
        if settings.dim is not None and (projection is None or settings.dim < len(projection)):
            sample = pairs[:: max(1, len(pairs) // _PROJECTION_SAMPLE)][:_PROJECTION_SAMPLE]
            texts = self._reader.passages([pair.positive for pair in sample])
            start = starting_projection(encoder, texts, settings.dim, self._chunk)
            whole = start if projection is None else start @ projection
            encoder.projection = nn.Parameter(whole.to(self.ranks.device))
        return encoder

    def _new_optimizer(self) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
        settings = self.settings
        groups: dict[float, list[Tensor]] = {}
        for name, parameter in self._parameters.items():
            rate = settings.rate if name.startswith("model.") else settings.projection_rate
            groups.setdefault(rate, []).append(parameter)
        # The fused kernel is the fastest on GPUs; the plain one gives the same bits on every run on CPU.
        optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": rate} for rate, parameters in groups.items()],
            weight_decay=settings.weight_decay,
            foreach=False,
        )
        rising = max(1, round(settings.warmup * self.steps))

        def factor(step: int) -> float:
            return min((step + 1) / rising, max(0.0, (self.steps - step) / max(1, self.steps - rising)))

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def _save(self) -> None:
        if self.ranks.first:
            state = Checkpoint(
                self.identity,
                self._done,
                {name: parameter.detach().cpu() for name, parameter in self._parameters.items()},
                {"optimizer": self._optimizer.state_dict(), "schedule": self._schedule.state_dict()},
                self.losses,
            )
            checkpoints.save(self._out, state)
        self.ranks.wait()

    def _resume(self) -> None:
        found = checkpoints.newest(self._out, self.identity)
        if found is None:
            return
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(found.parameters[name])
        self._optimizer.load_state_dict(found.optimizer["optimizer"])
        self._schedule.load_state_dict(found.optimizer["schedule"])
        self._done, self.losses = found.step, found.losses


def batch_loss(vectors: Vectors, batch: Batch, temperatures: Tensor, settings: TrainSettings, ranks: Ranks) -> Tensor:
    """This rank's share of the batch's mean loss; over all ranks they add up to it."""
    late_temperature, contrastive_temperature = temperatures
    late = contrastive = vectors.pooled.new_zeros(())
    parts = [batch.block(number, vectors) for number in range(batch.n_blocks)]
    if settings.loss != "contrastive":
        for queries, passages, labels in parts:
            late = late + late_interaction_loss(queries, passages, labels, late_temperature, settings.distillation)
    if settings.loss != "late" and not settings.gather:
        for queries, passages, labels in parts:
            rows = slice(0, len(labels.rows))
            contrastive = contrastive + contrastive_loss(
                queries.pooled, passages.pooled, labels, contrastive_temperature, rows, settings.negatives
            )
    elif settings.loss != "late":
        pooled, labels = batch.gathered(vectors.pooled, ranks)
        mine, rows = vectors.pooled[: len(batch.rows)], batch.rows_in_batch
        contrastive = contrastive_loss(mine, pooled, labels, contrastive_temperature, rows, settings.negatives)
    total = (late + contrastive) / (2 if settings.loss == "coltrast" else 1)
    return total / settings.batch


def encoder_config(folder: Path, settings: TrainSettings) -> EncoderConfig:
    """The base folder's encoder settings with what the training changes."""
    config = read_config(folder)
    if config.base is not None:
        raise UserError(f"{folder} is an adapter; give its base model, {config.base}")
    given = {name: getattr(settings, name) for name in ("query_prefix", "passage_prefix", "pooling")}
    return config.model_copy(update={name: value for name, value in given.items() if value is not None})


def training_precision(settings: TrainSettings, device: torch.device) -> torch.dtype:
    """The type that matrices are multiplied in."""
    if settings.precision != "auto":
        return torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    features: Any = torch.cpu
    fast = any(
        getattr(features, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return torch.bfloat16 if fast else torch.float32


def _chunk_tokens(device: torch.device) -> int:
    return 32_768 if device.type == "cuda" else 4_096 * torch.get_num_threads()
