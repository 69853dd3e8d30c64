"""Search over the ranks of an MPI job: what one process finds, to the bit; and an end to every failure."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from hiperrag.errors import UserError
from hiperrag.index import launch
from hiperrag.index.build import encode_piece, write_shard
from hiperrag.index.distributed import DistributedSearcher
from hiperrag.index.portion import Source, deal
from hiperrag.index.ranks import Ranks
from hiperrag.index.search import Match, Searcher
from hiperrag.index.shard import Mask, Shard
from hiperrag.records import Passage

MPIEXEC = Path(sys.executable).with_name("mpiexec")
DIM, POOLED = 32, 16
SIZES = (150, 400, 1, 220)
WORDS = [
    "late",
    "interaction",
    "scores",
    "passages",
    "by",
    "tokens",
    "graphene",
    "lattice",
    "protein",
    "folding",
    "plasma",
    "heat",
]
TIMEOUT_S = 120


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.standard_normal(shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def passage(number: int, text: str) -> Passage:
    return Passage(f"p{number}", f"d{number}", f"d{number}.pdf", "", 0, "paragraph", "", text, 0, 0, [], 5)


def make_shards(root: Path) -> list[Source]:
    """Shards of clustered vectors; every tenth passage has no tokens, and every fourth one repeats in every shard."""
    rng = np.random.default_rng(5)
    centres, repeated = unit(rng, 12, DIM), unit(rng, 6, DIM)
    sources, first = [], 0
    for number, n in enumerate(SIZES):
        lengths = rng.integers(3, 12, n)
        lengths[9::10] = 0
        tokens = []
        for row, length in enumerate(lengths):
            noisy = centres[rng.integers(0, 12, length)] + 0.7 * unit(rng, length, DIM)
            tokens.append(repeated[:length] if row % 4 == 1 else noisy / np.linalg.norm(noisy, axis=1, keepdims=True))
            lengths[row] = len(tokens[-1])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        pooled = unit(rng, n, POOLED)
        pooled[1::4] = repeated[0, :POOLED] / np.linalg.norm(repeated[0, :POOLED])
        passages = [passage(first + row, " ".join(rng.choice(WORDS, rng.integers(1, 9)))) for row in range(n)]
        piece = encode_piece(np.concatenate(tokens), offsets, pooled, 4)
        write_shard(root / str(number), [piece], n, int(offsets[-1]), lambda kept=passages: kept)
        deleted = rng.random(n) < 0.2 if number in (0, 3) else None
        sources.append(Source(root / str(number), int(offsets[-1]), deleted))
        first += n
    return sources


@dataclasses.dataclass(frozen=True)
class Case:
    """A search; masks: the share of passages that may be found in each shard, None for all."""

    quality: str | int
    k: int
    n_queries: int = 3
    kept: tuple[float | None, ...] | None = None
    words: bool = False

    def queries(self) -> list[np.ndarray]:
        rng = np.random.default_rng(8)
        return [unit(rng, length, DIM) for length in (6, 1, 11, 4, 8, 2, 3)[: self.n_queries]]

    def masks(self) -> list[Mask | None] | None:
        rng = np.random.default_rng(9)
        if self.kept is None:
            return None
        return [None if p is None else rng.random(n) < p for p, n in zip(self.kept, SIZES, strict=True)]

    def texts(self) -> list[str]:
        rng = np.random.default_rng(10)
        return [" ".join(rng.choice(WORDS, 3)) for _ in range(self.n_queries)]


CASES = [
    Case("balanced", 10),
    Case("fast", 10, n_queries=1),
    Case(20, 5, n_queries=7),
    Case(7, 3, n_queries=1),
    Case(1, 1),
    Case("balanced", 5_000),
    Case("exact", 10),
    Case("exact", 500, n_queries=1),
    Case("exact", 10, n_queries=2, kept=(0.5, 0.0, None, 0.9)),
    Case(20, 10, kept=(0.5, 0.1, None, 0.9)),
    Case("balanced", 30, kept=(0.02, 0.0, 1.0, 0.0)),
    Case("fast", 5, kept=(0.0,) * len(SIZES)),
    Case(20, 10, words=True),
    Case(20, 10, n_queries=1, kept=(0.5, 0.1, None, 0.9), words=True),
    Case("exact", 10, kept=(0.5, 0.1, None, 0.9), words=True),
]


def plain(sources: list[Source], case: Case) -> list[list[Match]]:
    """What one process finds."""
    searcher = Searcher([Shard(source.folder, source.deleted) for source in sources], threads=1)
    texts = case.texts() if case.words else None
    return searcher.search(case.queries(), case.k, case.quality, case.masks(), texts)


def tell(matches: list[list[Match]]) -> str:
    """Matches with every bit of their scores."""
    return "\n".join(" ".join(f"{m.shard}:{m.row}:{m.score.hex()}" for m in found) for found in matches)


def pooled_queries() -> np.ndarray:
    return unit(np.random.default_rng(11), 4, POOLED)


POOLED_MASKS = Case("exact", 10, kept=(0.5, 0.0, None, 0.9)).masks()


def everything(sources: list[Source], search: Callable[[Case], list[list[Match]]], pooled) -> str:
    parts = [f"{case}\n{tell(search(case))}" for case in CASES]
    for number, query in enumerate(pooled_queries()):
        for masks in (None, POOLED_MASKS):
            parts.append(f"pooled {number}\n{tell([pooled(query, 7, masks), pooled(query, 400, masks)])}")
    return "\n".join(parts)


# What the ranks run: `python test_distributed.py TASK SHARDS`.


def sources_of(root: Path) -> list[Source]:
    with np.load(root / "deleted.npz") as deleted:
        return [
            Source(
                root / str(number),
                Shard(root / str(number)).description.n_tokens,
                deleted.get(str(number)),
            )
            for number in range(len(SIZES))
        ]


def task_everything(root: Path, ranks: Ranks) -> None:
    sources = sources_of(root)
    searcher = DistributedSearcher(ranks, sources)
    print(
        everything(
            sources,
            lambda case: searcher.search(
                case.queries(), case.k, case.quality, case.masks(), case.texts() if case.words else None
            ),
            searcher.search_pooled,
        )
    )
    assert searcher.shards[1].passages[3].passage_id == f"p{SIZES[0] + 3}"
    assert searcher.search([], 10) == []


def task_rounds(root: Path, ranks: Ranks) -> None:
    """The same in rounds of one query each."""
    ranks.call(ShortMessages())
    task_everything(root, ranks)


@dataclasses.dataclass(frozen=True)
class ShortMessages:
    def __call__(self, ranks: Ranks) -> None:
        from hiperrag.index import distributed

        distributed.MESSAGE_BYTES = 1


def task_refuse(root: Path, ranks: Ranks) -> None:
    DistributedSearcher(ranks, sources_of(root))
    raise UserError("rank 0 does not like this")


def task_two(root: Path, ranks: Ranks) -> None:
    """Two indexes open at once, one of them half of the other; and errors that leave the ranks at work."""
    sources = sources_of(root)
    whole, half = DistributedSearcher(ranks, sources), DistributedSearcher(ranks, sources[:2])
    with pytest.raises(UserError, match="missing"):
        DistributedSearcher(ranks, [*sources, Source(root / "nowhere", 1)])
    for searcher, expected in ((half, sources[:2]), (whole, sources)):
        case = Case("exact", 10)
        assert tell(searcher.search(case.queries(), case.k, "exact")) == tell(plain(expected, case))
    print("agreed")


def task_die(root: Path, ranks: Ranks) -> None:
    DistributedSearcher(ranks, sources_of(root))
    ranks.call(Die())


@dataclasses.dataclass(frozen=True)
class Die:
    def __call__(self, ranks: Ranks) -> None:
        if ranks.communicator.rank == ranks.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.communicator.barrier()


def task_bug(root: Path, ranks: Ranks) -> None:
    ranks.call(Bug())


@dataclasses.dataclass(frozen=True)
class Bug:
    def __call__(self, ranks: Ranks) -> None:
        if ranks.communicator.rank == ranks.size - 1:
            raise ZeroDivisionError
        ranks.communicator.barrier()


def main() -> None:
    task, root = sys.argv[1:]
    os.environ["HIPERRAG_MPI"] = "1"  # also with one rank
    try:
        launch.run(lambda ranks: globals()[f"task_{task}"](Path(root), ranks))
    except UserError as error:
        if launch.speaks():
            print(f"hiperrag: {error}", file=sys.stderr)
        sys.exit(2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[Source]:
    root = tmp_path_factory.mktemp("shards")
    sources = make_shards(root)
    np.savez(root / "deleted.npz", **{s.folder.name: s.deleted for s in sources if s.deleted is not None})
    return sources


@pytest.fixture(scope="module")
def expected(shards) -> str:
    searcher = Searcher([Shard(source.folder, source.deleted) for source in shards], threads=1)
    return everything(shards, lambda case: plain(shards, case), searcher.search_pooled)


def start(
    n: int,
    task: str,
    root: object,
    program: tuple[str, ...] = (__file__,),
    more: Sequence[object] = (),
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mpi4py")
    if not MPIEXEC.is_file():
        pytest.skip("no MPI library in this environment: pip install mpich")
    command = [str(MPIEXEC), "-n", str(n), sys.executable, *program, task, str(root), *map(str, more)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI", "MPI_"))}
    return subprocess.run(
        command,
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_any_number_of_ranks_finds_what_one_process_finds(shards, expected, n):
    done = start(n, "everything", shards[0].folder.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected.splitlines()
    assert done.stderr == ""


def test_the_cases_tell_searches_apart(shards):
    """Cuts, masks, deletions and words all change results; else the comparison above would say little."""
    told = {case: tell(plain(shards, case)) for case in CASES}
    assert told[CASES[2]] != tell(plain(shards, Case("exact", 5, n_queries=7)))
    assert told[CASES[9]] != tell(plain(shards, Case(20, 10)))
    assert told[CASES[12]] != tell(plain(shards, Case(20, 10)))
    assert told[CASES[6]] != tell(plain([Source(s.folder, s.n_tokens) for s in shards], CASES[6]))
    best = plain(shards, Case("exact", 500, n_queries=1))[0]
    assert len({match.score for match in best}) < len(best), "equal scores in several shards"
    assert told[CASES[11]].strip() == ""


def test_many_queries_go_in_rounds(shards, expected):
    done = start(3, "rounds", shards[0].folder.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == expected.splitlines()


def test_two_indexes_can_be_open(shards):
    done = start(3, "two", shards[0].folder.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "agreed\n", "")


def test_damage_that_one_rank_sees_ends_the_job_in_one_line(shards, tmp_path):
    root = tmp_path / "shards"
    shutil.copytree(shards[0].folder.parent, root)
    codes = root / "3" / "codes.npy"
    data = bytearray(codes.read_bytes())
    data[-200:] = bytes(200)
    codes.write_bytes(data)
    done = start(4, "everything", root)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("hiperrag:")] == done.stderr.splitlines()
    assert done.stderr.count("\n") == 1
    assert "wrong checksum" in done.stderr


def test_an_error_of_rank_0_ends_the_job_in_one_line(shards):
    done = start(4, "refuse", shards[0].folder.parent)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "hiperrag: rank 0 does not like this\n")


@pytest.mark.parametrize("task", ["die", "bug"])
def test_a_rank_that_fails_ends_the_job(shards, task):
    done = start(3, task, shards[0].folder.parent)
    assert done.returncode not in (0, 2)
    if task == "bug":
        assert "hiperrag: rank 2 failed; the job is aborted" in done.stderr


def test_a_missing_mpi_library_is_one_line(shards):
    done = start(1, "two", shards[0].folder.parent, MPI4PY_LIBMPI=str(shards[0].folder / "libmpi.so"))
    assert done.returncode == 2
    assert done.stderr.startswith("hiperrag: mpi4py finds no MPI library")
    assert done.stderr.count("\n") == 1


def test_a_launcher_of_another_mpi_is_found_out(shards):
    """Then every process is alone in its world, and all would answer."""
    done = start(1, "two", shards[0].folder.parent, OMPI_COMM_WORLD_SIZE="4")
    assert done.returncode == 2
    assert "the launcher started 4 processes, but mpi4py sees 1" in done.stderr


@pytest.mark.slow
def test_the_command_finds_the_same_over_ranks(tmp_path, models):
    rng = np.random.default_rng(12)
    sources = []
    for number in range(2):
        rows = [{"_id": f"{number}-{row}", "text": " ".join(rng.choice(WORDS, 12))} for row in range(8)]
        sources.append(tmp_path / f"{number}.jsonl")
        sources[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
        hiperrag("index", *sources, "--to", tmp_path / "c")
    assert len(list((tmp_path / "c" / "shards").iterdir())) == 2
    (tmp_path / "q.jsonl").write_text('{"_id": "a", "text": "protein folding"}\n{"_id": "b", "text": "plasma heat"}\n')
    for options in (("--hybrid",), ("--exact", "--where", "n_tokens > 12")):
        alone, spread = (
            json.loads(hiperrag("search", tmp_path / "c", "graphene lattice", "--json", *options, n_ranks=n))["hits"]
            for n in (0, 3)
        )
        assert alone == spread
        assert alone
    for n, name in ((0, "alone"), (2, "spread")):
        run = ("--queries", tmp_path / "q.jsonl", "--run", tmp_path / name)
        assert hiperrag("search", tmp_path / "c", *run, n_ranks=n) == ""
    assert (tmp_path / "alone").read_bytes() == (tmp_path / "spread").read_bytes() != b""


def test_the_command_says_what_is_wrong_once(tmp_path):
    done = start(4, "search", tmp_path / "none", program=("-c", HIPERRAG), more=("question",))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"hiperrag: {tmp_path / 'none'}: no such collection")
    assert done.stderr.count("\n") == 1


HIPERRAG = "from hiperrag.cli import main; main()"


def hiperrag(command: str, *arguments: object, n_ranks: int = 0) -> str:
    """Standard output of the command, over ranks or without MPI."""
    if n_ranks:
        done = start(n_ranks, command, arguments[0], program=("-c", HIPERRAG), more=arguments[1:])
        assert done.returncode == 0, done.stderr
        return done.stdout
    words = [sys.executable, "-c", HIPERRAG, command, *map(str, arguments)]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=TIMEOUT_S).stdout


def test_dealing_is_even_and_complete():
    weights = [int(weight) for weight in np.random.default_rng(3).integers(500, 1_000, 64)]
    for n_ranks in (1, 3, 16, 64, 100):
        hands = deal(weights, n_ranks)
        assert sorted(number for hand in hands for number in hand) == list(range(64))
        assert all(hand == sorted(hand) for hand in hands)
        loads = [sum(weights[number] for number in hand) for hand in hands]
        assert max(loads) - min(loads) <= max(weights), "no rank could give its lightest shard away and gain"
        assert hands == deal(weights, n_ranks)
    assert deal([1, 5, 5, 1, 2], 2) == [[1, 4], [0, 2, 3]]
    assert deal([], 2) == [[], []]


@pytest.mark.parametrize(
    ("environment", "n"),
    [
        ({}, 1),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, 1),
        ({"PMI_SIZE": "4", "PMI_RANK": "2", "MPI_LOCALNRANKS": "2"}, 4),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0"}, 8),
        ({"PMIX_RANK": "3", "SLURM_STEP_NUM_TASKS": "16", "SLURM_NTASKS": "32"}, 16),
        ({"SLURM_STEP_NUM_TASKS": "16"}, 1),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, 1),
    ],
)
def test_the_environment_tells_the_ranks(monkeypatch, environment, n):
    for name in [name for name in os.environ if name.startswith(("PMI", "OMPI", "SLURM", "HIPERRAG_MPI"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch.n_ranks() == n
    assert launch.under_mpi() == (n > 1)
    rank = next((v for k, v in environment.items() if k.endswith("_RANK")), "0")
    assert launch.speaks() == (n == 1 or rank == "0")
    monkeypatch.setenv("HIPERRAG_MPI", "1")
    assert launch.under_mpi()
    monkeypatch.setenv("HIPERRAG_MPI", "0")
    assert not launch.under_mpi()
    assert launch.speaks()


def test_searching_alone_loads_no_mpi():
    code = "import sys, hiperrag.index.distributed, hiperrag.index.search; assert 'mpi4py' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    main()
