"""Pairs from a collection: questions that a generator writes about its passages, kept where they find them again.

The round trip is that of Promptagator (arXiv 2209.11755, section 3.2): a question whose own passage is not among the
best results is about too little, too much, or something else.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hiperrag.answering.generators import Generator, load_generator
from hiperrag.answering.retrieval import Retriever
from hiperrag.encoders.training.corpus import licence_of
from hiperrag.encoders.training.pairs import Pair, text_hash
from hiperrag.errors import UserError
from hiperrag.files import fingerprint
from hiperrag.models import weights_hash
from hiperrag.records import Passage
from hiperrag.training_data import prompting
from hiperrag.training_data.cards import describe_collection, finished, write_with_card
from hiperrag.training_data.journal import Journal, batches
from hiperrag.training_data.replies import replies
from hiperrag.training_data.sampling import sample

VERSION = "1"
"""Changes with whatever would make other pairs from the same collection and replies."""
BATCH = 64
"""Questions searched at a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class QuestionSettings:
    """What is asked for.

    per_passage: questions. limit: passages that are asked about; None: all. round_trip: among how many results a
    question has to find its passage.
    """

    per_passage: int = 1
    limit: int | None = None
    seed: int = 0
    round_trip: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.per_passage <= prompting.MOST_QUESTIONS:
            raise UserError(f"--per-passage {self.per_passage}: give 1 to {prompting.MOST_QUESTIONS}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    question: str
    passage: Passage


def write_questions(
    collection: Path,
    out: Path,
    generator: str | Generator,
    settings: QuestionSettings,
    *,
    concurrency: int = 8,
    say: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Write pairs of a question and the passage it was written about to `out`, and a data card beside it; the card.

    `generator` is a spec, or one that is loaded. `say` gets what is counted, how many are done, and of how many. The
    same call goes on after a kill with the replies that it has. UserError for an unusable collection or generator,
    and where `out` holds something else.
    """
    retriever = Retriever(collection)
    writer = load_generator(generator) if isinstance(generator, str) else generator
    about = {"generator": _describe(writer), "collection": describe_collection(retriever)}
    asked_of = (VERSION, about["generator"], about["collection"]["version"], settings.per_passage, settings.seed)
    identity = fingerprint(*asked_of, settings)
    replied, found_again = (out.with_name(f"{out.name}.{end}") for end in ("progress", f"searched-{identity[:8]}"))
    if done := finished(out, identity):
        _remove(replied, found_again)
        return done
    passages = sample(retriever, settings.limit, settings.seed)
    if not passages:
        raise UserError(f"{collection}: has no passage of body text that is long enough to ask about")
    with Journal(replied, fingerprint(*asked_of)) as journal:
        _ask(writer, passages, settings, concurrency, journal, say)
        asked, counts = _questions(passages, journal, settings)
    with Journal(found_again, identity) as journal:
        _search(retriever, asked, settings.round_trip, journal, say)
        found = [found for entry in journal.entries for found in entry["found"]]
        kept = [one for one, there in zip(asked, found, strict=True) if there]
        if not kept:
            raise UserError(f"none of {len(passages)} replies gave a usable question: try another --generator")
        name = about["collection"]["name"]
        pairs = [_pair(one, name) for one in kept]
        counts |= {"searched": len(asked), "passage_not_found": len(asked) - len(kept), "written": len(kept)}
        details = about | {
            "settings": dataclasses.asdict(settings),
            "prompt": prompting.conversation(_placeholder(passages[0]), settings.per_passage),
            "counts": counts,
            "documents": len({pair.document for pair in pairs}),
            "licences": dict(Counter(pair.licence for pair in pairs)),
        }
        card = write_with_card(out, pairs, identity, details)
        _remove(replied, found_again)
    return card


def _ask(
    generator: Generator,
    passages: Sequence[Passage],
    settings: QuestionSettings,
    concurrency: int,
    journal: Journal,
    say: Callable[[str, int, int], None],
) -> None:
    """Add the reply about each passage that has none."""
    rest = passages[len(journal.entries) :]
    say("passages", len(passages) - len(rest), len(passages))
    conversations = (prompting.conversation(passage, settings.per_passage) for passage in rest)
    max_tokens = prompting.TOKENS_PER_QUESTION * settings.per_passage
    with contextlib.closing(replies(generator, conversations, max_tokens, concurrency)) as stream:
        for passage, reply in zip(rest, stream, strict=True):
            journal.add({"passage": passage.passage_id, **reply._asdict()})
            say("passages", len(journal.entries), len(passages))


def _questions(
    passages: Sequence[Passage], journal: Journal, settings: QuestionSettings
) -> tuple[list[_Asked], dict[str, int]]:
    """The usable questions, each once, and how many lines of the replies were left out, by reason."""
    asked: list[_Asked] = []
    seen: set[int] = set()
    unusable: Counter[str] = Counter()
    for passage, entry in zip(passages, journal.entries, strict=False):  # of a run with a larger limit there are more
        questions, mistakes = prompting.questions_of(entry["text"], entry["finish"], passage, settings.per_passage)
        unusable += mistakes
        for question in questions:
            if text_hash(question) in seen:
                unusable["duplicate"] += 1
                continue
            seen.add(text_hash(question))
            asked.append(_Asked(question, passage))
    reasons = {reason: unusable[reason] for reason in (*prompting.REASONS, "duplicate")}
    return asked, {"passages": len(passages)} | reasons


def _search(
    retriever: Retriever, asked: Sequence[_Asked], k: int, journal: Journal, say: Callable[[str, int, int], None]
) -> None:
    """Add for each batch of questions whether they find their passages among the k best."""
    for batch in list(batches(len(asked), BATCH))[len(journal.entries) :]:
        some = [asked[number] for number in batch]
        found = retriever.search([one.question for one in some], k)
        texts = [{text_hash(hit.passage.text) for hit in hits} for hits in found]
        there = [text_hash(one.passage.text) in best for one, best in zip(some, texts, strict=True)]
        journal.add({"found": there})
        say("questions searched", batch.stop, len(asked))


def _pair(asked: _Asked, collection: str) -> Pair:
    passage = asked.passage
    return Pair(
        query=asked.question,
        positive=passage.encoder_text(),
        source=f"{collection}/question",
        licence=licence_of(passage.metadata, ""),
        document=passage.document,
    )


def _remove(*journals: Path) -> None:
    """Delete journals whose work has been written."""
    for path in journals:
        path.unlink(missing_ok=True)


def _placeholder(passage: Passage) -> Passage:
    """For a card, which shows how passages are put into a prompt."""
    return dataclasses.replace(passage, title="TITLE", text="TEXT")


def _describe(generator: Generator) -> dict[str, str]:
    """What a card says of a generator: its spec, and the hash of its weights where they are here."""
    source = getattr(getattr(generator, "model", None), "name_or_path", "")
    weights = weights_hash(Path(source)) if source and Path(source).is_dir() else ""
    return {"spec": generator.spec} | ({"weights": weights} if weights else {})
