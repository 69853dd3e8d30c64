"""Vectors become shards that can be searched."""

VERSION = 1
"""Changes when the same input would give a different output; part of the identity of every part."""
