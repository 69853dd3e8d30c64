"""Follow-up questions: what a question means after what was said before, as one that can be searched for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hiperrag.answering.evidence import stems
from hiperrag.answering.generators.base import Generator, Message
from hiperrag.answering.prompts import template
from hiperrag.answering.writing import without_thoughts

MAX_TURNS = 6
"""Messages of the history that a generator is shown."""
MAX_TOKENS = 96
_LONGEST_MESSAGE = 1200
_LONGEST_REWRITE = 600
_FULL = 3
"""A question of more content words that leans on nothing is taken as it is."""
_BARE = 2
"""Below so many content words a question has next to nothing of its own ("Why?", "And in air?")."""
_LEANS = re.compile(
    r"\b(?:it|its|itself|they|them|their|theirs|this|that|these|those|he|him|his|she|her|hers|there|such|same|former"
    r"|latter|ones?|others?|above|both|either|neither)\b|^\W*(?:and|but|or|so|then|also|(?:what|how) about)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_](?:[\w'’.-]*[^\W_])?")
_QUOTED = re.compile(r"^[\"'“‘]+|[\"'”’]+$")


def standalone_question(history: Sequence[Message], question: str, generator: Generator) -> str:
    """The question with what it takes from the conversation, so that it can be searched for and answered by itself.

    `history` are the earlier turns ("user" and "assistant"; others are passed over), oldest first. A capable generator
    rewrites the question; for any other, names or words of the last questions are added to one that leans on them.
    """
    question = " ".join(question.split())
    turns = [turn for turn in history if turn["role"] in ("user", "assistant") and turn["content"].strip()]
    if not any(turn["role"] == "user" for turn in turns):
        return question
    if generator.capable:
        return _rewritten(turns, question, generator)
    return completed([turn["content"] for turn in turns if turn["role"] == "user"], question)


def completed(questions: Sequence[str], question: str) -> str:
    """`question` with what it lacks: the names in the last of `questions` that has any, else its content words.

    Names say what a conversation is about and leave open what is asked of it; whole questions would lead the search
    back to their own answers. A question with next to no words of its own takes those of the last one that has some
    as well.
    """
    own = stems(question)
    if len(own) > _FULL and not _LEANS.search(question):
        return question
    known = {word.lower() for word in _WORD.findall(question)}
    before = [text for text in reversed(questions) if stems(text)]
    names = next((found for text in before if (found := _names(text))), [])
    if len(own) < _BARE:
        names = next((_content(text) for text in before if len(stems(text)) >= _BARE), []) + names
    added = names or [word for text in before[:1] for word in _content(text)]
    return " ".join([question, *(word for word in dict.fromkeys(added) if word.lower() not in known)])


def _content(text: str) -> list[str]:
    return [word for word in _WORD.findall(text) if stems(word) or any(c.isdigit() for c in word)]


def _names(text: str) -> list[str]:
    """Words of two letters and more with a capital, other than the capital that begins the text."""
    words = _WORD.findall(text)
    return [
        word
        for place, word in enumerate(words)
        if len(word) > 1 and (word[1:] != word[1:].lower() or (place and word[0].isupper()))
    ]


def _rewritten(turns: Sequence[Message], question: str, generator: Generator) -> str:
    """By the generator; the question itself where what comes is no question to search for."""
    names = {"user": "Question", "assistant": "Answer"}
    said = "\n".join(
        f"{names[turn['role']]}: {' '.join(turn['content'].split())[:_LONGEST_MESSAGE]}" for turn in turns[-MAX_TURNS:]
    )
    text = template("rewrite_question.txt").substitute(conversation=said, question=question).strip()
    stream = generator.stream([{"role": "user", "content": text}], MAX_TOKENS)
    written = "".join(without_thoughts(stream)).strip()
    rewritten = _QUOTED.sub("", " ".join(written.split("\n")[0].removeprefix("Question:").split()))
    return rewritten if stems(rewritten) and len(rewritten) <= _LONGEST_REWRITE else question
