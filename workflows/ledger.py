"""The shards of a collection as a run builds them, and the manifest that makes them visible.

Several jobs may add to one manifest: each reads what is there when it has its turn, adds its own, and writes it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

import hiperrag
from hiperrag.claims import Claims
from hiperrag.collection import (
    FORMAT_VERSION,
    Collection,
    EncoderEntry,
    Manifest,
    ShardEntry,
    count,
    count_deleted_documents,
)
from hiperrag.files import fingerprint
from hiperrag.parsing.sources import Discovery
from hiperrag.records import Quarantined, read_quarantined, write_records
from hiperrag.workflows.plan import Plan
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.stages import PartNames

SHARE_OF_TIME = 0.05
"""What commits may take of a run. A manifest grows with the collection; committing it after every shard would take
time that grows with the square."""


class Ledger:
    """All entries of the next manifest. Shards are committed as they come, unless they replace others."""

    def __init__(
        self,
        collection: Collection,
        manifest: Manifest | None,
        settings: IndexSettings,
        encoder: EncoderEntry,
        claims: Claims,
    ) -> None:
        self.collection, self.manifest = collection, manifest
        self._settings, self._encoder, self._claims = settings, encoder, claims
        self._seen = collection.state()
        self._duplicates: list[tuple[str, str]] = []
        self._unreadable: list[Quarantined] = []
        self._uncommitted: list[PartNames] = []
        self._pause_until = 0.0
        self.entries: dict[int, ShardEntry] = {}
        """By the number of the (first) planned shard that each holds."""
        self.replaces = False
        """Whether committed shards are being replaced: then readers see the old ones until all are there."""

    @property
    def deleted(self) -> str:
        """Identity of the list of deleted documents."""
        return self.manifest.deleted if self.manifest else ""

    def note_sources(self, found: Discovery, plan: Plan) -> None:
        """Keep in mind what was left out: duplicates, and earlier unreadable sources until they can be read."""
        self._duplicates = [(item.source, kept) for item, kept in plan.duplicates]
        earlier = []
        if self.manifest and self.manifest.unreadable:
            earlier = read_quarantined([self.collection.unreadable_path(self.manifest.unreadable)])
        readable = {name for item in plan.inputs for name in (item.source, item.path)}
        listed = {entry.source: entry for entry in [*earlier, *found.unreadable] if entry.source not in readable}
        self._unreadable = [listed[source] for source in sorted(listed)]

    def add(self, number: int, entry: ShardEntry, parts: Sequence[PartNames]) -> None:
        """A shard was built of these parts, whose vectors are dropped once it is committed."""
        self.entries[number] = entry
        self._uncommitted += parts

    def commit_when_due(self) -> None:
        """Make visible what was built, unless commits have had their share of the time or another job commits."""
        if self._uncommitted and not self.replaces and time.monotonic() >= self._pause_until:
            with self._claims.turn(patience=0) as mine:
                if mine:
                    self.commit()

    def has(self, number: int) -> bool:
        """Whether a planned shard has been built, as far as is known."""
        return number in self.entries

    def refresh(self) -> None:
        """Take over what other jobs have committed since the last look."""
        state = self.collection.state()
        if state == self._seen or self.replaces:
            return
        manifest, self._seen = self.collection.manifest(), state
        known = {entry.name for entry in self.entries.values()}
        for entry in manifest.shards:
            if entry.name not in known:
                self.entries[int(entry.name.partition("-")[0])] = entry
        self._duplicates = list(dict.fromkeys([*manifest.duplicates, *self._duplicates]))
        if manifest.unreadable:
            theirs = read_quarantined([self.collection.unreadable_path(manifest.unreadable)])
            listed = {entry.source: entry for entry in [*theirs, *self._unreadable]}
            self._unreadable = [listed[source] for source in sorted(listed)]

    def commit(self) -> Manifest:
        """Make everything built so far visible, in plan order."""
        with self._claims.turn():
            self._claims.check()
            self.refresh()
            return self._commit()

    def _commit(self) -> Manifest:
        started = time.monotonic()
        shards = [entry for _, entry in sorted(self.entries.items())]
        unreadable = fingerprint(self._unreadable) if self._unreadable else ""
        if unreadable:
            write_records(self.collection.unreadable_path(unreadable), Quarantined, self._unreadable)
        manifest = Manifest(
            format=FORMAT_VERSION,
            hiperrag=hiperrag.__version__,
            encoder=self._encoder,
            settings=self._settings.model_dump(mode="json"),
            settings_hash=self._settings.identity(),
            run=self._claims.run,
            duplicates=self._duplicates,
            unreadable=unreadable,
            n_unreadable=len(self._unreadable),
            deleted=self.deleted,
            n_deleted_documents=count_deleted_documents(shards),
            shards=shards,
            counts=count(shards, len(self._unreadable)),
        )
        self.collection.commit(manifest)
        self._seen = self.collection.state()
        for names in self._uncommitted:
            shutil.rmtree(names.output(self.collection, "encode"), ignore_errors=True)
        self._uncommitted = []
        now = time.monotonic()
        self._pause_until = now + (now - started) / SHARE_OF_TIME
        return manifest

    def commit_what_is_built(self) -> None:
        """Before a run stops early, or waits for others, which may wait for this."""
        if self._uncommitted and not self.replaces:
            self.commit()
