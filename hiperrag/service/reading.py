"""What the routes for readers share: the open catalogue of each collection, and the one renderer of pages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from fastapi import FastAPI, Request

from hiperrag.service.auth import collection_of, service
from hiperrag.service.catalogue import Catalogue
from hiperrag.service.rendering import PageRenderer

if TYPE_CHECKING:
    from hiperrag.service.serving import ServedCollection

_T = TypeVar("_T")
_making = threading.Lock()


class Reading:
    """Libraries, each for the version of its collection that is served; thread-safe."""

    def __init__(self) -> None:
        self.renderer = PageRenderer()
        self._catalogues: dict[str, Catalogue] = {}
        self._lock = threading.Lock()

    def catalogue(self, served: ServedCollection) -> Catalogue:
        """The catalogue of the version that is served at this moment."""
        with self._lock, served.pinned() as version:
            catalogue = self._catalogues.get(served.name)
            if catalogue is None or catalogue.manifest is not version.manifest:
                catalogue = self._catalogues[served.name] = Catalogue(version.collection, version.manifest)
            return catalogue

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


async def with_catalogue(request: Request, name: str, work: Callable[[Catalogue], _T]) -> _T:
    """What `work` makes of a collection's catalogue, in a thread: it reads files."""
    served = collection_of(request, name, "name")
    shared = reading(request.app)
    return await service(request).run(lambda: work(shared.catalogue(served)))
