"""Text to token ids, with the `tokenizers` library alone (no torch)."""

from __future__ import annotations

import dataclasses
import os
import string
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as FastTokenizer

from hiperrag.encoders.config import EncoderConfig
from hiperrag.errors import UserError

_SUBWORD_MARKS = ("##", "Ġ", "▁")


@dataclasses.dataclass(slots=True)
class Tokenized:
    """Token ids of one text after truncation, and whether anything was cut off."""

    ids: npt.NDArray[np.int64]
    truncated: bool


class TextTokenizer:
    """A folder's tokenizer: counts for chunking, ids for encoding."""

    def __init__(self, folder: Path, config: EncoderConfig) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{folder} has no tokenizer.json: save the model with a fast tokenizer")
        # One batch is a few milliseconds; a thread pool per worker process would only get in the way.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            self._tokenizer = FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"{path} cannot be read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._prefix = config.passage_prefix
        self.max_tokens = config.passage_max_tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text as a passage, prefix and special tokens included, not truncated."""
        prefixed = [self._prefix + text for text in texts]
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(prefixed)]

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> list[Tokenized]:
        """Ids of each text, special tokens included, cut to `max_tokens`."""
        self._tokenizer.enable_truncation(max_tokens)
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts))
        finally:
            self._tokenizer.no_truncation()
        return [
            Tokenized(np.asarray(encoding.ids, dtype=np.int64), bool(encoding.overflowing)) for encoding in encodings
        ]

    def special_ids(self) -> list[int]:
        """Ids of special tokens ([CLS], [SEP], [PAD], ...)."""
        added = self._tokenizer.get_added_tokens_decoder()
        return sorted(token_id for token_id, token in added.items() if token.special)

    def punctuation_ids(self) -> list[int]:
        """Ids of tokens made of punctuation only (ASCII punctuation and Unicode category P)."""
        special = set(self.special_ids())
        return sorted(
            token_id
            for token, token_id in self._tokenizer.get_vocab().items()
            if token_id not in special and _is_punctuation(token)
        )

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's spelling of each id."""
        return [str(self._tokenizer.id_to_token(number)) for number in ids]

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size())


def _is_punctuation(token: str) -> bool:
    for mark in _SUBWORD_MARKS:
        token = token.removeprefix(mark) or token
    return bool(token) and all(
        character in string.punctuation or unicodedata.category(character).startswith("P") for character in token
    )
