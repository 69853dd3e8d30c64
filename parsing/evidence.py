"""What the layout model's sight says about the kind of a region that was found in the text layer.

The model's classes are not ours: it sees references as list items, authors as headings, notes as text. So what it sees
is weighed by how often it sees that in regions of each kind, and multiplied with what geometry and typography say.
"""

from __future__ import annotations

from collections.abc import Sequence

from hiperrag.parsing.vision import KINDS, Detection
from hiperrag.records import BBox, Block, BlockKind

TRUST = 0.5
"""Power of the weights: a page's image and its text layer are not independent witnesses."""
MIN_SEEN = 0.2
"""A detection counts if its score times the share of the region that it covers is more."""
SEEN: dict[BlockKind, tuple[float, ...]] = {
    "title": (0.01, 0.01, 0.01, 0.02, 0.01, 0.01, 0.01, 0.57, 0.01, 0.25, 0.07, 0.02),
    "authors": (0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.56, 0.01, 0.34, 0.01, 0.01),
    "abstract": (0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.05, 0.85, 0.01, 0.01),
    "heading": (0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.88, 0.01, 0.03, 0.01, 0.01),
    "paragraph": (0.01, 0.01, 0.01, 0.06, 0.01, 0.01, 0.01, 0.01, 0.01, 0.85, 0.01, 0.01),
    "table": (0.01, 0.01, 0.02, 0.01, 0.01, 0.01, 0.02, 0.01, 0.83, 0.05, 0.01, 0.01),
    "figure": (0.02, 0.01, 0.01, 0.01, 0.01, 0.01, 0.72, 0.05, 0.08, 0.02, 0.01, 0.05),
    "caption": (0.54, 0.01, 0.01, 0.01, 0.01, 0.01, 0.08, 0.02, 0.09, 0.20, 0.01, 0.02),
    "equation": (0.01, 0.01, 0.60, 0.01, 0.01, 0.01, 0.01, 0.01, 0.02, 0.15, 0.01, 0.15),
    "footnote": (0.01, 0.03, 0.01, 0.12, 0.01, 0.05, 0.01, 0.07, 0.07, 0.56, 0.01, 0.05),
    "reference": (0.01, 0.01, 0.01, 0.66, 0.01, 0.01, 0.01, 0.01, 0.01, 0.24, 0.01, 0.01),
    "header": (0.02, 0.02, 0.02, 0.02, 0.27, 0.53, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02),
}
"""Of regions of a kind, the share in which the model sees each of `vision.KINDS`, or nothing: counted on 2,535 regions
of 26 articles whose kind the ground truth tells. Kinds with few or none there (figure, equation, header): judged."""
MAX_PIECES = 6
"""Pieces of text that a page may have as figures; words in a drawing are some, the cells of a missed table many."""
_NOTHING = len(KINDS)


def weights(box: BBox, detections: Sequence[Detection]) -> dict[BlockKind, float]:
    """What to multiply the probability of each kind with, for a region at `box` on a page with `detections`.

    Both in points of the page as it is displayed. The products still have to be made to sum to one.
    """
    seen = seen_as(box, detections)
    return {kind: shares[seen] ** TRUST for kind, shares in SEEN.items()}


def seen_as(box: BBox, detections: Sequence[Detection]) -> int:
    """Index of the kind that is seen most where the box lies."""
    best, most = _NOTHING, MIN_SEEN
    for detection in detections:
        if (weight := covered(box, detection.bbox) * detection.score) > most:
            best, most = KINDS.index(detection.kind), weight
    return best


def covered(box: BBox, by: BBox) -> float:
    """Share of a box that another covers."""
    width = min(box[2], by[2]) - max(box[0], by[0])
    height = min(box[3], by[3]) - max(box[1], by[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return width * height / area if width > 0 and height > 0 and area > 0 else 0.0


def is_fragmented(blocks: Sequence[Block]) -> bool:
    """Whether the blocks of a page look like a table or figure that was missed, so that its image should be asked.

    The kinds' own confidence does not tell: scattered cells are surely not running text. A caption that is about
    nothing tells, and so do many pieces of text that count as parts of figures.
    """
    pieces = sum(block.kind == "figure" and bool(block.text) for block in blocks)
    return pieces > MAX_PIECES or any(block.kind == "caption" and block.about < 0 for block in blocks)
