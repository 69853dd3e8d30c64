"""Bearer tokens: from an environment variable, or from a command that is run again when one expires."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import time
from collections.abc import Callable

from hiperrag.answering.generators.base import UnavailableError
from hiperrag.answering.generators.options import COMMAND_VARIABLE, KEY_VARIABLE, EndpointOptions

COMMAND_TIMEOUT_S = 60.0
MARGIN_S = 60.0
"""A token with less time left than this is replaced before it is used."""
MASK = "***"


class Tokens:
    """The bearer token of one endpoint. Never part of a message; `conceal` takes it out of others' messages."""

    def __init__(self, options: EndpointOptions, clock: Callable[[], float] = time.time) -> None:
        self._variable = options.key_env
        plain = options.key_env == KEY_VARIABLE
        self._command = options.token_command or (os.environ.get(COMMAND_VARIABLE, "") if plain else "")
        self._clock = clock
        self._token: str | None = None
        self._expires: float | None = None
        self._refreshing = asyncio.Lock()

    @property
    def renewable(self) -> bool:
        """Whether a token that the server refuses can be replaced."""
        return bool(self._command)

    @property
    def advice(self) -> str:
        """What to do about a refused token."""
        if self._command:
            return "see that the token command prints a token which this server accepts"
        return f"set {self._variable or KEY_VARIABLE} to a key this server accepts"

    async def current(self) -> str | None:
        """The token to send, if any; UnavailableError where the command does not give one."""
        if not self._command:
            return (self._variable and os.environ.get(self._variable)) or None
        async with self._refreshing:  # one run of the command serves all who wait
            if self._token is None or self._left() < MARGIN_S:
                await self._refresh()
            return self._token

    def refused(self, token: str | None) -> None:
        """The server does not accept `token`: the next call of `current` runs the command."""
        if token == self._token:
            self._token = None

    def conceal(self, text: str) -> str:
        """`text` without the secret."""
        secrets = (self._token, os.environ.get(self._variable) if self._variable else None)
        for secret in filter(None, secrets):
            text = text.replace(secret, MASK)
        return text

    def _left(self) -> float:
        return float("inf") if self._expires is None else self._expires - self._clock()

    async def _refresh(self) -> None:
        try:
            token = await _output(self._command)
        except UnavailableError:
            if self._token is not None and self._left() > 0:
                return  # the one at hand still serves
            raise
        self._token, self._expires = token, expiry(token)


async def _output(command: str) -> str:
    """The last line that the command prints; what it says otherwise goes nowhere, since it may hold secrets."""
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except (OSError, ValueError) as error:
        raise UnavailableError(f"the token command cannot be run ({type(error).__name__})") from None
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            printed, _ = await process.communicate()
    except TimeoutError:
        raise UnavailableError(f"the token command printed nothing within {COMMAND_TIMEOUT_S:g} seconds") from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise UnavailableError(f"the token command failed with exit status {process.returncode}")
    lines = printed.decode("ascii", errors="replace").split("\n")
    token = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UnavailableError("the last line that the token command prints is no token")
    return token


def expiry(token: str) -> float | None:
    """Seconds since the epoch at which a JSON Web Token ends (RFC 7519, section 4.1.4); None for any other."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (ValueError, KeyError, TypeError):
        return None
