"""Pairs from plain scientific text, with no model: titles and headings, and sentences taken out of their paragraph.

Rows are abstracts and textbook paragraphs (title, text), or whole articles (title, abstract, paragraphs of heading and
text). Passages other than abstracts are given as the index gives them to the encoder: the document's title, then the
text.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from typing import Any

from hiperrag.sentences import split_sentences

_GENERAL = re.compile(
    r"""^[\d.\s]*(
    abbreviations?|abstract|aims?|analys[ei]s|appendix|background|case\ (presentation|report)s?|
    chapter\ (objectives|review|summary)|conclusions?(\ and\ .*)?|critical\ thinking.*|
    data(\ (analysis|availability|collection).*)?|discussions?|experimental(\ (section|design))?|
    for\ further\ exploration|genome\ announcement|intro(duction)?|key\ (concepts|equations|terms).*|limitations|
    main(\ text)?|materials?(\ (and|&)\ methods?)?|methods?(\ (and|&)\ materials?)?|objectives?|overview|publisher.*|
    results?(\ (and|&)\ discussions?)?|review(\ questions)?|sampling(\ and\ analysis)?|statistics?|
    statistical\ analys[ei]s|study\ (design|population)|summary|thinking\ ahead|websites?
    )\W*$""",
    re.IGNORECASE | re.VERBOSE,
)
"""Headings that say nothing of what is below them."""
NOT_BODY = re.compile(
    r"author|acknowledg|competing|conflict|ethic|funding|availab|supplement|preface|references|abbreviation", re.I
)
"""Headings of what is no scientific text."""
_NUMBERING = re.compile(r"^[\dIVX]+(\.\d+)*\.?\s+|^\d+(\.\d+)+\.?\s*")
_GLUED = re.compile(r"(?<=[a-z]{4})(\d{1,3})(,\d{1,3}|[–-]\d{1,3})*(?=[.,;\s]|$)")
"""Superscript citations that lost their place: "core1,2"."""
_LABEL = re.compile(
    r"\b(Aims?|Background|Conclusions?|Introduction|Methods?|Objectives?|Purpose|Results?)(?=[A-Z][a-z])"
)
"""Labels of a structured abstract that lost what stood after them: "MethodsThis"."""
_POOR_QUERY = re.compile(
    r"https?:|www\.|\b(code|data|datasets?) (is|are|will be)\b|^(these|this|it|they|however)\b", re.I
)
_FEWEST_WORDS = 25
_MOST_PER_DOCUMENT = 6
_QUERY_WORDS = (6, 40)


def is_corpus_row(row: dict[str, Any]) -> bool:
    """Whether a row is text to make pairs of, and not a pair."""
    return "query" not in row and "title" in row and ("text" in row or "paragraphs" in row)


def pairs_of_row(row: dict[str, Any], source: str, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Pairs (as the fields of `pairs.Pair`) of one abstract, textbook paragraph, or article.

    Sources are named after the recipe: FILE/title (title, abstract), FILE/heading (heading, paragraph), FILE/sentence
    (a sentence, the rest of its paragraph). Which sentences and paragraphs are taken depends on `seed` and the
    row's id.
    """
    licence = licence_of(row, source)
    name = str(row.get("_id") or row.get("id") or row["title"])
    title = _clean(str(row["title"]))
    draw = random.Random(hashlib.blake2b(f"{seed} {name}".encode()).digest())
    if "paragraphs" in row:
        made = _article(title, str(row.get("abstract") or ""), row["paragraphs"], draw)
    elif " > " in title:
        name = name.partition("#")[0]
        made = _paragraph(title.split(" > "), _clean(str(row["text"])), draw)
    else:
        made = _abstract(title, _clean(str(row["text"])), draw)
    for recipe, query, positive in made:
        yield {
            "query": query,
            "positive": positive,
            "source": f"{source}/{recipe}",
            "licence": licence,
            "document": f"{source}:{name}",
        }


def _abstract(title: str, text: str, draw: random.Random) -> Iterator[tuple[str, str, str]]:
    if len(text.split()) < _FEWEST_WORDS:
        return
    if len(title.split()) >= 3:
        yield "title", title, text
    yield from _sentence(title, text, draw)


def _paragraph(path: list[str], text: str, draw: random.Random) -> Iterator[tuple[str, str, str]]:
    """A textbook's paragraph; the path leads from the book to the heading."""
    if len(text.split()) < _FEWEST_WORDS or any(NOT_BODY.search(step) for step in path[1:]):
        return
    heading = _heading(path[1:])
    if heading:
        yield "heading", heading, text
    yield from _sentence(path[1] if len(path) > 1 else "", text, draw)


def _article(
    title: str, abstract: str, paragraphs: list[list[str]], draw: random.Random
) -> Iterator[tuple[str, str, str]]:
    abstract = _clean(abstract)
    yield from _abstract(title, abstract, draw)
    body = [
        (path.split(" > "), _clean(text))
        for path, text in paragraphs
        if len(text.split()) >= _FEWEST_WORDS and not NOT_BODY.search(path)
    ]
    for path, text in draw.sample(body, min(_MOST_PER_DOCUMENT, len(body))):
        heading = _heading(path)
        if heading and draw.random() < 0.5:
            yield "heading", heading, f"{title} {text}"
        else:
            yield from _sentence(title, text, draw)


def _sentence(title: str, text: str, draw: random.Random) -> Iterator[tuple[str, str, str]]:
    """A sentence as the query of its paragraph, which loses it nine times of ten (Lee et al. 2019, ICT)."""
    spans = [(sentence.strip(), len(sentence.split())) for sentence in split_sentences(text)]
    fit = [
        sentence
        for sentence, words in spans
        if _QUERY_WORDS[0] <= words <= _QUERY_WORDS[1] and not _POOR_QUERY.search(sentence)
    ]
    if len(spans) < 3 or not fit:
        return
    chosen = draw.choice(fit)
    rest = text if draw.random() < 0.1 else text.replace(chosen, " ", 1)
    yield "sentence", chosen, f"{title} {' '.join(rest.split())}".strip()


def _heading(path: list[str]) -> str | None:
    """The two lowest headings that say something."""
    telling = [_NUMBERING.sub("", step).strip() for step in path]
    telling = [step for step in telling if step and not _GENERAL.match(step)]
    heading = ": ".join(telling[-2:])
    return heading if len(heading.split()) >= 2 else None


def _clean(text: str) -> str:
    return _LABEL.sub(r"\1: ", _GLUED.sub("", " ".join(text.split())))


def licence_of(row: dict[str, Any], source: str) -> str:
    """The licence as a row (or a document's metadata) says, else as the file's name does (FILE_cc0, FILE_ccby)."""
    given = str(row.get("license") or row.get("licence") or "")
    if "zero" in given or (not given and "cc0" in source.lower()):
        return "CC0"
    if "licenses/by/" in given or "licenses/by (" in given or (not given and "ccby" in source.lower()):
        version = re.search(r"\d\.\d", given)
        return f"CC BY {version[0]}" if version else "CC BY"
    return given or "unknown"
