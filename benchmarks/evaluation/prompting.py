"""Prompts are text files beside this module; a folder of files with the same names replaces any of them.

Placeholders: `${question}`, `${options}` (a line each, "A. text"), `${passages}` (each by passage.txt, a line feed
after each; empty in the closed-book arm), `${support}` (the gold text). In passage.txt: `${n}`, `${title}`, `${text}`,
`${score}`. One line feed at a file's end is not part of the prompt.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import string
from pathlib import Path

from hiperrag.errors import UserError


class Prompts:
    """The prompt files: the packaged ones, and those of a folder over them."""

    def __init__(self, folder: Path | None = None) -> None:
        packaged = importlib.resources.files(__package__).joinpath("prompts")
        self._texts = {
            file.name.removesuffix(".txt"): file.read_text(encoding="utf-8")
            for file in packaged.iterdir()
            if file.name.endswith(".txt")
        }
        if folder is not None:
            if not folder.is_dir():
                raise UserError(f"--prompts {folder}: no such folder")
            self._replace(folder)

    def _replace(self, folder: Path) -> None:
        for file in sorted(folder.glob("*.txt")):
            if file.stem not in self._texts:
                raise UserError(f"{file}: no prompt has that name; there are {', '.join(sorted(self._texts))}")
            self._texts[file.stem] = file.read_text(encoding="utf-8")

    def fill(self, name: str, **values: object) -> str:
        """The prompt `name` with its placeholders filled."""
        try:
            return string.Template(self._texts[name].removesuffix("\n")).substitute(values)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"prompt {name}.txt: {error} is no placeholder here; use {', '.join(f'${{{key}}}' for key in values)} "
                "and write $$ for a dollar sign"
            ) from None

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each prompt's text, by name."""
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(self._texts.items())}
