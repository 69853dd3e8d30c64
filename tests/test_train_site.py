"""A training on a site's workers, one of which is killed."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_helpers import made_pairs, tiny_model, tiny_settings

from hiperrag.benchmarks.survival.strikes import kill
from hiperrag.encoders.training.pairs import write_pairs
from hiperrag.encoders.training.ranks import Ranks
from hiperrag.encoders.training.run import train
from hiperrag.encoders.training.settings import TrainSettings
from hiperrag.encoders.training.trainer import Stops
from hiperrag.errors import UserError
from hiperrag.workflows.sites import load_site
from hiperrag.workflows.training import train_on_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "pairs.jsonl", made_pairs(64, negatives=1))
    return tmp_path / "pairs.jsonl"


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    return tiny_settings(tiny_model(tmp_path / "bert"), steps=60)


def _site(tmp_path: Path):
    (tmp_path / "two.yaml").write_text(
        "name: two\ndescription: two workers\nscheduler: local\nfacts: {tested: true, note: made for a test}\n"
        "pools:\n  cores: {workers: 2}\n"
    )
    return load_site(str(tmp_path / "two.yaml"))


def _kill_a_rank(out: Path, steps: int) -> None:
    """Kill one of the processes that train, once a checkpoint is there."""
    until = time.monotonic() + 300
    while not (out / "checkpoints" / f"step-{steps:08d}").is_dir() and time.monotonic() < until:
        time.sleep(0.01)
    kill("worker", os.getpid(), random.Random(0))


def test_a_training_on_a_site_survives_a_killed_worker(pairs: Path, settings: TrainSettings, tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    train(settings, [pairs], undisturbed, Ranks(), lambda step: None, Stops())
    seen: list[int] = []
    out = tmp_path / "out"
    killer = threading.Thread(target=_kill_a_rank, args=(out, 6))
    killer.start()
    done = train_on_site(_site(tmp_path), settings, [pairs], out, lambda step: seen.append(step.step), Stops())
    killer.join()
    assert done is not None
    assert done.finished
    record = yaml.safe_load((out / "training.yaml").read_text())
    assert len(record["losses"]) == 60
    assert record["processes"] == 2
    assert seen[-1] == 60
    assert sorted(path.name for path in out.iterdir() if path.name in ("groups", "checkpoints")) == []
    for file in ("adapter_model.safetensors", "projection.safetensors"):
        for name, tensor in load_file(undisturbed / file).items():
            torch.testing.assert_close(load_file(out / file)[name], tensor, atol=2e-3, rtol=0, msg=name)


def test_a_training_on_a_site_stops_in_time_and_is_resumed(
    pairs: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = threading.Event()

    def report(step: object) -> None:
        asked.set()

    stopped = train_on_site(_site(tmp_path), settings, [pairs], out, report, Stops(None, asked.is_set))
    assert stopped is not None
    assert 0 < stopped.steps <= 60
    done = train_on_site(_site(tmp_path), settings, [pairs], out, lambda step: None, Stops())
    assert done is not None
    assert done.finished


def test_a_mistake_of_the_users_is_said_at_once(pairs: Path, settings: TrainSettings, tmp_path: Path) -> None:
    pairs.write_text("{}\n")
    with pytest.raises(UserError, match="query"):
        train_on_site(_site(tmp_path), settings, [pairs], tmp_path / "out", lambda step: None, Stops())
