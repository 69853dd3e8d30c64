"""The query service: collections behind HTTP, for people and programs."""
