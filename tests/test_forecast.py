"""`hiperrag plan`: the model's arithmetic, the split of nodes, rates learned from runs, and what is said of them."""

from __future__ import annotations

import json

import pytest
import yaml
from run_logs import PlantedRun

from hiperrag.cli.plan import parse_count, parse_duration
from hiperrag.errors import UserError
from hiperrag.parsing.sources import Input
from hiperrag.workflows.costs import BYTES_PER_PAGE, Costs
from hiperrag.workflows.forecast import Campaign, check_run, forecast
from hiperrag.workflows.plan import Plan, extend_plan
from hiperrag.workflows.rates import Rates, learn, load_rates, packaged_rates, save_rates
from hiperrag.workflows.settings import PartSettings
from hiperrag.workflows.sites import Site, load_site, packaged_sites

SECONDS = {"parse": 1.0, "recognise": 10.0, "chunk": 0.1, "encode": 0.01, "build": 0.001}


def exact_rates(accelerated: float = 0.0, **changes) -> Rates:
    """Rates without error: 10 pages a document, 5 passages a page, 100 tokens a passage."""
    values = packaged_rates().model_dump()
    certain = {"error": 0, "spread": 0, "basis": "measured", "source": "made up"}
    values["stages"] = {stage: {"seconds": seconds, **certain} for stage, seconds in SECONDS.items()}
    values["accelerators"] = {"a100": {"encode": {"seconds": accelerated, **certain}} if accelerated else {}}
    values["accelerator_of"] = {"two": "a100"}
    values["start_seconds"] = {"value": 5, "error": 0}
    sizes = {"pages_per_document": 10, "passages_per_page": 5, "tokens_per_passage": 100}
    values["corpus"] = {name: {"value": value, "error": 0} for name, value in sizes.items()} | {"source": "made up"}
    return Rates.model_validate(values | changes)


def site_of(**pools) -> Site:
    """A site on which pools of one job each run, or all together without a job."""
    jobs = {pool["job"]: {"nodes": 1, "at_most": 4, "cpus": 8} for pool in pools.values() if "job" in pool}
    facts = {"tested": False, "note": ""}
    scheduler = "slurm" if jobs else "local"
    values = {"name": "two", "description": "", "scheduler": scheduler, "facts": facts, "jobs": jobs, "pools": pools}
    return Site.model_validate(values)


def test_time_is_work_over_workers_with_start_and_tail():
    site = site_of(all={"workers": 4})
    result = forecast(Campaign(documents=128), site, exact_rates())
    pages, passages, tokens = 1280, 6400, 640_000
    work = pages * 1.0 + passages * 0.1 + tokens * 0.01 + tokens * 0.001
    part, shard = (work - tokens * 0.001) / 128, tokens * 0.001 / 8  # a document takes 50 s, a part at most 60
    assert result.seconds.estimate == pytest.approx(5 + work / 4 + part / 2 + shard)
    assert result.seconds.low == result.seconds.high == pytest.approx(result.seconds.estimate)
    assert result.node_hours.estimate == pytest.approx(result.seconds.estimate / 3600)
    assert (result.limiting_stage, result.jobs) == ("encode", 1)
    assert sum(stage.share for stage in result.stages) == pytest.approx(1)
    assert [stage.stage for stage in result.stages] == ["parse", "chunk", "encode", "build"]


def test_recognition_is_a_stage_when_pages_need_it():
    result = forecast(Campaign(documents=80, ocr_share=0.5), site_of(all={"workers": 4}), exact_rates())
    stage = next(stage for stage in result.stages if stage.stage == "recognise")
    assert (stage.units, stage.worker_hours.estimate) == (400, pytest.approx(400 * 10 / 3600))


def test_more_workers_than_documents_are_of_no_use():
    few, many = (forecast(Campaign(documents=16), site_of(all={"workers": n}), exact_rates()) for n in (16, 200))
    assert few.seconds.estimate == many.seconds.estimate


@pytest.mark.parametrize(
    ("documents", "workers", "seconds", "parts"),
    [(1000, 2, 0.1, 16), (1000, 2, 10.0, 167), (40, 2, 1.0, 8), (40, 200, 1.0, 20), (40, 200, 100.0, 40)],
)
def test_parts_are_cut_as_a_run_cuts_them(documents, workers, seconds, parts):
    values = exact_rates().model_dump()
    values["stages"]["encode"]["seconds"] = seconds / 5000
    for stage in ("parse", "chunk", "build"):
        values["stages"][stage]["seconds"] = seconds / 1e5
    values["storage"] |= {"files_per_part": 1, "files_per_shard": 0}
    rates = Rates.model_validate(values)
    result = forecast(Campaign(documents), site_of(all={"workers": workers}), rates)
    assert result.files == parts
    names = [f"{number}.pdf" for number in range(documents)]
    inputs = [Input(name, "pdf", name, "", 0, 1, 10 * BYTES_PER_PAGE, "") for name in names]
    costs = Costs(rates, site_of(all={"workers": workers}))
    plan = extend_plan(
        Plan(), inputs, lambda part: False, lambda item: item.path.encode(), PartSettings(), costs.longest, workers
    )
    assert sum(map(len, plan.shards)) == parts


@pytest.mark.parametrize("nodes", [2, 3, 10, 57])
def test_nodes_are_split_so_that_no_other_split_is_faster(nodes):
    rates = exact_rates(accelerated=0.004)
    site = site_of(
        cores={"job": "cpu", "stages": ["parse", "chunk", "build"], "workers": 8},
        gpus={"job": "gpu", "stages": ["recognise", "encode"], "accelerators": 4},
    )
    result = forecast(Campaign(documents=100_000, nodes=nodes), site, rates)
    cpu_work = 1e6 * 1.0 + 5e6 * 0.1 + 5e8 * 0.001
    gpu_work = 5e8 * 0.004
    slowest = {cpu: max(cpu_work / (8 * cpu), gpu_work / (4 * (nodes - cpu))) for cpu in range(1, nodes)}
    chosen = {group.job: group.nodes for group in result.groups}
    assert sum(chosen.values()) == nodes
    assert slowest[chosen["cpu"]] == min(slowest.values())
    assert result.node_hours.estimate == pytest.approx(nodes * result.seconds.estimate / 3600)


def test_too_few_nodes_for_the_kinds_of_jobs():
    site = site_of(cores={"job": "cpu", "stages": ["parse"], "workers": 8}, rest={"job": "gpu", "workers": 4})
    with pytest.raises(UserError, match="2 kinds"):
        forecast(Campaign(documents=10, nodes=1), site, exact_rates())


def test_a_short_walltime_costs_a_start_for_every_job():
    site, rates = site_of(all={"workers": 4}), exact_rates()
    whole = forecast(Campaign(documents=128), site, rates).seconds.estimate
    result = forecast(Campaign(documents=128, walltime=1005), site, rates)
    assert result.jobs == 3
    assert result.seconds.estimate == pytest.approx(whole + 2 * 5)
    with pytest.raises(UserError, match="does not even cover"):
        forecast(Campaign(documents=128, walltime=4), site, rates)


def test_what_was_assumed_is_said():
    values = exact_rates(accelerated=0.004).model_dump()
    values["accelerators"]["a100"]["encode"] |= {"basis": "assumed", "source": "thin air"}
    site = site_of(
        cores={"job": "cpu", "stages": ["parse", "chunk", "build"], "workers": 8},
        gpus={"job": "gpu", "stages": ["recognise", "encode"], "accelerators": 4},
    )
    result = forecast(Campaign(documents=100), site, Rates.model_validate(values))
    assert "encode on a100: not measured; assumed from thin air" in result.notes
    assert any("a core of two is assumed to be as fast" in note for note in result.notes)
    assert {stage.stage: stage.basis for stage in result.stages}["encode"] == "assumed"


def test_a_less_certain_rate_widens_the_range():
    def width(error: float) -> float:
        values = exact_rates().model_dump()
        values["stages"]["encode"]["error"] = error
        seconds = forecast(Campaign(documents=1000), site_of(all={"workers": 4}), Rates.model_validate(values)).seconds
        return seconds.high / seconds.low

    assert width(0) == pytest.approx(1)
    assert 1.2 < width(0.1) < width(0.5)


def test_every_packaged_site_can_be_planned(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # for the site inside an allocation
    for site in packaged_sites():
        result = forecast(Campaign(documents=1000, nodes=4), site, packaged_rates())
        assert 0 < result.seconds.low < result.seconds.estimate < result.seconds.high
        assumed = [stage.stage for stage in result.stages if stage.basis == "assumed"]
        assert all(any(note.startswith(f"{stage} on ") for note in result.notes) for stage in assumed)


def write_run(root, seconds_per_page: float = 0.5, loading: float = 20.0, workers: int = 2, parts: int = 12):
    """A planted run: a page takes so long to parse, a token 1 ms to encode, a worker's first encoding longer."""
    planted = PlantedRun(workers, parts, site="local")
    free = {f"n0:0.{number}": 4.0 for number in range(workers)}
    fresh = set(free)
    for part in range(parts):
        worker, pages = min(free, key=lambda name: free[name]), 20 + 7 * part
        at = planted.task("parse", part, worker, free[worker], seconds_per_page * pages, n_pages=pages)
        at = planted.task("chunk", part, worker, at, 0.02 * pages, n_done=5 * pages)
        extra = loading if worker in fresh else 0.0
        fresh.discard(worker)
        free[worker] = planted.task("encode", part, worker, at, 0.6 * pages + extra, n_tokens=600 * pages)
    tokens = sum(600 * (20 + 7 * part) for part in range(parts))
    end = planted.task("build", 0, "n0:0.0", max(free.values()), 1e-4 * tokens, n_tokens=tokens)
    planted.add(end, "run_finished", run="R1")
    planted.write(root)
    return end


@pytest.fixture
def without_manifest(monkeypatch):
    """Planted runs have a log and nothing else."""
    monkeypatch.setattr("hiperrag.workflows.rates._corpus", lambda collections: None)
    monkeypatch.setattr("hiperrag.workflows.rates._storage", lambda collections: None)


def test_rates_are_learned_from_a_run_and_loading_is_told_apart(tmp_path, without_manifest):
    write_run(tmp_path / "c")
    learned = learn([tmp_path / "c"], packaged_rates())
    assert learned.stages["parse"].seconds == pytest.approx(0.5, rel=0.01)
    assert learned.stages["encode"].seconds == pytest.approx(0.001, rel=0.01)
    assert learned.stages["encode"].first == pytest.approx(20, rel=0.01)
    assert learned.stages["recognise"] == packaged_rates().stages["recognise"], "the run tells nothing about it"
    assert learned.start_seconds.value == 4
    assert learned.stages["parse"].basis == "measured"


def test_a_run_on_accelerators_replaces_what_was_assumed_about_them(tmp_path, without_manifest):
    write_run(tmp_path / "c")
    log = next((tmp_path / "c").glob("runs/*/events.jsonl"))
    log.write_text(log.read_text().replace('"site": "local"', '"site": "polaris"'))
    base = packaged_rates()
    learned = learn([tmp_path / "c"], base)
    assert learned.accelerators["a100"]["encode"].basis == "measured"
    assert learned.stages["encode"] == base.stages["encode"]
    assert learned.stages["parse"] != base.stages["parse"]
    notes = forecast(Campaign(documents=1000), load_site("polaris"), learned).notes
    assert not any("encode on a100" in note for note in notes)


def test_one_run_foretells_another(tmp_path, without_manifest):
    write_run(tmp_path / "small", parts=6)
    took = write_run(tmp_path / "large", workers=4, parts=40)
    rates = learn([tmp_path / "small"], packaged_rates())
    found = check_run(tmp_path / "large", rates)
    assert found["seconds"] == pytest.approx(took, abs=0.01)
    assert (found["documents"], found["workers"]) == (320, 4)
    assert found["by_pages"]["estimate"] == pytest.approx(took, rel=0.15)
    assert found["by_pages"]["low"] < took < found["by_pages"]["high"]


def test_a_collection_without_runs_teaches_nothing(tmp_path, hiperrag):
    status, _, errors = hiperrag("plan", "--documents", "10", "--from-run", tmp_path)
    assert (status, len(errors)) == (2, 1)
    assert "index something first" in errors[0]


def test_rates_are_kept_in_a_file(tmp_path):
    save_rates(exact_rates(), tmp_path / "rates.yaml")
    assert load_rates(tmp_path / "rates.yaml") == exact_rates()
    (tmp_path / "rates.yaml").write_text(yaml.safe_dump({"stages": {}}))
    with pytest.raises(UserError, match="no file of rates"):
        load_rates(tmp_path / "rates.yaml")
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\)$"):
        load_rates(tmp_path / "none.yaml")


def test_the_command_prints_the_same_for_people_and_programs(hiperrag, tmp_path):
    arguments = ("--documents", "3.6e6", "--site", "polaris", "--nodes", "64", "--walltime", "3h")
    found = json.loads(hiperrag("plan", *arguments, "--json")[1])
    assert found["campaign"]["documents"] == 3_600_000
    assert sum(group["nodes"] for group in found["groups"]) == 64
    status, output, _ = hiperrag("plan", *arguments)
    assert status == 0
    assert f"{found['files']:,}" in output
    assert f"limited by     {found['limiting_stage']}" in output
    assert "not measured; assumed from" in output
    assert "256 workers in pool gpus" in output
    assert hiperrag("plan")[0] == 2
    status, _, errors = hiperrag("plan", "--documents", "100", "--nodes", "2")
    assert (status, errors) == (2, ["hiperrag: --nodes 2: site local is one machine; name another --site"])
    assert hiperrag("plan", "--save", tmp_path / "rates.yaml")[0] == 0
    assert load_rates(tmp_path / "rates.yaml") == packaged_rates()


@pytest.mark.parametrize(("text", "number"), [("40", 40), ("3.6e6", 3_600_000), ("3,600,000", 3_600_000)])
def test_counts_as_people_write_them(text, number):
    assert parse_count(text) == number


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "many", "inf", "nan", "", "1e99"])
def test_other_counts_are_refused(text):
    with pytest.raises(UserError, match="whole number"):
        parse_count(text)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("02:30:00", 9000)])
def test_times_as_people_write_them(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["0m", "3", "2:70:00", "soon"])
def test_other_times_are_refused(text):
    with pytest.raises(UserError, match="such as 30m"):
        parse_duration(text)
