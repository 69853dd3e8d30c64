"""Prompts: the templates live beside this file as text; passages enter them as delimited data."""

from __future__ import annotations

import importlib.resources
import re
import string
from collections.abc import Collection, Sequence

from hiperrag.answering.generators.base import Message
from hiperrag.answering.hits import Hit

REFUSAL = "The collection does not say."
"""The whole answer when nothing retrieved supports one."""

_TAG = re.compile(r"<(?=\s*/?\s*passage\b)", re.IGNORECASE)


def template(name: str) -> string.Template:
    """A prompt template of this package, by file name."""
    return string.Template(importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def answer_messages(question: str, hits: Sequence[Hit], *, without: Collection[int] = ()) -> list[Message]:
    """The chat that asks for a cited answer; hit i is passage [i + 1]. Passages in `without` are not shown."""
    passages = "\n\n".join(_passage(n, hit) for n, hit in enumerate(hits, start=1) if n not in without)
    return [
        {"role": "system", "content": template("answer_system.txt").substitute(refusal=REFUSAL).strip()},
        {
            "role": "user",
            "content": template("answer_user.txt")
            .substitute(passages=passages, question=" ".join(question.split()))
            .strip(),
        },
    ]


def _passage(n: int, hit: Hit) -> str:
    """`<passage number="n">`: title and text on lines of their own; a delimiter inside the text is defused."""
    passage = hit.passage
    lines = [f"[{n}] {_defused(passage.title)}".rstrip(), _defused(passage.text)]
    return f'<passage number="{n}">\n' + "\n".join(lines) + "\n</passage>"


def _defused(text: str) -> str:
    return _TAG.sub("&lt;", " ".join(text.split()))
