"""Text to vectors."""

from hiperrag.encoders.describing import describe
from hiperrag.encoders.loading import encoder_folder, load_encoder, load_tokenizer

VERSION = 1
"""Changes when the same text would give different vectors; part of the identity of every part."""

__all__ = ["VERSION", "describe", "encoder_folder", "load_encoder", "load_tokenizer"]
