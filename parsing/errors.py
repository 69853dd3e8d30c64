"""Why a file could not become a document."""

from __future__ import annotations


class ParseError(Exception):
    """A file that cannot be parsed.

    error: the class of error, one of "empty", "encrypted", "damaged", "no_pages", "no_text".
    message: one plain-language line saying what is wrong.
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(error, message)
        self.error = error
        self.message = message

    def __str__(self) -> str:
        return f"{self.error}: {self.message}"
