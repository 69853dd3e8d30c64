"""From a question and its hits to a cited answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from hiperrag.answering.generators.base import Generator, LikelihoodGenerator, UnavailableError
from hiperrag.answering.hits import Hit
from hiperrag.answering.prompts import REFUSAL
from hiperrag.answering.quoting import quote
from hiperrag.answering.result import Answer, AnswerEvent, Citation, Draft, Mode, Sentence
from hiperrag.answering.writing import write
from hiperrag.encoders.base import Encoder
from hiperrag.errors import UserError

__all__ = ["REFUSAL", "Answer", "AnswerEvent", "Citation", "Draft", "Sentence", "answer"]

MAX_TOKENS = 400

log = logging.getLogger("hiperrag.answering")


def answer(
    question: str,
    hits: Sequence[Hit],
    generator: Generator,
    encoder: Encoder,
    *,
    max_tokens: int = MAX_TOKENS,
) -> Iterator[AnswerEvent]:
    """Answer `question` from `hits` (best first; hit i is passage [i + 1]), as events that end with an Answer.

    A capable generator writes (mode "written": Drafts, checked Sentences); any other chooses among the passages'
    own sentences (mode "quoted": Sentences). Where nothing supports an answer, its text is REFUSAL, and
    `supported` is False. Raises UserError for an empty question and where the generator cannot be used.
    """
    question = " ".join(question.split())
    if not question:
        raise UserError("the question is empty: give it as text")
    if not hits:
        mode: Mode = "written" if generator.capable else "quoted"
        timings = {"select": 0.0, "first_token": 0.0, "total": 0.0, "tokens": 0.0}
        yield Answer(REFUSAL, [], False, mode, generator.spec, timings, ["nothing was retrieved"])
    elif generator.capable:
        yield from _write_or_quote(question, hits, generator, encoder, max_tokens)
    elif isinstance(generator, LikelihoodGenerator):
        yield from quote(question, hits, generator, encoder)
    else:
        raise TypeError(f"generator {generator.spec} can neither be trusted to write nor say likelihoods")


def _write_or_quote(
    question: str, hits: Sequence[Hit], generator: Generator, encoder: Encoder, max_tokens: int
) -> Iterator[AnswerEvent]:
    """Written, or quoted by the generator's stand-in where nothing could be written."""
    begun = False
    try:
        for event in write(question, hits, generator, encoder, max_tokens):
            begun = True
            yield event
    except UnavailableError as error:
        stand_in = None if begun else getattr(generator, "stand_in", None)
        if stand_in is None:
            raise
        log.warning("quoting, since nothing can be written: %s", error)
        for event in quote(question, hits, stand_in, encoder):
            if isinstance(event, Answer):
                event.notes.append("the generator that writes was not available; the passages are quoted instead")
            yield event
