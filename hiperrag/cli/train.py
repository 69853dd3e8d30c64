"""`hiperrag train`: an encoder fine-tuned on pairs of queries and passages, and its exports."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiperrag.cli import train_data
from hiperrag.cli.stopping import NotedStop, exit_status
from hiperrag.errors import UserError
from hiperrag.models import BASE_ENCODER

if TYPE_CHECKING:
    from hiperrag.encoders.training.run import Trained
    from hiperrag.encoders.training.settings import TrainSettings
    from hiperrag.encoders.training.trainer import StepReport

SECONDS_BEFORE_THE_END = 60.0
"""By which a training inside a batch job ends before that."""
_REPORT_SECONDS = 15.0

train = typer.Typer(
    name="train",
    help="Fine-tune an encoder on pairs, make pairs from a collection, or export an encoder to other libraries.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
train.command()(train_data.questions)
train.command()(train_data.mine)


@train.callback(invoke_without_command=True)
def _train(
    context: typer.Context,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="JSON lines (.gz too) or Parquet of query, positive and, where there are, negatives, teacher_scores, "
            "source, licence, document; or text to make pairs of (title, text; or title, abstract, paragraphs). "
            "Again for more files.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the encoder; the same command resumes the training in it."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help=f"Model to start from, packaged or a folder (PyLate's too) [default: {BASE_ENCODER}].",
        ),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Settings to start from; options given override them.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="lora|ia3|qlora|full", help="What is trained [default: lora].")
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="coltrast|contrastive|late",
            help="Both halves, pooled vectors alone, or token vectors alone [default: coltrast].",
        ),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(metavar="N", help="Dimensions of token vectors, at most 128 [default: 128].")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(metavar="mean|cls|last", help="Of the pooled vector [default: the base model's].")
    ] = None,
    query_prefix: Annotated[str | None, typer.Option(metavar="TEXT", help="Put before every query.")] = None,
    passage_prefix: Annotated[str | None, typer.Option(metavar="TEXT", help="Put before every passage.")] = None,
    query_tokens: Annotated[int | None, typer.Option(metavar="N", help="Longest query in training [32].")] = None,
    passage_tokens: Annotated[int | None, typer.Option(metavar="N", help="Longest passage in training [128].")] = None,
    rank: Annotated[int | None, typer.Option(metavar="N", help="Rank of LoRA's matrices [16].")] = None,
    freeze_layers: Annotated[
        int | None, typer.Option(metavar="N", help="Leave the N lowest layers as they are; faster [0].")
    ] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Rows of a step, over all processes [64].")] = None,
    block: Annotated[
        int | None, typer.Option(metavar="N", help="Rows that compete in the late-interaction loss [64].")
    ] = None,
    negatives: Annotated[
        int | None, typer.Option(metavar="N", help="Positives a row is compared with in the contrastive loss [all].")
    ] = None,
    gather: Annotated[
        bool | None, typer.Option("--gather/--no-gather", help="Contrastive loss over the whole batch or the block.")
    ] = None,
    hard_negatives: Annotated[
        int | None, typer.Option(metavar="N", help="Given negatives used of each row, at most [1].")
    ] = None,
    distillation: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the late loss that follows teacher_scores [0].")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="Of both losses, or where a learned one starts [0.05].")
    ] = None,
    learn_temperature: Annotated[
        bool | None, typer.Option("--learn-temperature/--fixed-temperature", help="Train it too.")
    ] = None,
    cache_gradients: Annotated[
        bool | None,
        typer.Option(
            "--cache-gradients/--keep-activations",
            help="Encode twice, in memory that does not grow with the batch [from 256 rows a process].",
        ),
    ] = None,
    epochs: Annotated[float | None, typer.Option(metavar="N", help="Passes over the pairs [1].")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Instead of epochs.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="RATE", help="[LoRA 2e-4, IA3 3e-3, full 2e-5].")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="auto|float32|bfloat16", help="bfloat16 where it is faster [auto].")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of order, split, and first weights [0].")] = None,
    save_every: Annotated[int | None, typer.Option(metavar="N", help="Steps between checkpoints [200].")] = None,
    device: Annotated[str | None, typer.Option(metavar="cpu|cuda", help="Default: a GPU where there is one.")] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads of each process.")] = None,
    site: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.yaml", help="Train on a site's workers, together; see `hiperrag sites`."),
    ] = None,
    walltime: Annotated[
        str | None,
        typer.Option(
            metavar="30m|6h|HH:MM:SS",
            help="Save a checkpoint by then and exit with 0 and the command that resumes. Default: inside a Slurm or "
            "PBS job what is left of it, less a minute; else none.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress display.")] = False,
) -> None:
    """Fine-tune an encoder whose pooled vector finds passages and whose token vectors rank them (ColTrast).

    DIR becomes an encoder for `--encoder DIR`: an adapter of a few MB, settings.yaml, data_card.yaml, held_out.jsonl
    and training.yaml. Run under `torchrun --no-python` or an MPI launcher it trains on all their processes; their
    number may change when a training is resumed. SIGTERM saves a checkpoint first.
    """
    if context.invoked_subcommand is not None:
        return
    if not pairs or out is None:
        raise UserError("give the pairs and where the encoder goes: --pairs FILE --out DIR")
    given = {
        "base": base, "method": method, "loss": loss, "dim": dim, "pooling": pooling, "query_prefix": query_prefix,
        "passage_prefix": passage_prefix, "query_tokens": query_tokens, "passage_tokens": passage_tokens, "rank": rank,
        "freeze_layers": freeze_layers, "batch": batch, "block": block, "negatives": negatives, "gather": gather,
        "hard_negatives": hard_negatives, "distillation": distillation, "late_temperature": temperature,
        "contrastive_temperature": temperature, "learn_temperature": learn_temperature,
        "cache_gradients": cache_gradients, "epochs": epochs, "steps": steps, "learning_rate": learning_rate,
        "precision": precision, "seed": seed, "save_every": save_every,
    }  # fmt: skip
    _run(pairs, out, settings, {name: value for name, value in given.items() if value is not None}, device, threads,
         site, _seconds(walltime), quiet)  # fmt: skip


@train.command()
def export(
    encoder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of an encoder.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to write.")],
    form: Annotated[
        str, typer.Option("--format", metavar="pylate|sentence-transformers", help="pylate: token vectors.")
    ] = "pylate",
) -> None:
    """Write an encoder as a whole model, adapter merged, that PyLate or sentence-transformers loads."""
    from hiperrag.encoders import encoder_folder
    from hiperrag.encoders.training.adapter import FORMS
    from hiperrag.encoders.training.adapter import export as write

    for known in FORMS:
        if form == known:
            write(encoder_folder(str(encoder)), to, known)
            print(f"{to}: {form} model", file=sys.stderr)
            return
    raise UserError(f"--format {form}: choose from {', '.join(FORMS)}")


def _run(
    pairs: list[Path],
    out: Path,
    settings_file: Path | None,
    given: dict[str, Any],
    device: str | None,
    threads: int | None,
    site: str | None,
    seconds: float | None,
    quiet: bool,
) -> None:
    started = time.monotonic()
    if site and (device or threads):
        raise UserError("--device and --threads are the site's to say; leave them out with --site")
    import torch
    from transformers.utils import logging

    from hiperrag.encoders.training.ranks import join, leave
    from hiperrag.encoders.training.run import train as run_training
    from hiperrag.encoders.training.settings import read_settings
    from hiperrag.encoders.training.trainer import Stops
    from hiperrag.index.launch import under_mpi

    settings = read_settings(settings_file, given)
    deadline = None if seconds is None else started + seconds
    if site:
        _run_on_site(site, settings, pairs, out, deadline, _Progress(settings.batch, quiet))
        return
    logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    ranks = join("WORLD_SIZE" not in os.environ and under_mpi(), device)
    progress = _Progress(settings.batch, quiet or not ranks.first)
    try:
        with NotedStop() as noted:
            done = run_training(settings, pairs, out, ranks, progress, Stops(deadline, lambda: noted.stop is not None))
    finally:
        leave(ranks)
    if ranks.first:
        _tell(done, out)
    if noted.stop is not None and not done.finished:
        raise typer.Exit(exit_status(noted.stop))


def _run_on_site(
    name: str, settings: TrainSettings, pairs: list[Path], out: Path, deadline: float | None, progress: _Progress
) -> None:
    from hiperrag.encoders.training.trainer import Stops
    from hiperrag.workflows.sites import load_site
    from hiperrag.workflows.training import train_on_site

    with NotedStop() as noted:
        stops = Stops(deadline, lambda: noted.stop is not None)
        done = train_on_site(load_site(name), settings, pairs, out, progress, stops)
    if done:
        _tell(done, out)
    else:
        print(f"stopped before a step was done; {_resuming()}", file=sys.stderr)
    if noted.stop is not None and not (done and done.finished):
        raise typer.Exit(exit_status(noted.stop))


def _resuming() -> str:
    return f"resume with `{shlex.join(['hiperrag', *sys.argv[1:]])}`"


def _tell(done: Trained, out: Path) -> None:
    if not done.finished:
        print(f"stopped after step {done.steps} of {done.of}; {_resuming()}", file=sys.stderr)
        return
    print(f"{out}: trained for {done.steps} steps; use it with `--encoder {out}`", file=sys.stderr)
    for name, figures in done.figures.items():
        shown = ", ".join(f"{figure} {value}" for figure, value in figures.items())
        print(f"held-out pairs, {name}: {shown}", file=sys.stderr)


class _Progress:
    """Loss, rows a second and the time left: one line rewritten on a terminal, one every 15 seconds elsewhere."""

    def __init__(self, batch: int, quiet: bool) -> None:
        self._quiet, self._batch, self._last = quiet, batch, 0.0
        self._mean: float | None = None

    def __call__(self, report: StepReport) -> None:
        from hiperrag.workflows.progress import duration

        self._mean = report.loss if self._mean is None else 0.95 * self._mean + 0.05 * report.loss
        if self._quiet:
            return
        last = report.step == report.steps
        terminal = sys.stderr.isatty()
        if not (terminal or last or time.monotonic() - self._last >= _REPORT_SECONDS):
            return
        self._last = time.monotonic()
        line = (
            f"step {report.step} of {report.steps}, loss {self._mean:.4f}, {report.rows_per_second:.1f} rows/s, "
            f"{duration(report.seconds_left)} left"
        )
        print(f"\r{line}" if terminal else line, end="" if terminal and not last else "\n", file=sys.stderr, flush=True)


def _seconds(walltime: str | None) -> float | None:
    from hiperrag.cli.plan import parse_duration
    from hiperrag.workflows.allocation import current_allocation, seconds_left

    if walltime:
        return parse_duration(walltime)
    job = current_allocation()
    left = seconds_left(job) if job else None
    return None if left is None else left - SECONDS_BEFORE_THE_END
