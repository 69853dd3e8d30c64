"""Which part of training does what, as in the HiPerRAG paper's Table 4: one command from pairs to a report.

    python -m hiperrag.benchmarks.ablation --pairs FILE... --out DIR [--set BEIR_DIR|PAIRS.jsonl ...] [--steps N]

Trains each variant with `hiperrag train`'s own code (contrastive only, late only, ColTrast; with and without hard
negatives where the pairs have them; ColTrast within blocks alone where a batch has several), and evaluates them and the
base model on the held-out documents of the pairs and on every --set: pooled vectors, exact MaxSim, and the two-stage
search in a compressed index. DIR gets results.json, report.md and ablation.png. The same command goes on where it was
stopped: what is finished is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiperrag.benchmarks.ablation import report
from hiperrag.benchmarks.ablation.scoring import evaluate, identity
from hiperrag.benchmarks.ablation.sets import HELD_OUT, EvaluationSet, n_seen, read_set, sampled, set_of_pairs
from hiperrag.benchmarks.ablation.summary import summarise
from hiperrag.benchmarks.ablation.variants import BASE, COLTRAST, Variant, cpu_seconds, make, variants
from hiperrag.cli.stopping import NotedStop, exit_status
from hiperrag.encoders import describe, encoder_folder, load_encoder
from hiperrag.encoders.config import read_config
from hiperrag.encoders.precision import PRECISIONS, chosen_precision
from hiperrag.encoders.training.pairs import PairData, read_pairs
from hiperrag.encoders.training.settings import TrainSettings, read_settings
from hiperrag.encoders.training.trainer import StepReport, Stops
from hiperrag.errors import UserError
from hiperrag.files import write_text_atomic
from hiperrag.machine import describe_machine
from hiperrag.warm import warm

SEVERAL_BLOCKS = {"batch": 256, "block": 64}
"""Without --settings, so that there is something to gather."""
REFERENCES = (BASE, COLTRAST)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 and one line where something given is unusable."""
    try:
        return run(_parser().parse_args(arguments))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hiperrag.benchmarks.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, help="as for `hiperrag train`")
    parser.add_argument("--out", type=Path, required=True, help="variants, evaluations and the report are kept here")
    parser.add_argument(
        "--set", type=Path, action="append", default=[], help="BEIR folder or pairs file to evaluate on"
    )
    parser.add_argument("--split", default="test", help="of BEIR folders (default: test)")
    parser.add_argument("--settings", type=Path, help="settings.yaml of `hiperrag train` that all variants share")
    parser.add_argument("--base", help="model to start from")
    for name in ("steps", "batch", "block", "seed"):
        parser.add_argument(f"--{name}", type=int, help="over those of --settings")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="only these (and base)")
    parser.add_argument(
        "--encoder", action="append", default=[], metavar="NAME|DIR", help="evaluate this one as well; may be repeated"
    )
    parser.add_argument("--max-queries", type=int, default=1000, help="of a set, at random (default: 1000)")
    parser.add_argument("--max-passages", type=int, help="of a set: all that are right, and random others")
    parser.add_argument("--precision", choices=PRECISIONS, help="to evaluate in (default: the base's on this machine)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    return parser


def run(given: argparse.Namespace) -> int:
    """Make and evaluate what is not there yet, and write the report; the exit status.

    A signal during a training ends it with a checkpoint; during an evaluation it loses that one.
    """
    import torch
    from transformers.utils import logging

    torch.set_num_threads(given.threads)
    logging.disable_progress_bar()
    settings = _settings(given)
    data = read_pairs(given.pairs, settings.held_out, settings.seed)
    sets = _sets(given, settings, data)
    folder = encoder_folder(settings.base)
    precision = given.precision or chosen_precision(folder, read_config(folder))
    evaluations: dict[str, dict[str, Any]] = {}
    labels: dict[str, str] = {}
    trained: dict[str, float | None] = {}
    for variant in [*_chosen(variants(settings, bool(data.card["with_negatives"])), given.variants), *_given(given)]:
        home = given.out / "variants" / variant.name.strip("/").replace("/", "_")
        _say(variant.label)
        spec = variant.name
        if variant.name not in given.encoder:
            with NotedStop() as noted:
                spec = make(variant, settings, given.pairs, data.training, home, _progress(), _stops(noted))
            if noted.stop is not None:
                _say("stopped; the same command goes on from here")
                return exit_status(noted.stop)
        evaluations[variant.name] = _evaluations(
            f"{spec}:{precision}", given.out / "evaluations" / home.name, sets, given.threads
        )
        labels[variant.name] = variant.label
        trained[variant.name] = cpu_seconds(home)
    results = _results(settings, data, sets, evaluations, labels, trained)
    write_results(results | {"precision": precision}, given.out)
    print(given.out / "report.md")
    return 0


def _settings(given: argparse.Namespace) -> TrainSettings:
    named = {name: getattr(given, name) for name in ("base", "steps", "batch", "block", "seed")}
    defaults = {} if given.settings else SEVERAL_BLOCKS
    return read_settings(given.settings, defaults | {name: value for name, value in named.items() if value is not None})


def _sets(given: argparse.Namespace, settings: TrainSettings, data: PairData) -> list[EvaluationSet]:
    whole = [read_set(path, given.split) for path in given.set]
    if len(data.held_out) > 1:
        whole.insert(0, set_of_pairs(HELD_OUT, data.held_out))
    names = [one.name for one in whole]
    if not whole or len(set(names)) < len(names):
        raise UserError(f"sets to evaluate on: {', '.join(names) or 'none'}; give --set, each of another name")
    return [sampled(one, given.max_queries, given.max_passages, settings.seed) for one in whole]


def _chosen(listed: list[Variant], names: Sequence[str] | None) -> list[Variant]:
    known = [variant.name for variant in listed]
    for name in names or ():
        if name not in known:
            raise UserError(f"--variants {name}: with these pairs and settings there are {', '.join(known)}")
    return [variant for variant in listed if names is None or variant.name in (BASE, *names)]


def _given(given: argparse.Namespace) -> list[Variant]:
    return [Variant(spec, Path(spec).name) for spec in given.encoder]


def _evaluations(spec: str, folder: Path, sets: Sequence[EvaluationSet], threads: int) -> dict[str, dict[str, Any]]:
    """The evaluations of an encoder by set: read from `folder` where they are there, else made and kept."""
    encoder = describe(spec).identity
    found: dict[str, dict[str, Any]] = {}
    for data in sets:
        mine, file = identity(encoder, data), folder / f"{data.name}.json"
        kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if kept.get("identity") != mine:
            with tempfile.TemporaryDirectory() as scratch:
                loaded = warm(load_encoder, spec, threads)
                kept = evaluate(loaded, loaded.tokenizer, data, Path(scratch), threads)
            kept = {"identity": mine, "encoder": encoder} | kept
            folder.mkdir(parents=True, exist_ok=True)
            write_text_atomic(file, json.dumps(kept) + "\n")
            _say(
                f"  {data.name}: {len(data.queries)} queries, {kept['passages']} passages, {kept['cpu_seconds']} CPU s"
            )
        found[data.name] = kept
    return found


def _results(
    settings: TrainSettings,
    data: PairData,
    sets: Sequence[EvaluationSet],
    evaluations: dict[str, dict[str, Any]],
    labels: dict[str, str],
    trained: dict[str, float | None],
) -> dict[str, Any]:
    of_base = next(iter(evaluations.values()))
    return {
        "base": settings.base,
        "training": {
            "settings": settings.model_dump(mode="json"),
            "seed": settings.seed,
            "pairs": len(data.training),
            "with_negatives": data.card["with_negatives"],
            "files": data.card["files"],
        },
        "sets": {
            one.name: {
                "identity": one.identity,
                "queries": len(one.queries),
                "documents": len(one.rows),
                "passages": of_base[one.name]["passages"],
                "seen_in_training": n_seen(one, data.training),
            }
            for one in sets
        },
        "labels": labels,
        "references": [name for name in REFERENCES if name in evaluations],
        "variants": {
            name: {
                "encoder": next(iter(found.values()))["encoder"],
                "dim": next(iter(found.values()))["dim"],
                "training_cpu_seconds": trained[name],
                "evaluation_cpu_seconds": round(sum(one["cpu_seconds"] for one in found.values()), 1),
            }
            for name, found in evaluations.items()
        },
        "summary": summarise(evaluations, REFERENCES),
        "machine": describe_machine(),
    }


def write_results(results: dict[str, Any], out: Path) -> None:
    """results.json, and what is drawn from it."""
    write_text_atomic(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    report.write(results, out)


def _stops(noted: NotedStop) -> Stops:
    return Stops(asked=lambda: noted.stop is not None)


def _progress() -> Any:
    def told(step: StepReport) -> None:
        if step.step % 50 == 0 or step.step == step.steps:
            _say(f"  step {step.step} of {step.steps}, loss {step.loss:.4f}, {step.rows_per_second:.1f} rows/s")

    return told


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
