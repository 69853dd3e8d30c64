"""Log-probabilities of a given answer from a server that can say them: vLLM's prompt log-probabilities, or `echo`.

vLLM's chat completions take the answer as a final assistant message to be continued, and give the log-probability of
every token of the prompt (`prompt_logprobs`), so that the chat template is the model's own. Other servers may do it for
plain completions with `echo` and `logprobs`; there the conversation is plain text. Neither gives whole distributions,
so the tokens have no entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from hiperrag.answering.generators.scoring import NO_LOG_PROBABILITIES, CannotScoreError, TokenScore
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.answering.generators.base import Message

Post = Callable[[str, dict[str, Any]], Any]
"""POST a JSON body to a path under the base URL; the JSON that comes back. UserError where it is refused."""

AT_A_TIME = 4
_UNKNOWN = "\ufffd"
"""Stands in a token's text for bytes that are only part of a character."""


def score_remotely(
    post: Post, model: str, conversations: Sequence[list[Message]], answer: str
) -> Iterator[tuple[int, list[TokenScore]]]:
    """ScoringGenerator.score_answers of a server. The first conversation finds out which way it can be asked."""
    for way in (_as_chat, _as_text):
        first = way(post, model, conversations[0], answer)
        if first is not None:
            break
    else:
        raise CannotScoreError(NO_LOG_PROBABILITIES)
    yield 0, first
    chosen = way

    def score(conversation: list[Message]) -> list[TokenScore]:
        found = chosen(post, model, conversation, answer)
        if found is None:
            raise CannotScoreError("the server gave log-probabilities for one prompt and not for the next; try again")
        return found

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield from enumerate(pool.map(score, conversations[1:]), start=1)


def _as_chat(post: Post, model: str, conversation: list[Message], answer: str) -> list[TokenScore] | None:
    body = {
        "model": model,
        "messages": [*conversation, {"role": "assistant", "content": answer}],
        "add_generation_prompt": False,
        "continue_final_message": True,
        "prompt_logprobs": 1,
        "max_tokens": 1,
        "temperature": 0,
    }
    reply = _reply(post, "chat/completions", body)
    listed = reply.get("prompt_logprobs")
    if not isinstance(listed, list):
        return None
    try:
        # The token itself comes first, then the likeliest one.
        chosen = [next(iter(entry.values())) for entry in listed if entry]
        tokens = [(str(token["decoded_token"]), float(token["logprob"])) for token in chosen]
    except (AttributeError, KeyError, TypeError, ValueError, StopIteration):
        return None
    return _at_the_end(tokens, answer)


def _as_text(post: Post, model: str, conversation: list[Message], answer: str) -> list[TokenScore] | None:
    beginning = "".join(f"{message['content']}\n\n" for message in conversation)
    body = {
        "model": model,
        "prompt": beginning + answer,
        "echo": True,
        "logprobs": 1,
        "max_tokens": 1,
        "temperature": 0,
    }
    reply = _reply(post, "completions", body)
    try:
        listed = reply["choices"][0]["logprobs"]
        starts = [int(start) - len(beginning) for start in listed["text_offset"]]
        scores = listed["token_logprobs"]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    found, begun = [], 0
    for start, end, score in zip(starts, [*starts[1:], len(answer) + 1], scores, strict=False):
        if end > 0 and start < len(answer) and score is not None:
            end = min(end, len(answer))
            found.append(TokenScore(answer[begun:end], end, float(score), None))
            begun = end
    return found or None


def _reply(post: Post, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What comes back; nothing where this kind of request is refused."""
    from hiperrag.answering.generators.base import UnavailableError

    try:
        reply = post(path, body)
    except UnavailableError:
        raise
    except UserError:
        return {}
    return reply if isinstance(reply, dict) else {}


def _at_the_end(tokens: Sequence[tuple[str, float]], answer: str) -> list[TokenScore]:
    """The last tokens of a prompt, which spell the answer, with their places in it; read from the end."""
    found: list[TokenScore] = []
    left, unknown = len(answer), 0
    """Characters not yet spelt, and tokens after them whose characters are not known: at most one each."""
    for text, score in reversed(tokens):
        if left == 0:
            break
        if _UNKNOWN in text:
            unknown += 1
            found.append(TokenScore("", left, score, None))
            continue
        start = answer.rfind(text, max(0, left - len(text) - unknown), left)
        end = start + len(text)
        if start < 0 and not unknown and text.endswith(answer[:left]):
            start, end = 0, left  # the token begins before the answer
        if start < 0 or (not unknown and end < left):
            break
        found.append(TokenScore(answer[start:end], end, score, None))
        left, unknown = start, 0
    if left > unknown:
        raise CannotScoreError("the server's tokens do not spell the answer; it cannot be attributed")
    return found[::-1]
