"""What a task's cost is measured by: processor time with children, energy meters that wrap around, GPUs' meters."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

from hiperrag.workflows import metering
from hiperrag.workflows.metering import Metered, place_of, worker_name

SPIN = "sum(range(5_000_000))"


def spin(where: str) -> str:
    if where == "child":
        subprocess.run([sys.executable, "-c", SPIN], check=True)
    else:
        eval(SPIN)
    return where


def fail() -> None:
    raise ArithmeticError("cosmic ray")


@pytest.fixture(autouse=True)
def meters_anew():
    metering._meters.cache_clear()
    yield
    metering._meters.cache_clear()


@pytest.mark.parametrize("where", ["here", "child"])
def test_processor_time_counts_children(where):
    measured = Metered(spin)(where)
    work = measured.work
    assert measured.value == where
    assert work.cpu_seconds > 0.01
    assert work.finished >= work.started


def test_bytes_are_counted(tmp_path):
    (tmp_path / "in").write_bytes(b"x" * 1_000_000)
    reading = Metered(Path.read_bytes)(tmp_path / "in").work
    assert 1_000_000 <= reading.bytes_read < 2_000_000
    assert reading.bytes_written < 100_000
    writing = Metered(Path.write_bytes)(tmp_path / "out", b"x" * 1_000_000).work
    assert 1_000_000 <= writing.bytes_written < 2_000_000


def test_an_error_says_where_it_happened_and_survives_the_way_back():
    with pytest.raises(ArithmeticError) as caught:
        Metered(fail)()
    assert place_of(pickle.loads(pickle.dumps(caught.value))) == place_of(caught.value) != ""
    assert place_of(WorkerLost(3, "n017")) == place_of(ManagerLost(b"ab12", "n017")) == "n017"
    assert place_of(RuntimeError("no idea")) == ""


def test_a_worker_is_named_by_block_and_rank(monkeypatch):
    monkeypatch.setenv("PARSL_WORKER_RANK", "3")
    monkeypatch.setenv("PARSL_WORKER_BLOCK_ID", "12")
    assert worker_name().endswith(":12.3")


def domain(folder, name, reading, most=1_000_000):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{reading}\n")
    (folder / "max_energy_range_uj").write_text(f"{most - 1}\n")


def test_processor_energy_is_summed_over_packages_and_survives_wrapping(tmp_path):
    domain(tmp_path / "intel-rapl:0", "package-0", 900_000)
    domain(tmp_path / "intel-rapl:0:0", "core", 500_000)
    domain(tmp_path / "intel-rapl:0:1", "dram", 100_000)
    meters = metering._meters(tmp_path, "no-such-library")
    assert [meter.joules() for meter in meters] == [0, 0], "the core is part of its package"
    domain(tmp_path / "intel-rapl:0", "package-0", 100_000)
    domain(tmp_path / "intel-rapl:0:1", "dram", 150_000)
    assert [meter.joules() for meter in meters] == pytest.approx([0.2, 0.05])
    domain(tmp_path / "intel-rapl:0", "package-0", 300_000)
    assert meters[0].joules() == pytest.approx(0.4)


NVML = """
#include <stddef.h>
static int devices[2] = {0, 1};
static unsigned long long readings[2] = {5000, 70000};
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **d) { if (i > 1) return 2; *d = &devices[i]; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) {
    int i = *(int *)d;
    if (i == 0) { *mj = readings[0]; readings[0] += 1500; return 0; }
    return 3; /* not supported, as on older GPUs */
}
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs a C compiler for the stand-in library")
def test_gpu_energy_by_a_stand_in_for_nvml(tmp_path):
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvml.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True)
    meters = metering._meters(tmp_path, str(library))
    assert len(meters) == 1, "one GPU has no meter, one cannot be opened"
    assert [meters[0].joules(), meters[0].joules()] == [1.5, 3.0]


def test_a_machine_without_meters_measures_no_energy(tmp_path, monkeypatch):
    monkeypatch.setattr(metering, "_meters", lambda: [])
    assert Metered(spin)("here").work.joules is None
