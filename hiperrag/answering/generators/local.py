"""A generator that runs here, through transformers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiperrag.answering.generators.base import Cancellation, Message, Piece, TokenStream
from hiperrag.answering.generators.scoring import TokenScore, score_answers
from hiperrag.encoders.precision import Precision
from hiperrag.errors import UserError

if TYPE_CHECKING:
    import torch

CAPABLE_PARAMETERS = 1_000_000_000
"""Models below this size are quoted from, not trusted with prose that must cite."""
_BATCH_TOKENS = 1024


class LocalGenerator:
    """A causal language model in a transformers folder (or cached hub name), greedy and on the CPU or first GPU.

    `precision` None is what the hardware multiplies fastest without rounding activations. Raises UserError where the
    model cannot be loaded, and for int8 on a GPU.
    """

    def __init__(
        self, source: str | Path, spec: str, *, capable: bool | None = None, precision: Precision | None = None
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if precision == "int8" and device == "cuda":
            raise UserError(f"--generator {spec}: int8 is for CPUs; leave out :int8 on a machine with a GPU")
        with _quiet_transformers(), _load_errors(spec):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(source))
            self._model: Any = AutoModelForCausalLM.from_pretrained(str(source), dtype=_dtype(device, precision))
        self._model.to(device).eval()
        self._device = device
        self._control_tokens = sorted(
            {str(t) for t in self._tokenizer.added_tokens_decoder.values() if len(str(t)) > 1 and str(t).strip()},
            key=len,
            reverse=True,
        )
        self.spec = spec
        self.n_parameters = int(self._model.num_parameters())
        self.capable = (
            capable
            if capable is not None
            else bool(self._tokenizer.chat_template) and self.n_parameters >= CAPABLE_PARAMETERS
        )
        if precision == "int8":
            from hiperrag.answering.generators.int8 import use_int8

            use_int8(self._model, self._tokenizer)

    @property
    def model(self) -> Any:
        """The transformers model, in evaluation mode on its device."""
        return self._model

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self._tokenizer

    def prompt(self, messages: list[Message]) -> str:
        """The messages in the model's own chat form, ready for its answer.

        Control tokens that a message spells out ("<|im_end|>" in a PDF) are broken up, so that they stay text.
        """
        messages = [{**message, "content": self._as_text(message["content"])} for message in messages]
        if self._tokenizer.chat_template:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return "\n\n".join(message["content"] for message in messages) + "\n\n"

    def _as_text(self, content: str) -> str:
        for token in self._control_tokens:
            content = content.replace(token, f"{token[0]} {token[1:]}")
        return content

    def stream(self, messages: list[Message], max_tokens: int) -> TokenStream:
        """Pieces of the answer by greedy decoding; UserError where the prompt exceeds the model's window."""
        cancellation = Cancellation()
        return TokenStream(self._pieces(messages, max_tokens, cancellation), self.spec, cancellation)

    def _pieces(self, messages: list[Message], max_tokens: int, cancellation: Cancellation) -> Iterator[Piece]:
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        ids = self._tokenizer(
            self.prompt(messages), return_tensors="pt", add_special_tokens=not self._tokenizer.chat_template
        ).to(self._device)
        n_prompt = int(ids["input_ids"].shape[1])
        window = getattr(self._model.config, "max_position_embeddings", None)
        if window and n_prompt + max_tokens > window:
            raise UserError(
                f"{self.spec}: the prompt has {n_prompt} tokens and the model takes {window} with its answer;"
                " ask for fewer passages (-k)"
            )
        streamer = TextIteratorStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)
        abandoned = threading.Event()
        cancellation.on_cancel(abandoned.set)
        outcome: list[Any] = []

        def work() -> None:
            try:
                stop = StoppingCriteriaList([lambda *_, **__: abandoned.is_set()])
                outcome.append(
                    self._model.generate(
                        **ids,
                        max_new_tokens=max_tokens,
                        do_sample=False,
                        temperature=None,
                        top_p=None,
                        top_k=None,
                        streamer=streamer,
                        stopping_criteria=stop,
                        pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                    )
                )
            except BaseException as error:
                outcome.append(error)
                streamer.end()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            for text in streamer:
                yield Piece(text, tokens=0)
        finally:  # the reader may leave early
            abandoned.set()
            thread.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        n_tokens = len(outcome[0][0]) - n_prompt
        ended = int(outcome[0][0][-1]) in self._end_ids()
        yield Piece("", "length" if n_tokens >= max_tokens and not ended else "stop", n_tokens)

    def _end_ids(self) -> set[int]:
        ids = self._model.generation_config.eos_token_id
        return set(ids) if isinstance(ids, list) else {ids}

    def log_likelihood(self, prompt: str, continuations: Sequence[str]) -> list[float]:
        """Sum of natural-log probabilities of each continuation's tokens after `prompt` (plain text)."""
        return self.log_likelihoods([(prompt, continuation) for continuation in continuations])

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The same for (prompt, continuation) pairs, in length-sorted batches without gradient.

        Prompt and continuation are tokenized apart, so a continuation should begin at a word's boundary.
        """
        import torch

        tokens = [
            (
                self._tokenizer(prompt, add_special_tokens=False)["input_ids"],
                self._tokenizer(continuation, add_special_tokens=False)["input_ids"],
            )
            for prompt, continuation in pairs
        ]
        order = sorted(range(len(pairs)), key=lambda i: len(tokens[i][0]) + len(tokens[i][1]))
        scores = [0.0] * len(pairs)
        with torch.inference_mode():
            for batch in _batches(order, [len(prompt) + len(rest) for prompt, rest in tokens]):
                for i, score in zip(batch, self._score([tokens[i] for i in batch]), strict=True):
                    scores[i] = score
        return scores

    def score_answers(
        self, conversations: Sequence[list[Message]], answer: str
    ) -> Iterator[tuple[int, list[TokenScore]]]:
        """As ScoringGenerator.score_answers."""
        prompts = [self.prompt(messages) for messages in conversations]
        return score_answers(self._model, self._tokenizer, prompts, answer)

    def _score(self, tokens: list[tuple[list[int], list[int]]]) -> list[float]:
        """Left-padded, so that every continuation ends at the last column and few logits are needed."""
        import torch

        width = max(len(prompt) + len(rest) for prompt, rest in tokens)
        kept = max(len(rest) for _, rest in tokens) + 1
        ids = torch.zeros((len(tokens), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (prompt, rest) in enumerate(tokens):
            ids[row, width - len(prompt) - len(rest) :] = torch.tensor(prompt + rest)
            mask[row, width - len(prompt) - len(rest) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self._model(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            position_ids=positions.to(self._device),
            logits_to_keep=kept,
            use_cache=False,
        ).logits
        scores = []
        for row, (_, rest) in enumerate(tokens):
            n = len(rest)
            rows = logits[row, kept - n - 1 : kept - 1].float().log_softmax(-1)
            scores.append(float(rows[torch.arange(n), torch.tensor(rest, device=rows.device)].sum()))
        return scores


def _batches(order: list[int], lengths: list[int]) -> Iterator[list[int]]:
    """Split a length-sorted order so that no padded batch exceeds `_BATCH_TOKENS` (one item always fits)."""
    batch: list[int] = []
    for i in order:
        if batch and lengths[i] * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _dtype(device: str, precision: Precision | None) -> torch.dtype:
    """The type asked for (int8 starts from float32); else bfloat16 where the hardware multiplies it.

    Elsewhere it is emulated and twice as slow as float32.
    """
    import torch

    if precision is not None:
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
    return torch.bfloat16 if fast else torch.float32


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No loading bars and advice on the terminal; settings are put back afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _load_errors(spec: str) -> Iterator[None]:
    """Any failure to find, download or read a model becomes one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise UserError(f"--generator {spec}: cannot load the model ({type(error).__name__}: {first[:200]})") from error
