"""Training data from collections: questions that passages answer, and passages that do not answer questions."""
