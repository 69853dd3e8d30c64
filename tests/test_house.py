"""The rules of the house: who imports whom, what loads at start, and that the built wheel is whole."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("parsing", "encoders", "index", "workflows", "site_configs", "benchmarks")
MAY_IMPORT = {
    "spine": (),
    "parsing": ("parsing",),
    "encoders": ("encoders",),
    "index": ("index",),
    "workflows": ("workflows", "parsing", "encoders", "index", "site_configs"),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(room: str) -> list[Path]:
    files = (REPOSITORY / "hiperrag").glob("*.py") if room == "spine" else (REPOSITORY / room).rglob("*.py")
    return sorted(files)


def test_rooms_are_linked_into_the_package():
    for room in ROOMS:
        link = REPOSITORY / "hiperrag" / room
        assert link.is_symlink()
        assert link.resolve() == REPOSITORY / room


@pytest.mark.parametrize("path", [*REPOSITORY.glob("hiperrag/**/*.py"), *REPOSITORY.glob("tests/*.py")], ids=str)
def test_no_room_is_imported_by_its_bare_name(path):
    assert not {name for name in imports(path) if name.split(".")[0] in ROOMS}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room):
    front_doors = ("cli", "answering", "service", "training_data")
    for path in sources(room):
        for name in imports(path):
            steps = name.split(".")
            if steps[0] == "hiperrag" and len(steps) > 1 and steps[1] in (*ROOMS, *front_doors):
                assert steps[1] in MAY_IMPORT[room], f"{path.name} imports {name}"


def test_stages_know_nothing_of_parsl():
    for room in ("parsing", "encoders", "index"):
        for path in sources(room):
            assert not any(name.split(".")[0] == "parsl" for name in imports(path)), path
    assert not any(name.split(".")[0] == "parsl" for name in imports(REPOSITORY / "workflows" / "stages.py"))


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['hiperrag', '--help']\n"
        "from hiperrag.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'transformers', 'parsl', 'pyarrow', 'numpy', 'faiss', 'pymupdf', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "index" in done.stdout


def test_built_wheel_works_in_a_clean_environment(tmp_path, examples, models):
    """Dependencies are borrowed from this environment, hiperrag comes from the wheel alone."""
    tree = tmp_path / "tree"
    shutil.copytree(
        REPOSITORY,
        tree,
        symlinks=True,
        ignore=shutil.ignore_patterns(".git", ".venv*", ".peers", "*cache*", "build", "dist", "*.egg-info", "demo-*"),
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path / "dist", tree], check=True)
    wheel = next((tmp_path / "dist").glob("hiperrag-*.whl"))
    clean = tmp_path / "clean"
    venv.create(clean, with_pip=True, symlinks=True)
    python = clean / "bin" / "python"
    subprocess.run([python, "-m", "pip", "-q", "install", "--no-deps", wheel], check=True)
    site_packages = next(clean.glob("lib/python*/site-packages"))
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for script in ("interchange.py", "process_worker_pool.py"):
        shutil.copy(Path(sys.executable).parent / script, clean / "bin" / script)

    def run(*arguments: object) -> str:
        command = [str(clean / "bin" / "hiperrag"), *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=300).stdout

    where = subprocess.run(
        [python, "-c", "import hiperrag.parsing; print(hiperrag.parsing.__file__)"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert str(site_packages) in where
    assert "local" in run("sites")
    paper = sorted(examples.glob("*.pdf"))[0]
    run("index", paper, "--to", "collection")
    assert paper.name in run("search", "collection", "what was measured")
