"""Command line: `python -m examples.typeset [NAME ...] [--to DIR]`."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path

from examples.typeset import TOOLS

EXAMPLES = Path(__file__).resolve().parents[1]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> int:
    """Typeset the named sources (all by default) into a folder (examples/papers by default)."""
    parser = argparse.ArgumentParser(prog="python -m examples.typeset", description=main.__doc__)
    parser.add_argument("names", nargs="*", help="sources without .md; all by default")
    parser.add_argument("--to", type=Path, default=EXAMPLES / "papers", help="folder for the PDFs")
    arguments = parser.parse_args()
    try:
        from examples.typeset.document import typeset
        from examples.typeset.fonts import MissingFontError
        from examples.typeset.scan import scan_page
        from examples.typeset.source import read_paper
    except ModuleNotFoundError as error:
        print(f"{str(error.name).split('.')[0]} is not installed: pip install '.[samples]'", file=sys.stderr)
        return 2
    known = {path.stem: path for path in sorted((EXAMPLES / "sources").glob("*.md"))}
    if unknown := [name for name in arguments.names if name not in known]:
        print(f"no source {unknown[0]}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    other = [name for name, version in TOOLS.items() if _version(name) not in (version, None)]
    if other:
        print(f"other versions than the committed PDFs were made with: {', '.join(other)}", file=sys.stderr)
    arguments.to.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or known:
        target = arguments.to / f"{name}.pdf"
        paper = read_paper(known[name])
        try:
            pages = typeset(paper, target)
        except MissingFontError as error:
            print(error, file=sys.stderr)
            return 2
        if paper.design.scan_page:
            scan_page(target, paper.design.scan_page)
        print(f"{target.name}: {pages} pages, {target.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
