"""Vectors become shards that can be searched."""

CODES_VERSION = 1
"""Changes when the same vectors would get other codes; part of the identity of every encoded part."""
VERSION = (1, CODES_VERSION)
"""Changes when the same codes would give another shard; part of the identity of every shard."""
