"""The report of a run: one file that says what its log says."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from run_logs import PlantedRun, ordinary_run

from hiperrag.workflows import drawing, report
from hiperrag.workflows.report import energy_by_host, spread, write_report
from hiperrag.workflows.tasklog import read_tasks

SVG = "{http://www.w3.org/2000/svg}"


def pictures(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


class Links(HTMLParser):
    """Everything in a page that a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "link", "img", "iframe"):
            self.found.append((tag, None))
        self.found += [(tag, value) for name, value in attrs if name in ("src", "href") or name.startswith("on")]


def test_the_report_is_whole_and_needs_nothing_else(tmp_path):
    path = write_report(ordinary_run().write(tmp_path))
    text = path.read_text()
    assert path.name == "report.html"
    links = Links()
    links.feed(text)
    assert not links.found
    throughput, gantt, shares = pictures(text)
    assert len(throughput.findall(f"{SVG}polyline")) == 3
    assert [one.text for one in gantt.iter(f"{SVG}title") if one.text and "shard 0 part" in one.text]
    assert "encode limits throughput" in text
    assert len(shares.findall(f"{SVG}rect")) == 4


def test_the_gantt_picture_has_every_task_where_it_was(tmp_path):
    planted = PlantedRun(2, 2)
    planted.task("parse", 0, "n0:0.0", 0, 50, n_pages=1)
    planted.task("parse", 1, "n0:0.1", 50, 50, n_pages=1)
    planted.add(100, "run_finished")
    gantt = pictures(write_report(planted.write(tmp_path)).read_text())[1]
    first, second = (one for one in gantt.findall(f"{SVG}rect") if one.find(f"{SVG}title") is not None)
    width = drawing.WIDTH - drawing.LEFT - drawing.RIGHT
    assert float(first.get("x", 0)) == pytest.approx(drawing.LEFT, abs=0.1)
    assert float(second.get("x", 0)) == pytest.approx(drawing.LEFT + width / 2, abs=0.1)
    assert float(second.get("width", 0)) == pytest.approx(width / 2, abs=0.5)
    assert float(second.get("y", 0)) > float(first.get("y", 0))
    assert first.find(f"{SVG}title").text == "parse, shard 0 part 0: 50s"


def test_very_many_tasks_and_workers_still_make_a_small_file(tmp_path):
    planted = PlantedRun(200, 20_000)
    for part in range(20_000):
        worker = part % 200
        planted.task("parse", part, f"n{worker:03d}:0.0", part // 200 * 1.0, 0.9, n_pages=10)
    planted.add(100, "run_finished")
    path = write_report(planted.write(tmp_path))
    assert path.stat().st_size < 2_000_000
    assert f"{report.GANTT_ROWS} of 200 workers are shown" in path.read_text()


def test_throughput_counts_everything_once():
    rng = np.random.default_rng(1)
    started = rng.uniform(0, 100, 50)
    finished = started + rng.uniform(0, 30, 50)
    amount = rng.uniform(1, 9, 50)
    edges = np.linspace(started.min(), finished.max(), 41)
    per_bin = spread(started, finished, amount, edges)
    assert per_bin.sum() == pytest.approx(amount.sum())
    middle = slice(10, 20)
    overlap = np.minimum(finished, edges[20]) - np.maximum(started, edges[10])
    assert per_bin[middle].sum() == pytest.approx((amount * np.maximum(overlap, 0) / (finished - started)).sum())


def test_failures_are_listed_and_foreign_text_is_no_markup(tmp_path):
    planted = ordinary_run()
    planted.trouble(50, "part_failed", "encode", 3, "n1", "<script>alert(1)</script> & more")
    text = write_report(planted.write(tmp_path)).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
    assert "<script" not in text
    assert "encode, shard 0 part 3" in text


def test_energy_of_tasks_side_by_side_is_counted_once(tmp_path):
    planted = PlantedRun(4, 4)
    planted.task("encode", 0, "n0:0.0", 0, 10, n_tokens=5, joules=[0, 1000])
    planted.task("encode", 1, "n0:0.1", 5, 10, n_tokens=5, joules=[0, 1000])
    planted.task("encode", 2, "n1:0.0", 0, 10, n_tokens=5, joules=[50, 250])
    planted.task("encode", 3, "n2:0.0", 0, 10, n_tokens=5)
    planted.add(20, "run_finished")
    folder = planted.write(tmp_path)
    assert energy_by_host(read_tasks(folder)) == pytest.approx({"n0": 1500, "n1": 200})
    assert "0.0005 kWh" in write_report(folder).read_text()


def test_a_run_with_nothing_to_do_or_killed_at_once_has_a_report(tmp_path, hiperrag):
    planted = PlantedRun(1, 0)
    planted.add(1, "run_finished")
    folder = planted.write(tmp_path / "c")
    status, output, _ = hiperrag("status", tmp_path / "c", "--report")
    assert (status, output.strip()) == (0, str(folder / "report.html"))
    killed = write_report(PlantedRun(1, 5).write(tmp_path / "killed")).read_text()
    assert "the run was killed" in killed
    assert "no host let its workers read an energy meter" in killed


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (1.1, 2), (2.3, 2.5), (3, 5), (700, 1000), (0.03, 0.05)])
def test_axes_end_at_round_numbers(value, expected):
    assert drawing.nice(value) == pytest.approx(expected)
