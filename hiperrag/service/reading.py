"""What the routes for readers share: the open library of each collection, and the one renderer of pages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from fastapi import FastAPI, Request

from hiperrag.service.auth import collection_of, service
from hiperrag.service.library import Library
from hiperrag.service.rendering import PageRenderer

if TYPE_CHECKING:
    from hiperrag.service.serving import ServedCollection

_T = TypeVar("_T")
_making = threading.Lock()


class Reading:
    """Libraries, each for the version of its collection that is served; thread-safe."""

    def __init__(self) -> None:
        self.renderer = PageRenderer()
        self._libraries: dict[str, Library] = {}
        self._lock = threading.Lock()

    def library(self, served: ServedCollection) -> Library:
        """The library of the version that is served at this moment."""
        with self._lock, served.pinned() as version:
            library = self._libraries.get(served.name)
            if library is None or library.manifest is not version.manifest:
                library = self._libraries[served.name] = Library(version.collection, version.manifest)
            return library

    def close(self) -> None:
        """End the processes that draw pages."""
        self.renderer.close()


def reading(app: FastAPI) -> Reading:
    """The application's one Reading, made when it is first needed."""
    with _making:
        if not hasattr(app.state, "reading"):
            app.state.reading = Reading()
        found: Reading = app.state.reading
        return found


def close_reading(app: FastAPI) -> None:
    """Call when the application ends."""
    if hasattr(app.state, "reading"):
        app.state.reading.close()


async def with_library(request: Request, name: str, work: Callable[[Library], _T]) -> _T:
    """What `work` makes of a collection's library, in a thread: it reads files."""
    served = collection_of(request, name, "name")
    shared = reading(request.app)
    return await service(request).run(lambda: work(shared.library(served)))
