"""Options that say how PDFs are parsed, shared by the commands that do."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer


class Parser(StrEnum):
    """How text is taken out of PDFs."""

    AUTO = "auto"
    FAST = "fast"
    OREO = "oreo"


class Engine(StrEnum):
    """What recognises characters."""

    AUTO = "auto"
    TESSERACT = "tesseract"
    RAPIDOCR = "rapidocr"
    NONE = "none"


ParserOption = Annotated[
    Parser | None,
    typer.Option(help="fast: text layer only; oreo: layout model on every page; auto: per page what is good enough."),
]
EngineOption = Annotated[
    Engine | None, typer.Option("--ocr-engine", help="What recognises characters; auto: the cheapest installed.")
]
LanguageOption = Annotated[
    str | None, typer.Option("--ocr-language", metavar="LANG", help="Of scans, as Tesseract names it: eng, deu+eng.")
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--ocr-budget",
        metavar="all|none|5%|time:25%|30m",
        help="How much may be recognised, the worst pages first: a share of all pages or of the time, or CPU time.",
    ),
]
FileTimeoutOption = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Time one file may take to parse, without OCR.", min=0.1)
]
FileMemoryOption = Annotated[
    int | None, typer.Option(metavar="MIB", help="Memory one file may take to parse.", min=256)
]
PageTimeoutOption = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Time one page may take, OCR included.", min=0.1)
]


def parse_settings(
    parser: Parser | None,
    engine: Engine | None,
    language: str | None,
    budget: str | None,
    file_timeout: float | None,
    page_timeout: float | None,
    file_memory: int | None,
) -> dict[str, Any]:
    """What was given, by the names of `ParseSettings`; UserError for what cannot be."""
    from hiperrag.parsing.router import Budget

    if budget is not None:
        Budget.parse(budget)
    given = {
        "parser": parser and parser.value,
        "ocr_engine": engine and engine.value,
        "ocr_language": language,
        "ocr_budget": budget,
        "seconds_per_file": file_timeout,
        "seconds_per_page": page_timeout,
        "megabytes_per_file": file_memory,
    }
    return {name: value for name, value in given.items() if value is not None}


def need_model(parser: Parser | None) -> None:
    """UserError where the parser needs a layout model that is not installed."""
    if parser == Parser.OREO:
        from hiperrag.errors import UserError
        from hiperrag.parsing import vision

        if not vision.is_installed():
            raise UserError(vision.MISSING)
