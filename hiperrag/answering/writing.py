"""The written answer: a capable generator's prose, checked sentence by sentence as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from hiperrag.answering.checking import check
from hiperrag.answering.citations import SentenceReader
from hiperrag.answering.evidence import Evidence
from hiperrag.answering.generators.base import FinishReason, GenerationCutError, Generator
from hiperrag.answering.hits import Hit
from hiperrag.answering.prompts import REFUSAL, answer_messages
from hiperrag.answering.result import Answer, AnswerEvent, Draft, Sentence
from hiperrag.encoders.base import Encoder

_THOUGHT_OPENS, _THOUGHT_CLOSES = "<think>", "</think>"


def write(
    question: str, hits: Sequence[Hit], generator: Generator, encoder: Encoder, max_tokens: int
) -> Iterator[AnswerEvent]:
    """Drafts and checked sentences as they come, then the Answer.

    A stream that breaks off after a finished sentence ends the answer there, with a note; before one, the
    GenerationCutError is the caller's.
    """
    started = time.perf_counter()
    evidence = Evidence(hits, encoder)
    timings = {"select": _since(started)}
    prose = _Prose(evidence)
    reader = SentenceReader()
    pieces = generator.stream(answer_messages(question, hits), max_tokens)
    cut: GenerationCutError | None = None
    n_pieces = 0
    try:
        for piece in without_thoughts(pieces):
            timings.setdefault("first_token", _since(started))
            n_pieces += 1
            yield Draft(piece)
            for raw in reader.feed(piece):
                yield from prose.add(raw)
    except GenerationCutError as error:
        cut = error
    rest = reader.finish()
    finish: FinishReason = getattr(pieces, "finish", "stop")
    if cut:
        prose.notes.append(f"the answer broke off: {cut}")
    elif finish == "length":
        prose.notes.append(f"the answer was cut at {max_tokens} tokens")
    if (cut or finish == "length") and rest and not _is_ended(rest[-1]):
        rest = rest[:-1]
    for raw in rest:
        yield from prose.add(raw)
    if cut and not prose.sentences:
        raise cut
    timings["total"] = _since(started)
    timings["tokens"] = float(getattr(pieces, "n_tokens", n_pieces))
    yield prose.answer(getattr(pieces, "spec", generator.spec), timings, finish)


class _Prose:
    """The sentences kept so far, and what was done to the others."""

    def __init__(self, evidence: Evidence) -> None:
        self.notes: list[str] = []
        self.sentences: list[Sentence] = []
        self._evidence = evidence
        self._waiting: list[Sentence] = []
        """Remarks that the passages do not tell: part of the answer only beside a supported sentence."""
        self._dropped = 0
        self._attributed = 0
        self._removed: list[int] = []

    def add(self, raw: str) -> Iterator[Sentence]:
        checked = check(raw, self._evidence)
        self._removed.extend(checked.removed)
        self._attributed += checked.attributed
        if checked.sentence is None:
            self._dropped += not checked.denial
            return
        self._waiting.append(checked.sentence)
        if checked.denial and not self.sentences:
            return
        self.sentences.extend(self._waiting)
        yield from self._waiting
        self._waiting = []

    def answer(self, spec: str, timings: dict[str, float], finish: FinishReason) -> Answer:
        if self._removed:
            numbers = "".join(f"[{n}]" for n in dict.fromkeys(self._removed))
            self.notes.append(f"removed citations that the passages do not bear out: {numbers}")
        if self._attributed:
            self.notes.append(f"cited for the generator: {_sentences(self._attributed)}")
        if self._dropped:
            self.notes.append(f"left out as unsupported: {_sentences(self._dropped)}")
        citations = {(c.n, c.text): c for sentence in self.sentences for c in sentence.citations}
        text = " ".join(sentence.text for sentence in self.sentences)
        return Answer(
            text=text or REFUSAL,
            citations=list(citations.values()),
            supported=bool(citations),
            mode="written",
            generator=spec,
            timings_ms=timings,
            notes=self.notes,
            finish=finish,
        )


def without_thoughts(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces without a leading `<think>...</think>`, which reasoning models put before their answer."""
    buffer, thinking, answering = "", False, False
    for piece in pieces:
        if answering:
            yield piece
            continue
        buffer += piece
        if not thinking:
            start = buffer.lstrip()
            if start.startswith(_THOUGHT_OPENS):
                thinking = True
            elif _THOUGHT_OPENS.startswith(start):
                continue
            else:
                answering = True
                yield buffer
                continue
        _, closed, after = buffer.partition(_THOUGHT_CLOSES)
        if closed:
            answering = True
            if after:
                yield after
    if not answering and not thinking and buffer:
        yield buffer


def _is_ended(sentence: str) -> bool:
    return sentence.rstrip().rstrip("\"'”’)]*_").endswith((".", "!", "?")) or sentence.rstrip().endswith("]")


def _sentences(count: int) -> str:
    return f"{count} sentence" if count == 1 else f"{count} sentences"


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
