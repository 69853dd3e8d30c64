"""Parsers on PDFs with ground truth: text, structure, tables, captions, time."""
