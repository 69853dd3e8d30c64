"""How a generator is asked for questions, and what of its reply is taken for one."""

from __future__ import annotations

import re
from collections import Counter

from hiperrag.answering.generators import FinishReason, Message
from hiperrag.encoders.training.pairs import text_hash
from hiperrag.records import Passage

MOST_QUESTIONS = 3
"""Of one passage."""
TOKENS_PER_QUESTION = 48
REASONS = ("no_question", "cut_off", "too_short", "too_long", "points_at_text", "off_topic", "example", "not_asked_for")

_SYSTEM = (
    "You write questions for a search engine of scientific texts. A question is answered by the passage, can be "
    "understood by somebody who has not seen the passage, and names what it is about."
)
_EXAMPLES = (
    (
        "Sea water\nSalt lowers the freezing point of water, because dissolved ions get in the way of the molecules "
        "that would form ice. Sea water with 35 g of salt in a litre freezes at -1.9 °C.",
        (
            "Why does salt lower the freezing point of water?",
            "At what temperature does sea water freeze?",
            "How much salt does a litre of sea water hold?",
        ),
    ),
    (
        "Counting seabirds on cliffs\nWe compared two ways of counting nests. Photographs taken by drones gave 12% "
        "higher counts than observers in boats, mainly because nests behind ledges cannot be seen from the sea.",
        (
            "Are seabirds on cliffs counted better by drones or from boats?",
            "Why do observers in boats miss nests of seabirds?",
            "How much do counts of seabird nests by drones and from boats differ?",
        ),
    ),
)
_NUMBERS = {1: "one question", 2: "two questions, one a line,", 3: "three questions, one a line,"}
_LEAD = re.compile(r"^(?:[-*•]\s+|\(?\d+[.)]\s*|(?:question|q)\s*\d*\s*[:.]\s*)+", re.IGNORECASE)
_POINTS = re.compile(
    r"""\b(the|this|these|that|those|above|following|given|our|your|their)\s+(\w+\s+)?(abstract|article|authors?|chapter|
    document|excerpt|experiments?|figure|findings|paper|paragraph|passage|research(ers)?|sections?|stud(y|ies)|tables?|
    text|work)\b | \b(according\ to|based\ on)\ the\b | \bmentioned\b | \b(fig(ure)?|table|eq(uation)?)\.?\s*\d |
    \b(we|our|us)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_VAGUE = re.compile(
    r"^\W*(what|why|how|which|who|when|where)\s+(is|are|was|were|does|do|did)\s+(it|they|this|these|he|she)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w{4,}")
_ASKING = re.compile(r"what|when|where|which|whom|whose|does|have|many|much|this|that|there|with|from|they")
_WORDS = range(4, 41)


def conversation(passage: Passage, per_passage: int) -> list[Message]:
    """The messages that ask for questions about a passage, after two examples."""
    messages = [{"role": "system", "content": _SYSTEM}]
    for text, questions in _EXAMPLES:
        messages.append(_asked(text, per_passage))
        messages.append({"role": "assistant", "content": "\n".join(questions[:per_passage])})
    return [*messages, _asked(f"{passage.title}\n{passage.text}".strip(), per_passage)]


def _asked(text: str, per_passage: int) -> Message:
    return {"role": "user", "content": f"{text}\n\nWrite {_NUMBERS[per_passage]} that this answers."}


def questions_of(
    reply: str, finish: FinishReason, passage: Passage, per_passage: int
) -> tuple[list[str], Counter[str]]:
    """The usable questions of a reply, and how many of its lines are none, by reason."""
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    usable: list[str] = []
    unusable: Counter[str] = Counter()
    if not lines:
        unusable["no_question"] += 1
    for number, line in enumerate(lines):
        question = _LEAD.sub("", line.strip("*_ ")).strip("\"'“”*_ ")
        cut = finish == "length" and number == len(lines) - 1 and not question.endswith("?")
        reason = "cut_off" if cut else _mistake(question, passage)
        if not reason and len(usable) == per_passage:
            reason = "not_asked_for"
        if reason:
            unusable[reason] += 1
        else:
            usable.append(question)
    return usable, unusable


def _mistake(question: str, passage: Passage) -> str:
    n_words = len(question.split())
    if not question.endswith("?") or question.count("?") > 1:
        return "no_question"
    if n_words not in _WORDS:
        return "too_short" if n_words < _WORDS.start else "too_long"
    if _POINTS.search(question) or _VAGUE.search(question):
        return "points_at_text"
    if any(text_hash(question) == text_hash(given) for _, examples in _EXAMPLES for given in examples):
        return "example"
    return "" if _words(question) & _words(passage.encoder_text()) else "off_topic"


def _words(text: str) -> set[str]:
    """Words that may say what a text is about."""
    return {word for word in _WORD.findall(text.lower()) if not _ASKING.fullmatch(word)}
