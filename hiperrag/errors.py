"""Errors meant for the person at the keyboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """Unusable arguments or input: one line saying what is wrong and what to do (exit code 2)."""


def first_mistake(error: ValidationError) -> str:
    """`field.within: what is wrong`, of the first mistake that pydantic found, in one line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    what = " ".join(first["msg"].removeprefix("Value error, ").split())
    return f"{where}: {what}" if where else what
