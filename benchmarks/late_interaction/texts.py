"""Passages and queries of development data: BEIR folders and PubMedQA files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hiperrag.errors import UserError
from hiperrag.sentences import split_sentences

PASSAGE_WORDS = 75
"""Sentences of an abstract are gathered up to this many words."""


class Texts(NamedTuple):
    """Passages and queries, and the names of the folders they are from."""

    passages: list[str]
    queries: list[str]
    sources: list[str]


def read_texts(data: Path) -> Texts:
    """The texts of every BEIR folder (corpus.jsonl[.gz], queries.jsonl[.gz]) and PubMedQA file in `data`.

    BEIR abstracts are cut into passages at sentence ends, each with its document's title before it; the contexts of
    PubMedQA items are passages as they are. Raises UserError where `data` holds neither.
    """
    texts = Texts([], [], [])
    for corpus in sorted(data.glob("**/corpus.jsonl*")):
        for row in _json_lines(corpus):
            title = row.get("title", "")
            texts.passages.extend(f"{title} {piece}".strip() for piece in cut(row["text"], PASSAGE_WORDS))
        texts.queries.extend(row["text"] for row in _json_lines(_sibling(corpus, "queries")))
        texts.sources.append(corpus.parent.name)
    for labelled in sorted(data.glob("**/ori_pqa*.json")):
        for item in json.loads(labelled.read_text(encoding="utf-8")).values():
            texts.passages.extend(item["CONTEXTS"])
            texts.queries.append(item["QUESTION"])
        texts.sources.append(labelled.parent.name)
    if not texts.passages or not texts.queries:
        raise UserError(
            f"{data}: holds no BEIR folder (corpus.jsonl, queries.jsonl) and no PubMedQA file (ori_pqa*.json)"
        )
    return texts


def cut(text: str, words: int) -> Iterator[str]:
    """Pieces of whole sentences, each of at most `words` words unless one sentence is longer."""
    piece: list[str] = []
    length = 0
    for sentence in split_sentences(text):
        n = len(sentence.split())
        if piece and length + n > words:
            yield "".join(piece).strip()
            piece, length = [], 0
        piece.append(sentence)
        length += n
    if length:
        yield "".join(piece).strip()


def _sibling(corpus: Path, stem: str) -> Path:
    path = corpus.with_name(corpus.name.replace("corpus", stem, 1))
    if not path.is_file():
        raise UserError(f"{corpus.parent}: has {corpus.name} but no {path.name}")
    return path


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
