"""API keys: made at random, shown once, kept as hashes in a JSON file.

A key holds 256 random bits, so that nobody finds it from its SHA-256: a slow hash is for passwords that people choose.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import secrets
import stat
import threading
import time
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from hiperrag.errors import UserError, first_mistake
from hiperrag.files import atomic_file
from hiperrag.service.errors import log

PREFIX = "hrk_"
"""What every key begins with, so that scanners of repositories and logs know it."""
_RANDOM_BYTES = 32
_LOOK_EVERY_S = 1.0


class Key(BaseModel):
    """One key as it is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64, pattern=r"^[\w.@ -]+$")
    """Who holds it; what logs and metrics say."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    collections: list[str] | None = None
    """Names of the collections it opens; None for all."""
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= datetime.datetime.now(datetime.UTC)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[Key]


def digest(key: str) -> str:
    """What is kept of a key: the hex SHA-256 of its UTF-8 text."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read(path: Path) -> list[Key]:
    """The keys of a file; UserError where it is no file of keys, or where others than its owner may write it."""
    try:
        with path.open(encoding="utf-8") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            text = stream.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of keys; `hiperrag keys add {path} NAME` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a file of keys ({error})") from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{path}: others than its owner may write it; run `chmod go-w {path}`")
    try:
        keys = _File.model_validate_json(text).keys
    except ValidationError as error:
        raise UserError(f"{path}: not a file of keys made by `hiperrag keys` ({first_mistake(error)})") from None
    if len({key.name for key in keys}) != len(keys):
        raise UserError(f"{path}: a name occurs twice; every key needs its own")
    return keys


def add(path: Path, name: str, collections: list[str] | None, expires: datetime.datetime | None) -> str:
    """Make a key, keep its hash in the file (made where it is not there), and return it: it cannot be had again."""
    keys = read(path) if path.exists() else []
    if any(key.name == name for key in keys):
        raise UserError(f"{path}: there is a key for {name!r}; remove it first, or choose another name")
    secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    try:
        key = Key(name=name, sha256=digest(secret), collections=collections, created=now, expires=expires)
    except ValidationError as error:
        raise UserError(f"a key cannot be made like that: {first_mistake(error)}") from None
    _write(path, [*keys, key])
    return secret


def remove(path: Path, name: str) -> None:
    """Take a key out of the file; a running service refuses it from the next second on."""
    keys = read(path)
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        raise UserError(f"{path}: no key for {name!r}; `hiperrag keys list {path}` names them")
    _write(path, left)


def _write(path: Path, keys: list[Key]) -> None:
    try:
        with atomic_file(path) as temporary:
            temporary.touch(0o600)
            text = json.dumps(_File(keys=keys).model_dump(mode="json"), indent=2, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


class KeyRing:
    """The keys of a file, read again when it changes. A file that cannot be read opens nothing: nobody gets in."""

    def __init__(self, path: Path) -> None:
        """Raises UserError where the file cannot be read."""
        self._path = path
        self._lock = threading.Lock()
        self._state = self._look()
        self._keys = {key.sha256: key for key in read(path)}
        self._looked = time.monotonic()

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, hashed: str) -> Key | None:
        """The key with this digest, unless it was removed or has expired."""
        with self._lock:
            self._refresh()
            key = self._keys.get(hashed)
        return None if key is None or key.is_expired() else key

    def _refresh(self) -> None:
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        state = self._look()
        if state == self._state:
            return
        self._state = state
        try:
            self._keys = {key.sha256: key for key in read(self._path)}
            log.warning("the file of keys was read again: %d keys", len(self._keys))
        except UserError as error:
            self._keys = {}
            log.error("no key is accepted: %s", error)

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode
