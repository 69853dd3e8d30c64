"""What the commands say of a collection on which a stage failed, and that they agree."""

from __future__ import annotations

import json

import pytest
from collection_helpers import InlinePool, write_rows


@pytest.fixture
def failed(tmp_path, in_process, hiperrag):
    """Chunking fails on everything: the outcome of `index`, the collection, its sources."""

    def fault(name: str, call: int) -> None:
        if name == "chunk_part":
            raise ValueError("words fail me")

    InlinePool.fault = staticmethod(fault)
    source = write_rows(tmp_path / "rows.jsonl", [{"_id": "r0", "text": "Quokkas feed on leaves."}])
    outcome = hiperrag("index", source, "--to", tmp_path / "c", "--quiet")
    InlinePool.fault = staticmethod(lambda name, call: None)
    return outcome, tmp_path / "c", source


def test_index_ends_in_one_line_and_exit_2_and_a_rerun_mends_it(failed, hiperrag):
    (status, _, errors), root, source = failed
    assert status == 2
    assert errors[-1].startswith(f"hiperrag: {root}: a stage failed on all inputs")
    assert any("quarantined: 1 of 1 input (1 stage_failed)" in line for line in errors)
    assert hiperrag("index", source, "--to", root, "--quiet")[0] == 0
    assert hiperrag("doctor", root)[0] == 0


def test_the_doctor_says_the_same_of_the_collection_and_of_its_run(failed, hiperrag):
    _, root, _ = failed
    run = next(root.glob("runs/*"))
    for path in (root, run):
        status, output, _ = hiperrag("doctor", path)
        bad = [line for line in output.splitlines() if line.startswith("BAD")]
        assert (status, len(bad)) == (1, 1), output
        assert "1 part failed in chunk" in bad[0]
        assert "tries" in bad[0]


def test_status_counts_what_failed_as_failed(failed, hiperrag):
    _, root, _ = failed
    stages = json.loads(hiperrag("status", root, "--json")[1])["runs"][0]["stages"]
    assert (stages["chunk"]["done"], stages["chunk"]["quarantined"]) == (1, 1)
    assert (stages["encode"]["done"], stages["encode"]["total"]) == (0, 0), "it never came there"
    assert (stages["build"]["done"], stages["build"]["total"]) == (1, 1)
    output = hiperrag("status", root)[1]
    assert "1 part failed" in output
    assert "build              1 of 1 shard" in output
