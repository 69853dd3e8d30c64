"""What tests share: the sample papers, the packaged models, development data where it is present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hiperrag.errors import UserError
from hiperrag.models import get

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")


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
