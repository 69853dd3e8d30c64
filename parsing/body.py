"""The body of a document as plain text."""

from __future__ import annotations

import re

from hiperrag.parsing import typography
from hiperrag.records import Block, Document

_RESUMES = re.compile(
    r"(?:(?:online |supplementary )?(?:materials and )?methods|experimental(?: section)?|append(?:ix|ices)\b.*|"
    r"acknowledge?ments?|authors?[’']?s? contributions?|additional information)\s*:?",
    re.I,
)
"""Headings of parts of the article that some journals set after the references."""

BODY_KINDS = frozenset({"title", "abstract", "heading", "paragraph", "list", "equation"})


def body_text(document: Document) -> str:
    """Title, abstract, headings, paragraphs, lists and equations in reading order, separated by blank lines.

    Paragraphs that run over a column or page break are joined. Authors, captions, tables, references, footnotes
    and running heads are left out, and so are statements about the article (funding, availability of data,
    competing interests, ...) and what follows the references, such as printed reviews, unless it is a named part
    of the article.
    """
    parts: list[str] = []
    previous: Block | None = None
    skipping = after_references = False
    below_run_in = False
    skipped_level = 0
    for block in document.blocks:
        if block.kind == "heading":
            below_run_in = _is_run_in_statement(block.text)
            if below_run_in:
                continue
            after_references = after_references or bool(typography.REFERENCES.fullmatch(block.text))
            below = skipping and block.level > skipped_level
            skipping = below or _is_left_out(block.text, after_references)
            skipped_level = skipped_level if below else block.level
        if skipping or block.kind not in BODY_KINDS or not block.text:
            continue
        statement = below_run_in or typography.RUN_IN_BACK_MATTER.match(block.text)
        if block.kind == "paragraph" and not block.continues and statement:
            previous, below_run_in = None, False
            continue
        if block.continues:
            if previous is None:
                continue
            parts[-1] = f"{parts[-1]} {block.text}"
        else:
            parts.append(block.text)
        previous = block
    return "\n\n".join(parts) + "\n" if parts else ""


def _is_run_in_statement(heading: str) -> bool:
    """Whether a heading stands on the line of the statement about the article that it heads."""
    return heading[-1:] in ".:—–" and typography.RUN_IN_BACK_MATTER.fullmatch(heading) is not None


def _is_left_out(heading: str, after_references: bool) -> bool:
    """Whether the section under a heading is no part of the body."""
    if typography.BACK_MATTER.fullmatch(heading):
        return True
    return after_references and not _RESUMES.fullmatch(heading)
