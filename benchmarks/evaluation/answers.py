"""Replies to answers, strictly: what is not an answer in the asked form is none, and never a guess."""

from __future__ import annotations

import json
import re

from hiperrag.benchmarks.evaluation.items import Item

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(r"(?:the\s+)?(?:(?:right|correct)\s+)?(?:(?:answer|option)(?:\s+is)?\s*:?\s*)?", re.IGNORECASE)
_CHOSEN = re.compile(r"(\()?([A-Z])(?(1)\))(?:[.:)]\s*(.*))?\.?", re.DOTALL)
_NUMBERED = re.compile(r"[1-4]\.")


def letter_answer(reply: str, item: Item) -> int | None:
    """The option a whole reply names: "B", "(B)", "B.", "Answer: B", "B. its text", or the text of an option.

    A letter beyond the options, a letter with another option's text, several letters, or anything else beside the
    answer gives None.
    """
    reply = reply.strip()
    for index, option in enumerate(item.options):
        if _same(reply, option):
            return index
    chosen = _CHOSEN.fullmatch(reply[_end_of_opening(reply) :])
    if not chosen or LETTERS.index(chosen[2]) >= len(item.options):
        return None
    index = LETTERS.index(chosen[2])
    return index if not chosen[3] or _same(chosen[3], item.options[index]) else None


def json_answer(reply: str, item: Item) -> int | None:
    """The option that `answer_choice` of the one JSON object in a reply names by its letter."""
    start, end = reply.find("{"), reply.rfind("}")
    try:
        found = json.loads(reply[start : end + 1]) if start >= 0 else None
    except ValueError:
        return None
    choice = found.get("answer_choice") if isinstance(found, dict) else None
    return letter_answer(choice, item) if isinstance(choice, str) else None


def paper_answer(reply: str) -> str:
    """A reply as the paper's public code compares it: option number and last full stop off, in lower case."""
    if _NUMBERED.match(reply):
        reply = reply[3:]
    return reply.removesuffix(".").lower()


def _end_of_opening(reply: str) -> int:
    opening = _LETTER.match(reply)
    return opening.end() if opening else 0


def _same(text: str, option: str) -> bool:
    return " ".join(text.split()).removesuffix(".").casefold() == " ".join(option.split()).removesuffix(".").casefold()
