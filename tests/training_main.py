"""`hiperrag train` as a module, which torchrun starts on this interpreter."""

from __future__ import annotations

import sys

from hiperrag.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
