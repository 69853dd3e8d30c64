"""What a service is told when it starts."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of collections, as they occur in `hiperrag/NAME` and in URLs."""
_HIGHEST_PORT = 65_535


class ServiceSettings(BaseModel):
    """Settings of `hiperrag serve`; 0 switches a limit off where that is said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=_HIGHEST_PORT)] = 8080
    """0: any free one."""
    collections: dict[str, Path]
    generators: Annotated[list[str], Field(min_length=1)] = ["default"]
    """`--generator` specs; the first is preferred, the others are asked when it fails."""
    keys_file: Path | None = None
    """Hashed API keys (see keys.py); None: whoever reaches the address may use the service."""
    no_keys: bool = False
    """Said explicitly, a service without keys may listen on an address that other machines reach."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    base_url: Annotated[str, Field(pattern=r"^(https?://[^\s?#]+)?$")] = ""
    """Address that citations are written with; empty: the one the request was sent to."""
    trusted_proxies: list[str] = []
    """Addresses whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    audit_log: Path | None = None
    max_request_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    request_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """From the request's first byte to the answer's last."""
    requests_per_minute: Annotated[int, Field(ge=0)] = 300
    """Of one key, or of one client address where there are no keys; 0: any number."""
    concurrent_requests: Annotated[int, Field(ge=1, le=4096)] = 256
    """Requests being worked on at a time, of all callers together; each has a thread."""
    heartbeat_s: Annotated[float, Field(gt=0)] = 10.0
    shutdown_s: Annotated[float, Field(ge=0)] = 10.0
    """How long answers in the making may go on once the service is told to stop."""
    processes: Annotated[int, Field(ge=0)] = 0
    """Shard processes of each collection; 0: shards are searched in the service's own process."""

    @field_validator("collections")
    @classmethod
    def _named(cls, collections: dict[str, Path]) -> dict[str, Path]:
        if not collections:
            raise ValueError("name a collection to serve")
        for name in collections:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be a collection's name in a URL; give NAME=PATH with a plain NAME")
        return collections

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key go together")
        if self.keys_file and self.no_keys:
            raise ValueError("--keys and --no-keys contradict each other; give one of them")
        if not (self.on_loopback or self.keys_file or self.no_keys):
            raise ValueError(
                f"{self.host} can be reached from other machines: give --keys FILE (see `hiperrag keys add`), "
                "or --no-keys where everybody may read the collections"
            )
        return self

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def scheme(self) -> str:
        """`https` where the service itself speaks TLS."""
        return "https" if self.tls_certificate else "http"

    @property
    def public_host(self) -> str:
        """Host and port of `base_url`; empty where that is not set."""
        return self.base_url.partition("://")[2].partition("/")[0]
