"""Does the collection hold the questions themselves? Every passage is compared with every question by word 5-grams.

A text is (nearly) contained in a passage when 80% of its distinct 5-grams are in it, the containment of Broder (1997).
Reported are questions, long answers (sentences that state the answer), and the gold supports: a collection that holds
supports is a "source corpus", and figures over it say so.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hiperrag.answering.retrieval import Retriever
from hiperrag.benchmarks.evaluation.items import Item
from hiperrag.records import Passage

if TYPE_CHECKING:
    from hiperrag.index.portion import RemoteShard
    from hiperrag.index.shard import Shard

N = 5
THRESHOLD = 0.8
KINDS = ("questions", "long_answers", "supports")
LISTED = 20
_WORD = re.compile(r"\w+")


def leakage(items: Sequence[Item], retriever: Retriever) -> dict[str, Any]:
    """How many questions, long answers and supports the retriever's passages contain, with examples."""
    shards = retriever.searcher.shards
    return check(items, (shard.passages[row] for shard in shards for row in kept_rows(shard)))


def kept_rows(shard: Shard | RemoteShard) -> Iterator[int]:
    """Rows of a shard's passages that are not deleted."""
    return (row for row in range(shard.n_passages) if shard.deleted is None or not shard.deleted[row])


def check(items: Sequence[Item], passages: Iterable[Passage]) -> dict[str, Any]:
    """The same for any passages; a passage's title counts as its text."""
    texts = {
        "questions": [item.question for item in items],
        "long_answers": [item.long_answer for item in items],
        "supports": [item.support for item in items],
    }
    watched = [(kind, i, text) for kind, found in texts.items() for i, text in enumerate(found)]
    best: dict[tuple[str, int], tuple[float, Passage]] = {}
    for number, share, passage in _contained([text for _, _, text in watched], passages):
        kind, i, _ = watched[number]
        if share > best.get((kind, i), (0.0,))[0]:
            best[kind, i] = (share, passage)
    found: dict[str, Any] = {
        kind: {
            "checked": sum(len(_shingles(text)) > 0 for text in texts[kind]),
            "contained": sum(name == kind for name, _ in best),
        }
        for kind in texts
    }
    leaked = [(items[i], share, passage) for (kind, i), (share, passage) in sorted(best.items()) if kind == "questions"]
    found["questions"]["with_answer"] = sum(_holds_answer(item, passage) for item, _, passage in leaked)
    found["questions"]["examples"] = [
        {
            "item_id": item.item_id,
            "question": item.question,
            "share": round(share, 3),
            "document": passage.document,
            "text": passage.text[:300],
            "holds_answer": _holds_answer(item, passage),
        }
        for item, share, passage in leaked[:LISTED]
    ]
    return {"n_words": N, "threshold": THRESHOLD, **found}


def _contained(texts: Sequence[str], passages: Iterable[Passage]) -> Iterator[tuple[int, float, Passage]]:
    """(text, share of its 5-grams, passage) wherever the share reaches the threshold."""
    holders: defaultdict[str, list[int]] = defaultdict(list)
    sizes = []
    for number, text in enumerate(texts):
        shingles = _shingles(text)
        sizes.append(len(shingles))
        for shingle in shingles:
            holders[shingle].append(number)
    for passage in passages:
        hits = Counter(
            number for shingle in _shingles(passage.encoder_text()) if shingle in holders for number in holders[shingle]
        )
        for number, n in hits.items():
            if n >= THRESHOLD * sizes[number]:
                yield number, n / sizes[number], passage


def _shingles(text: str) -> set[str]:
    """The distinct 5-grams of a text's words in lower case; none for a shorter text."""
    words = _WORD.findall(text.lower())
    return {" ".join(words[start : start + N]) for start in range(len(words) - N + 1)}


def _holds_answer(item: Item, passage: Passage) -> bool:
    """Whether the right option's words stand in the passage, in order."""
    words = " ".join(_WORD.findall(passage.encoder_text().lower()))
    answer = " ".join(_WORD.findall(item.options[item.gold].lower()))
    return f" {answer} " in f" {words} "
