"""How long does a rerun take that finds everything done? `python -m hiperrag.benchmarks.scheduling.rerun --out DIR`.

A finished collection of 10^5 files is made up: the files are holes of different sizes, the plan and all names are those
of a real run, each shard is a copy of a real one. `hiperrag index` then has to find that there is nothing to do. Files
opened are counted by Python's audit hook.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hiperrag import encoders
from hiperrag.collection import FORMAT_VERSION, Collection, Manifest, PartEntry, ShardEntry, count
from hiperrag.machine import describe_machine
from hiperrag.parsing.sources import discover
from hiperrag.workflows.costs import Costs, rates_for
from hiperrag.workflows.plan import Plan, extend_plan, save_plan
from hiperrag.workflows.run import index_sources
from hiperrag.workflows.settings import IndexSettings, PartSettings
from hiperrag.workflows.sites import load_site
from hiperrag.workflows.stages import Namer, PartNames

FILES_PER_FOLDER = 1000


def make_sources(folder: Path, n: int) -> None:
    """Files of no content, no two of the same size."""
    for number in range(n):
        path = folder / f"{number // FILES_PER_FOLDER:03d}" / f"{number:06d}.pdf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, 10_000 + number)


def real_shard(folder: Path) -> tuple[Path, ShardEntry]:
    """One that holds a sentence."""
    source = folder / "rows.jsonl"
    source.write_text('{"_id": "1", "text": "Copper conducts heat."}\n', encoding="utf-8")
    index_sources([str(source)], folder / "c", load_site("local"), quiet=True)
    collection = Collection(folder / "c")
    entry = collection.manifest().shards[0]
    return collection.shard_path(entry.name), entry


def make_collection(sources: Path, root: Path, settings: IndexSettings, shard: Path, like: ShardEntry) -> None:
    """What a run that indexed the sources would leave."""
    collection, site = Collection(root), load_site("local")
    encoder = encoders.describe(settings.encode.encoder)
    found = discover([str(sources)])
    seconds = Costs(rates_for(collection), site).longest
    plan = extend_plan(Plan(), found.inputs, lambda _: False, lambda _: b"", settings.parts, seconds, site.n_workers)
    save_plan(collection, plan)
    name, entries = Namer(settings, encoder), []
    for number, parts in enumerate(plan.shards):
        entry = like.model_copy(
            update={
                "name": f"{number:05d}-00000000",
                "parts": [_part(collection, name(part), len(part)) for part in parts],
            }
        )
        shutil.copytree(shard, collection.shard_path(entry.name))
        entries.append(entry)
    collection.commit(
        Manifest(
            format=FORMAT_VERSION,
            hiperrag="0",
            encoder=encoder,
            settings=settings.model_dump(mode="json"),
            settings_hash=settings.identity(),
            run="",
            shards=entries,
            counts=count(entries),
        )
    )


def _part(collection: Collection, names: PartNames, n: int) -> PartEntry:
    for path in (
        collection.documents_path(names.documents),
        collection.quarantine_path(names.documents),
        collection.passages_path(names.passages),
    ):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return PartEntry(
        documents=names.documents,
        passages=names.passages,
        vectors=names.vectors,
        inputs=names.inputs,
        n_rows=n,
        n_inputs=n,
        n_documents=n,
        n_quarantined=0,
        n_pages=n,
        n_passages=n,
        n_tokens=n,
        n_truncated=0,
    )


def rerun(sources: Path, root: Path) -> dict[str, Any]:
    """Index again; seconds, and how many files were opened where."""
    opened: Counter[str] = Counter()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):
            opened["inputs"] += arguments[0].startswith(str(sources))

    sys.addaudithook(note)
    wall, cpu = time.monotonic(), time.process_time()
    summary = index_sources([str(sources)], root, load_site("local"), quiet=True)
    return {
        "wall": time.monotonic() - wall,
        "cpu": time.process_time() - cpu,
        "documents": summary.counts.documents,
        "new_documents": summary.new_documents,
        "parts": summary.counts.parts,
        "shards": summary.counts.shards,
        "inputs_opened": opened["inputs"],
        "tasks": sum(1 for _ in root.glob("runs/*/parsl")),
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--files-per-part", type=int, nargs="+", default=[PartSettings().files_per_part])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "one").mkdir()
        shard, like = real_shard(work / "one")
        make_sources(work / "in", given.documents)
        for files in given.files_per_part:
            settings = IndexSettings(parts=PartSettings(files_per_part=files))
            make_collection(work / "in", work / "c", settings, shard, like)
            found.append({"files_per_part": files, **rerun(work / "in", work / "c")})
            print(json.dumps(found[-1]), flush=True)
            shutil.rmtree(work / "c")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        result = {"machine": describe_machine(), "load": os.getloadavg(), "reruns": found}
        (given.out / "rerun.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
