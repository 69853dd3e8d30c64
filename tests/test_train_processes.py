"""Training with several real processes, and through kills: gradients, resuming, other numbers of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_helpers import gradients_of, made_pairs, tiny_model, tiny_settings, trainer

from hiperrag.encoders.training.pairs import write_pairs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TESTS = Path(__file__).resolve().parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
HIPERRAG = [sys.executable, "-c", "from hiperrag.cli import main; main()", "train"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_pairs(file, made_pairs(64, negatives=1))
    return file


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), "HF_HUB_OFFLINE": "1"}


def _run(command: list[object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), env=_environment(), capture_output=True, text=True, timeout=600, check=False
    )


def _train(base: Path, pairs: Path, out: Path, *more: object) -> list[object]:
    settings = ["--batch", 8, "--block", 4, "--steps", 60, "--dim", 16, "--save-every", 2, "--precision", "float32"]
    return ["--pairs", pairs, "--base", base, "--out", out, "--device", "cpu", "--threads", 1, *settings, *more]


def _encoder(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter_model.safetensors") | load_file(out / "projection.safetensors")


@pytest.fixture(scope="module")
def undisturbed(base: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What a training gives that nothing interrupts."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = _run([*HIPERRAG, *_train(base, pairs, out)])
    assert done.returncode == 0, done.stderr
    return _encoder(out)


@pytest.mark.parametrize(("launcher", "count"), [("torchrun", 2), ("torchrun", 4), ("mpi", 2)])
def test_several_processes_have_the_gradients_of_one(base: Path, tmp_path: Path, launcher: str, count: int) -> None:
    settings = tiny_settings(base, batch=24, hard_negatives=2, learn_temperature=True, negatives=20)
    alone = gradients_of(trainer(settings, made_pairs(48, negatives=2), tmp_path), step=1)
    if launcher == "mpi":
        pytest.importorskip("mpi4py")
        mpiexec = Path(sys.executable).parent / "mpiexec"
        if not mpiexec.exists():
            pytest.skip("no mpiexec beside this Python: pip install mpich")
        start: list[object] = [mpiexec, "-n", count, sys.executable]
    else:
        start = [*TORCHRUN, count]
    target = tmp_path / "gradients"
    done = _run([*start, TESTS / "training_worker.py", base, target, launcher])
    assert done.returncode == 0, done.stderr
    for rank in range(count):
        together = load_file(f"{target}.{rank}-of-{count}")
        assert together.keys() == alone.keys()
        for name, gradient in alone.items():
            torch.testing.assert_close(together[name], gradient, atol=1e-6, rtol=1e-5, msg=f"rank {rank}: {name}")


def _start_and_wait_for_steps(command: list[object], out: Path, steps: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        list(map(str, command)), env=_environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not (out / "checkpoints" / f"step-{steps:08d}").is_dir():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


def test_a_killed_training_goes_on_to_the_same_bits(
    base: Path, pairs: Path, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    command = [*HIPERRAG, *_train(base, pairs, tmp_path / "out")]
    for steps in (2, 6):
        process = _start_and_wait_for_steps(command, tmp_path / "out", steps)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "out" / "training.yaml").exists()
    done = _run(command)
    assert done.returncode == 0, done.stderr
    resumed = _encoder(tmp_path / "out")
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in undisturbed.items())


def test_sigterm_saves_a_checkpoint_and_says_how_to_resume(
    base: Path, pairs: Path, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    out = tmp_path / "out"
    command = [*HIPERRAG, *_train(base, pairs, out)]
    process = _start_and_wait_for_steps(command, out, 2)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "resume with" in errors
    assert "Traceback" not in errors
    done = _run(command)
    assert done.returncode == 0, done.stderr
    assert all(torch.equal(_encoder(out)[name], tensor) for name, tensor in undisturbed.items())


def test_a_training_goes_on_with_another_number_of_processes(
    base: Path, pairs: Path, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    out = tmp_path / "out"
    process = _start_and_wait_for_steps([*HIPERRAG, *_train(base, pairs, out)], out, 4)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = _run([*TORCHRUN, 2, "-m", "training_main", *_train(base, pairs, out)])
    assert done.returncode == 0, done.stderr
    record = yaml.safe_load((out / "training.yaml").read_text())
    assert record["processes"] == 2
    assert len(record["losses"]) == 60
    for name, tensor in undisturbed.items():
        torch.testing.assert_close(_encoder(out)[name], tensor, atol=2e-3, rtol=0, msg=name)


def test_walltime_stops_in_time_and_exits_with_0(base: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = _run([*HIPERRAG, *_train(base, pairs, out, "--walltime", "1s")])
    assert done.returncode == 0, done.stderr
    assert "resume with" in done.stderr
    assert list((out / "checkpoints").glob("step-*"))
    assert not (out / "training.yaml").exists()
