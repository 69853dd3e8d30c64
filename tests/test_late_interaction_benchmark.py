"""The late-interaction benchmark: vectors' format, exact truth, growth, the workers' protocol, tables and bars."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hiperrag.benchmarks.late_interaction import process
from hiperrag.benchmarks.late_interaction.__main__ import main
from hiperrag.benchmarks.late_interaction.bars import bars
from hiperrag.benchmarks.late_interaction.engines import ENGINES, choose
from hiperrag.benchmarks.late_interaction.growing import measure_growth
from hiperrag.benchmarks.late_interaction.growth import grow, grown_lengths, read_lengths, read_tokens, write_stream
from hiperrag.benchmarks.late_interaction.measure import Plan, measure_corpus
from hiperrag.benchmarks.late_interaction.process import CpuLimitError, EngineError, EngineProcess
from hiperrag.benchmarks.late_interaction.report import markdown, table
from hiperrag.benchmarks.late_interaction.texts import cut, read_texts
from hiperrag.benchmarks.late_interaction.truth import exact_top, real_blocks
from hiperrag.benchmarks.late_interaction.vectors import QUERY_TOKENS, TokenVectors, read_vectors, write_vectors
from hiperrag.errors import UserError

PASSAGES = 150


def unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    rows = rng.standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> TokenVectors:
    rng = np.random.default_rng(1)
    lengths, query_lengths = rng.integers(3, 30, PASSAGES), rng.integers(5, 45, 40)
    return write_vectors(
        tmp_path_factory.mktemp("late") / "vectors",
        unit(rng, lengths.sum(), 24).astype(np.float16),
        np.concatenate([[0], np.cumsum(lengths)]),
        unit(rng, query_lengths.sum(), 24),
        np.concatenate([[0], np.cumsum(query_lengths)]),
        16,
        {"data": "random", "encoder": "none", "encoder_dim": 24},
    )


@pytest.fixture
def plan(vectors: TokenVectors, tmp_path: Path) -> Plan:
    return Plan(vectors, tmp_path / "work", tmp_path / "no-peers", vectors.sample_queries(7), 2, 2, 60)


def naive_top(vectors: TokenVectors, number: int, n: int) -> list[int]:
    scores = [
        (vectors.query(number) @ vectors.tokens[a:b].astype(np.float32).T).max(axis=1).sum()
        for a, b in pairwise(vectors.offsets[: n + 1])
    ]
    return sorted(range(n), key=lambda passage: (-scores[passage], passage))[:10]


def test_vectors_are_rotated_unit_norm_and_queries_are_shortened(vectors):
    assert vectors.tokens.shape[1] == vectors.queries.shape[1] == 16
    assert np.abs(np.linalg.norm(vectors.tokens.astype(np.float32), axis=1) - 1).max() < 2e-3
    lengths = np.diff(vectors.query_offsets)
    assert lengths.mean() <= QUERY_TOKENS
    assert 0 < vectors.about["variance_kept"] < 1
    assert vectors.n_passages == PASSAGES


@pytest.mark.parametrize("damage", ["missing", "short offsets", "float32 tokens", "not unit norm"])
def test_unusable_vectors_are_one_clear_error(vectors, tmp_path, damage):
    folder = shutil.copytree(vectors.folder, tmp_path / "copy")
    if damage == "missing":
        (folder / "queries.npy").unlink()
    elif damage == "short offsets":
        np.save(folder / "offsets.npy", vectors.offsets[:-1])
    elif damage == "float32 tokens":
        np.save(folder / "tokens.npy", vectors.tokens.astype(np.float32))
    else:
        np.save(folder / "tokens.npy", vectors.tokens * np.float16(2))
    with pytest.raises(UserError, match="copy"):
        read_vectors(folder)


def test_truth_is_exact_for_every_prefix(vectors):
    numbers = vectors.sample_queries(9)
    blocks = [*real_blocks(vectors, 60), *list(real_blocks_after(vectors, 60))]
    top = exact_top(blocks, [vectors.query(number) for number in numbers], [60, PASSAGES])
    for size in (60, PASSAGES):
        assert top[size].tolist() == [naive_top(vectors, number, size) for number in numbers]


def real_blocks_after(vectors: TokenVectors, start: int):
    for block in real_blocks(vectors, vectors.n_passages):
        rows = block.lengths[:start].sum()
        yield block._replace(tokens=block.tokens[rows:], lengths=block.lengths[start:])


def test_growth_begins_with_the_real_passages_and_smaller_is_a_prefix_of_larger(vectors):
    small, large = list(grow(vectors, 400)), list(grow(vectors, 2_500, ends=[400]))
    assert [len(block.lengths) for block in large] == [400, 1_600, 500]
    assert np.array_equal(small[0].tokens, large[0].tokens)
    real = small[0].tokens[: len(vectors.tokens)]
    assert np.array_equal(real, vectors.tokens)
    assert np.array_equal(small[0].lengths[:PASSAGES], np.diff(vectors.offsets))
    made = large[1].tokens.astype(np.float32)
    assert np.abs(np.linalg.norm(made, axis=1) - 1).max() < 2e-3
    nearest = (made[:200] @ vectors.tokens.astype(np.float32).T).max(axis=1)
    assert 0.85 < nearest.min() < nearest.max() < 0.999  # near a real token, and never equal to one


def test_growth_stream_round_trip_and_truncation(vectors):
    stream = io.BytesIO()
    block = next(grow(vectors, 300))
    write_stream(grown_lengths(vectors, 300), [block], stream)
    stream.seek(0)
    lengths = read_lengths(stream, 300)
    assert np.array_equal(lengths, block.lengths)
    read = [read_tokens(stream, int(length), vectors.dim) for length in lengths]
    assert np.array_equal(np.concatenate(read), block.tokens)
    with pytest.raises(EOFError):
        read_tokens(stream, 1, vectors.dim)


def test_worker_answers_builds_and_searches_with_times(vectors, tmp_path):
    request = {"vectors": str(vectors.folder), "passages": 100, "index": str(tmp_path / "index"), "options": {}}
    with EngineProcess(Path(sys.executable), "engine_numpy", 1, tmp_path / "log") as worker:
        assert worker.version == np.__version__
        built = worker.ask({**request, "do": "build", "cpu_limit_s": 60}, 60)
        assert built["index_bytes"] == vectors.offsets[100] * 16 * 4 + 101 * 8
        assert 10_000_000 < built["peak_rss_bytes"] < 100_000_000 + vectors.tokens.nbytes  # not this process's own
    with EngineProcess(Path(sys.executable), "engine_numpy", 1, tmp_path / "log") as worker:
        worker.ask({**request, "do": "open"}, 60)
        asked = {"do": "search", "queries": [0, 3, 5], "k": 10, "setting": {}}
        singly, together = (worker.ask({**asked, "together": together}, 60) for together in (False, True))
    truth = [naive_top(vectors, number, 100) for number in (0, 3, 5)]
    assert singly["found"] == together["found"] == truth
    assert len(singly["cpu_s"]) == len(singly["wall_s"]) == 3
    assert len(together["cpu_s"]) == 1
    assert all(seconds > 0 for seconds in singly["cpu_s"])


def test_worker_reports_a_failure_in_one_line(vectors, tmp_path):
    worker = EngineProcess(Path(sys.executable), "engine_numpy", 1, tmp_path / "log")
    request = {"do": "open", "vectors": str(tmp_path / "nowhere"), "passages": 1, "index": "", "options": {}}
    with pytest.raises(EngineError, match="FileNotFoundError") as caught:
        worker.ask(request, 60)
    assert "\n" not in str(caught.value)


SPIN = """
class Engine:
    version = "0"
    def __init__(self, threads): pass
    def build(self, tokens, offsets, index, options):
        print("a library's chatter on standard output", flush=True)
        while True: pass
    def open(self, tokens, offsets, index, options): import threading; threading.Event().wait()
"""


def test_builds_end_at_their_cpu_limit_and_silence_at_its_time_limit(vectors, tmp_path):
    shutil.copy(process._SERVE, tmp_path / "serve.py")
    (tmp_path / "engine_spin.py").write_text(SPIN, encoding="utf-8")
    request = {"vectors": str(vectors.folder), "passages": 10, "index": str(tmp_path / "index"), "options": {}}
    spinning = EngineProcess(Path(sys.executable), "engine_spin", 1, tmp_path / "log", tmp_path / "serve.py")
    with pytest.raises(CpuLimitError):
        spinning.ask({**request, "do": "build", "cpu_limit_s": 4}, 120)
    silent = EngineProcess(Path(sys.executable), "engine_spin", 1, tmp_path / "another", tmp_path / "serve.py")
    with pytest.raises(EngineError, match="no answer"):
        silent.ask({**request, "do": "open"}, 0.2)
    assert "chatter" in (tmp_path / "log").read_text(encoding="utf-8")


def test_corpus_is_measured_once_built_and_missing_peers_are_said(plan):
    engines = [*choose(["numpy"]), dataclasses.replace(choose(["fast-plaid-4bit"])[0])]
    first = measure_corpus(plan, 120, engines)
    numpy, missing = first["engines"]
    assert numpy["settings"][0]["recall"] == 1.0
    assert numpy["settings"][0]["n"] == numpy["settings"][0]["batch_n"] == 7
    assert missing["failed"] == "not installed (no environment fast-plaid)"
    again = measure_corpus(plan, 120, engines)
    assert again["engines"][0]["build"] == numpy["build"]  # taken from the work folder, not built again
    fresh = measure_corpus(dataclasses.replace(plan, rebuild=("num",)), 120, engines[:1])
    assert fresh["engines"][0]["build"]["wall_s"] != numpy["build"]["wall_s"]


def test_ours_grows_from_a_stream_of_passages(plan):
    ours = dataclasses.replace(choose(["hiperrag-8bit"])[0], options={"bits": 8, "shard_passages": 1_200})
    small, large = measure_growth(plan, [2_300, 120], [ours], noise=0.4, seed=0)
    assert (small["passages"], small["real_passages"], small["synthetic_in_truth"]) == (120, 120, 0.0)
    assert large["synthetic_in_truth"] > 0.1
    row = large["engines"][0]
    shards = sorted((plan.folder("grown-0.4-0-2300", ours) / "index").iterdir())
    assert len(shards) == 2
    assert large["tokens"] == row["build"]["tokens"] == sum(len(b.tokens) for b in grow(plan.vectors, 2_300))
    exact = next(setting for setting in row["settings"] if setting["label"] == "exact")
    assert exact["recall"] > 0.9
    assert exact["n"] == 7


def test_engine_names_are_unique_and_unknown_ones_are_refused():
    assert len({engine.name for engine in ENGINES}) == len(ENGINES)
    with pytest.raises(UserError, match="nosuch"):
        choose(["nosuch"])


def engine_row(name: str, family: str, index_bytes: int, cpu_s: float, *settings: tuple[str, float, float]) -> dict:
    keys = ("label", "recall", "cpu_ms_p50")
    return {
        "name": name,
        "family": family,
        "options": {},
        "version": "1",
        "build": {"cpu_s": cpu_s, "wall_s": cpu_s, "peak_rss_bytes": 10**9, "index_bytes": index_bytes},
        "settings": [
            {**dict(zip(keys, setting, strict=True)), "cpu_ms_p90": 9.0, "wall_ms_p50": 8.0} for setting in settings
        ],
    }


def report_of(corpora: list[dict], growth: list[dict]) -> dict:
    machine = {"processor": "P", "cores": 2, "memory_gb": 8.0}
    about = {"data": "d", "encoder": "e", "encoder_dim": 384, "dim": 128, "query_tokens_mean": 20.0}
    report = {"machine": machine, "vectors": about, "queries": 5, "growth_queries": 5, "growth_noise": 0.4, "seed": 0}
    report |= {"threads": 2, "rounds": 1, "corpora": corpora, "growth": growth}
    return {**report, "bars": bars(report)}


def test_bars_take_the_cheapest_setting_that_is_good_enough():
    ours = engine_row("hiperrag-4bit", "hiperrag", 66_000, 4.0, ("fast", 0.9, 1.0), ("balanced", 0.96, 3.0))
    ours["settings"].append({**ours["settings"][0], "label": "exact", "recall": 0.97, "cpu_ms_p50": 6.0})
    small = engine_row("hiperrag-2bit", "hiperrag", 35_000, 3.0, ("balanced", 0.91, 2.0))
    peer = engine_row("fast-plaid-4bit", "fast-plaid", 84_000, 50.0, ("default", 0.95, 40.0), ("quick", 0.9, 20.0))
    numpy = engine_row("numpy", "NumPy fp32", 512_000, 0.0, ("exact", 1.0, 29.0))
    failed = {
        "name": "slow",
        "family": "WARP",
        "options": {},
        "failed": "build: not done after 9 CPU-s",
        "settings": [],
    }
    corpus = {"passages": 3_000, "tokens": 1_000, "engines": [ours, small, peer, numpy, failed]}
    growth = [
        {
            "passages": size,
            "real_passages": 1_000,
            "synthetic_in_truth": 0.25,
            "tokens": 1_000,
            "engines": [engine_row(*row), {**failed, "name": f"slow-{size}"}],
        }
        for size, row in (
            (100_000, ("hiperrag-4bit", "hiperrag", 66_000, 5.0, ("balanced", 0.96, 10.0))),
            (1_000_000, ("hiperrag-4bit", "hiperrag", 66_000, 50.0, ("balanced", 0.95, 35.0))),
        )
    ]
    report = report_of([corpus], growth)
    met = {bar["bar"].split(": ")[-1][:22]: (bar["measured"].split()[0], bar["met"]) for bar in report["bars"]}
    assert met == {
        "CPU time per query at ": ("0.075", True),
        "best recall, not count": ("0.910", True),
        "CPU time of NumPy brut": ("4.8", False),
        "build CPU time over fa": ("0.080", True),
        "single-query CPU ms, p": ("10", True),
        "the same setting from ": ("3.50", False),
    }
    text = markdown(report)
    assert "| slow | build: not done after 9 CPU-s |" in text
    assert "| hiperrag-4bit | 1,000,000 | 1,000 | 0.75 | balanced | 0.950 |" in text
    assert "synthetic" in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_table_sets_numbers_flush_right():
    lines = table(("a", "b", "c"), [("x", 1234, "words"), ("y", 0.12345, "–")])
    assert lines == ["| a | b | c |", "| --- | ---: | --- |", "| x | 1,234 | words |", "| y | 0.123 | – |"]


def test_texts_are_cut_at_sentences_and_read_from_both_forms(tmp_path):
    beir, pubmedqa = tmp_path / "beir", tmp_path / "pubmedqa"
    beir.mkdir()
    pubmedqa.mkdir()
    text = "One two three four. Five six seven eight. Nine ten."
    (beir / "corpus.jsonl").write_text(json.dumps({"_id": "1", "title": "T", "text": text}) + "\n", encoding="utf-8")
    (beir / "queries.jsonl").write_text(json.dumps({"_id": "1", "text": "Which?"}) + "\n", encoding="utf-8")
    item = {"QUESTION": "Does it?", "CONTEXTS": ["Context one.", "Context two."]}
    (pubmedqa / "ori_pqal_dev.json").write_text(json.dumps({"7": item}), encoding="utf-8")
    assert list(cut(text, 8)) == ["One two three four. Five six seven eight.", "Nine ten."]
    passages, queries, sources = read_texts(tmp_path)
    assert passages == [f"T {text}", "Context one.", "Context two."]
    assert queries == ["Which?", "Does it?"]
    assert sources == ["beir", "pubmedqa"]
    with pytest.raises(UserError, match="BEIR"):
        read_texts(tmp_path / "nothing")


def test_command_writes_json_table_and_pictures(vectors, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    command = ["--vectors", str(vectors.folder), "--work", str(tmp_path / "work"), "--out", str(out)]
    assert main([*command, "--sizes", "50", "all", "--engines", "numpy", "--queries", "4", "--rounds", "2"]) == 0
    report = json.loads((out / "late_interaction.json").read_text(encoding="utf-8"))
    assert [corpus["passages"] for corpus in report["corpora"]] == [50, PASSAGES]
    assert "processor" in report["machine"]
    assert "| numpy | exact | 1.000 |" in (out / "late_interaction.md").read_text(encoding="utf-8")
    for picture in ("recall_cpu", "bytes", "build"):
        assert (out / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert main([*command, "--sizes", "99999"]) == 2
    assert "--sizes" in capsys.readouterr().err
