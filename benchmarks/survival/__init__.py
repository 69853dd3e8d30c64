"""Indexing runs that are struck at random instants, and what becomes of their collections."""
