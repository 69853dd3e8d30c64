"""PDFs and ready text become documents and passages."""

VERSION = 4
"""Changes when the same input would give a different output; part of the identity of every part."""
