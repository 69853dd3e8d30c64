"""Reading `[n]` citations and finished sentences out of a stream of generated text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MARKER = re.compile(r"\[\s*(?:passages?\s+)?\^?(\d{1,4}(?:\s*(?:[,;]|-|–|and)\s*\d{1,4})*)\s*\]", re.IGNORECASE)
"""A citation: [1], [1, 3], [1-3], [Passage 2]."""

_LONGEST_MARKER = 60
_END = re.compile(r"[.!?]+[\"'”’)*_]*|\n+")
_ABBREVIATIONS = frozenset(
    """al approx ca cf ch dept dr e.g ed eds eq eqs et etc fig figs i.e inc jr mr mrs ms no nos p pp prof ref
    refs resp sec sp spp sr st tab viz vol vols vs""".split()  # noqa: SIM905
)
_RANGE = re.compile(r"(\d+)\s*[-–]\s*(\d+)")
_LONGEST_RANGE = 20


def marker_numbers(inside: str) -> list[int]:
    """The numbers of a marker's inside: "1, 3" is [1, 3]; "2-4" is [2, 3, 4]."""
    numbers: list[int] = []
    for part in re.split(r"[,;]|and", inside):
        span = _RANGE.fullmatch(part.strip())
        if span and 0 <= int(span[2]) - int(span[1]) < _LONGEST_RANGE:
            numbers.extend(range(int(span[1]), int(span[2]) + 1))
        else:
            numbers.extend(int(number) for number in re.findall(r"\d+", part))
    return numbers


def is_interval(inside: str) -> bool:
    """Whether a marker is rather an interval of the text itself: passages count from 1, so "[0, 1]" cites none."""
    numbers = marker_numbers(inside)
    return len(numbers) > 1 and 0 in numbers


def cited_numbers(text: str) -> list[int]:
    """Every number cited in `text`, in order, each once."""
    found = [n for m in MARKER.finditer(text) if not is_interval(m[1]) for n in marker_numbers(m[1])]
    return list(dict.fromkeys(found))


def without_markers(text: str) -> str:
    """`text` with every citation, and the space before it, taken out."""
    return _tidy(MARKER.sub(lambda m: m[0] if is_interval(m[1]) else "", text))


def with_only(text: str, kept: Iterable[int]) -> str:
    """`text` with every citation outside `kept` taken out, and the others as [1][3], ahead of the full stop.

    A kept number that `text` does not cite is added at the sentence's end.
    """
    wanted = list(dict.fromkeys(kept))
    written: set[int] = set()

    def rewrite(match: re.Match[str]) -> str:
        if is_interval(match[1]):
            return match[0]
        numbers = [n for n in dict.fromkeys(marker_numbers(match[1])) if n in wanted]
        written.update(numbers)
        return "".join(f"[{n}]" for n in numbers)

    text = _tidy(MARKER.sub(rewrite, text))
    body, stop, trailing = _split_stop(text)
    missing = "".join(f"[{n}]" for n in wanted if n not in written)
    markers = trailing + missing
    if not markers:
        return body + stop
    return f"{body}{'' if body.endswith(']') else ' '}{markers}{stop}"


def _split_stop(text: str) -> tuple[str, str, str]:
    """(sentence, its final punctuation, the citations that stood after it)."""
    tail = re.search(r"(?:\s*\[\d+\])+$", text)
    trailing = re.sub(r"\s+", "", tail[0]) if tail else ""
    body = text[: tail.start()] if tail else text
    stop = re.search(r"[.!?]+$", body)
    return (body[: stop.start()], stop[0], trailing) if stop else (body.rstrip(), "", trailing)


def _tidy(text: str) -> str:
    """Mend the spaces that a removed citation leaves."""
    text = re.sub(r"[ \t]{2,}", " ", text)
    text = re.sub(r"\(\s*\)", "", text)
    text = re.sub(r"\s+([.,;:!?])(?=\s|$|\[)", r"\1", text)
    return re.sub(r"\]\s+\[(?=\d)", "][", text).strip()


class SentenceReader:
    """Cuts generated text into sentences, each with the citations that follow its full stop.

    However the text is split into pieces, the sentences are the same: a boundary is taken only when the text
    after it can no longer change the decision.
    """

    def __init__(self) -> None:
        self._buffer = ""

    def feed(self, piece: str) -> list[str]:
        """Sentences that `piece` completes."""
        self._buffer += piece
        return list(self._take(final=False))

    def finish(self) -> list[str]:
        """The sentences that are left once the text has ended."""
        return [*self._take(final=True)]

    def _take(self, *, final: bool) -> Iterator[str]:
        while (end := _boundary(self._buffer, final=final)) is not None:
            sentence, self._buffer = self._buffer[:end].strip(), self._buffer[end:]
            if sentence:
                yield sentence


def split_generated(text: str) -> list[str]:
    """The sentences of a whole generated text, as SentenceReader cuts them."""
    reader = SentenceReader()
    return reader.feed(text) + reader.finish()


def _boundary(text: str, *, final: bool) -> int | None:
    """Where the first sentence of `text` ends (its citations included); None where more text is needed."""
    for match in _END.finditer(text):
        if match.end() == len(text):
            break
        end = _after_markers(text, match.end(), final=final)
        if end is None:
            break
        rest = text[end:]
        follower = rest.lstrip()
        if not follower:
            break
        cited = end > match.end()
        is_newline = match[0][0] == "\n"
        if not is_newline:
            if follower is rest and (not cited or follower[0] in ".,;:!?)"):
                continue  # "3.14", "file.txt", "Smith et al. [4]."
            if follower[0].islower():
                continue
            if match[0][0] == "." and _is_abbreviation(text[: match.start()]):
                continue
        elif not text[: match.start()].strip():
            continue
        return end
    return len(text) if final and text else None


def _after_markers(text: str, start: int, *, final: bool) -> int | None:
    """Where the citations that follow `start` end (`start` if there are none); None while that is open."""
    end = start
    while True:
        rest = text[end:]
        bare = rest.lstrip()
        at = end + len(rest) - len(bare)
        if not bare and not final:
            return None
        if not bare.startswith("["):
            return end
        match = MARKER.match(text, at)
        if match is None or len(match[0]) > _LONGEST_MARKER:
            open_yet = "]" not in bare[:_LONGEST_MARKER] and len(bare) < _LONGEST_MARKER
            return None if open_yet and not final else end
        if "\n" in text[end:at] or is_interval(match[1]):
            return end
        end = match.end()


def _is_abbreviation(before: str) -> bool:
    """Whether the full stop after `before` belongs to its last word."""
    words = re.findall(r"[^\s(\[]+$", before)
    if not words:
        return False
    word = words[0]
    if re.fullmatch(r"\d+", word):  # "1." begins a list item
        return not before[: -len(word)].strip()
    return word.lower() in _ABBREVIATIONS or re.fullmatch(r"[A-Z]", word) is not None
