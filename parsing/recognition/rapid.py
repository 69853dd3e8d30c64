"""RapidOCR: the PP-OCR models for detection and recognition of lines, on ONNX Runtime."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiperrag.errors import UserError
from hiperrag.parsing.recognition.engines import PAGE_SECONDS, Cost, Meter, Picture, Recognised, TextLine, Word

PACKAGE = "rapidocr"
BATCH = 8
"""Lines recognised at once on a processor; a GPU takes more."""
GPU_BATCH = 64
MIN_SCORE = 0.5
_MODELS = ("PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx")


def _folder() -> Path | None:
    """Where the package keeps its models. None where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    return Path(found.origin).parent / "models" if found and found.origin else None


def is_available() -> bool:
    """Whether the package, its models and ONNX Runtime are here: nothing may be downloaded while pages are read."""
    folder = _folder()
    models = folder is not None and all((folder / name).is_file() for name in _MODELS)
    return models and importlib.util.find_spec("onnxruntime") is not None


def load(language: str) -> Rapid:
    """The engine; its model knows about fifty languages, `language` is not used.

    Raises UserError where it is not installed.
    """
    del language
    if not is_available():
        raise UserError("RapidOCR is not installed with its models (pip install 'hiperrag[ocr]')")
    return Rapid()


class Rapid:
    """Finds lines page by page, then recognises those of all pages together, the narrow with the narrow."""

    name = "rapidocr"
    dpi = 150.0

    def __init__(self) -> None:
        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
        import onnxruntime
        import rapidocr

        folder = _folder()
        self.on_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        self._batch = GPU_BATCH if self.on_gpu else BATCH
        self._reader: Any = rapidocr.RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,
                "Global.return_word_box": True,
                "Det.model_path": str(folder / _MODELS[0]) if folder else None,
                "Rec.model_path": str(folder / _MODELS[1]) if folder else None,
                "Det.limit_type": "max",  # nothing is enlarged
                "Det.limit_side_len": 2000,
                "Rec.rec_batch_num": self._batch,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,  # one process per core
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "EngineConfig.onnxruntime.use_cuda": self.on_gpu,
            }
        )
        self.cost = Cost(prior=8.0)

    def recognise(self, pictures: Sequence[Picture], seconds: float = PAGE_SECONDS) -> list[Recognised]:
        with Meter(self.cost, len(pictures)):
            return self._recognise(pictures, seconds)

    def _recognise(self, pictures: Sequence[Picture], seconds: float) -> list[Recognised]:
        deadline = time.monotonic() + seconds * len(pictures)
        found = [Recognised() for _ in pictures]
        crops: list[tuple[int, Any, Any]] = []  # picture, pixels and corners of a line
        for index, picture in enumerate(pictures):
            try:
                crops += [(index, crop, box) for crop, box in self._lines(picture)]
            except Exception as error:  # OpenCV and ONNX Runtime raise many types; the other pages go on
                found[index].error = f"RapidOCR failed: {' '.join(str(error).split())}"[:200]
        crops.sort(key=lambda crop: crop[1].shape[1] / crop[1].shape[0])
        for start in range(0, len(crops), self._batch):
            batch = crops[start : start + self._batch]
            if time.monotonic() > deadline:
                for index in {index for index, _, _ in crops[start:]}:
                    found[index] = Recognised(error=f"recognition took longer than {seconds:.0f} seconds")
                break
            try:
                for (index, _, _), line in zip(batch, self._read(batch), strict=True):
                    if line is not None:
                        found[index].lines.append(line)
            except Exception as error:
                for index in {index for index, _, _ in batch}:
                    found[index].error = f"RapidOCR failed: {' '.join(str(error).split())}"[:200]
        for page in found:
            page.lines = [] if page.error else sorted(page.lines, key=lambda line: line.words[0].box[1])
        return found

    def _lines(self, picture: Picture) -> list[tuple[Any, Any]]:
        """Pixels and corners of the lines of a page."""
        colours = np.ascontiguousarray(np.repeat(picture.pixels[:, :, None], 3, axis=2))
        from rapidocr.main import RapidOCRError

        with contextlib.suppress(RapidOCRError):  # nothing is found on a page without text
            crops, found = self._reader.detect_and_crop(colours, {})
            return list(zip(crops, found.boxes, strict=True))
        return []

    def _read(self, batch: Sequence[tuple[int, Any, Any]]) -> list[TextLine | None]:
        """What a batch of lines says; None for those that say nothing."""
        crops = [crop for _, crop, _ in batch]
        read = self._reader.recognize_txt(crops)
        lines: list[TextLine | None] = []
        for (_, _, box), text, score, parts in zip(batch, read.txts, read.scores, read.word_results, strict=True):
            if not text.strip() or score < MIN_SCORE:
                lines.append(None)
                continue
            vertical = bool(np.ptp(box[:, 1]) > 1.5 * np.ptp(box[:, 0]) and len(text.strip()) > 2)
            lines.append(TextLine(_words(text, float(score), parts, box), vertical))
        return lines


def _words(text: str, score: float, parts: Any, box: Any) -> list[Word]:
    """Words of a line with their boxes, from the columns of the recogniser's output its characters came from."""
    x0, y0 = float(box[:, 0].min()), float(box[:, 1].min())
    x1, y1 = float(box[:, 0].max()), float(box[:, 1].max())
    columns = [column for group in getattr(parts, "word_cols", None) or () for column in group]
    characters = [c for c in text if not c.isspace()]
    pieces = text.split()
    if len(columns) != len(characters) or not parts.line_txt_len:
        pitch = (x1 - x0) / max(1, len(text))
        starts = [text.find(piece) for piece in pieces]
        return [
            Word(piece, (x0 + start * pitch, y0, x0 + (start + len(piece)) * pitch, y1), score)
            for piece, start in zip(pieces, starts, strict=True)
        ]
    cell = (x1 - x0) / parts.line_txt_len
    words, done = [], 0
    for piece in pieces:
        first, last = columns[done], columns[done + len(piece) - 1]
        done += len(piece)
        words.append(Word(piece, (x0 + first * cell, y0, min(x1, x0 + (last + 1) * cell), y1), score))
    return words
