"""HiPerRAG: scientific retrieval-augmented generation from a laptop to a supercomputer."""

__version__ = "0.1.0"
