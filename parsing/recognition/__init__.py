"""Recognition: how good a page's text layer is, and characters from images where it is missing or wrong."""

from hiperrag.parsing.recognition.engines import RecognitionError, available, load
from hiperrag.parsing.recognition.pages import (
    read_documents,
    read_page,
    read_pages,
    recognise_regions,
)

__all__ = [
    "RecognitionError",
    "available",
    "load",
    "read_documents",
    "read_page",
    "read_pages",
    "recognise_regions",
]
