"""`POST /v1/chat/completions`: an answer with citations, in one piece or as it comes about."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from hiperrag.answering.answer import MAX_TOKENS
from hiperrag.answering.generators.base import Message
from hiperrag.answering.result import Answer, Draft, Sentence
from hiperrag.filters import Filter
from hiperrag.service.answers import AnswerJob, Asked, Attributed, Found, Heartbeat
from hiperrag.service.auth import caller, service
from hiperrag.service.completions import DONE, HEARTBEAT, Completion, sse
from hiperrag.service.errors import ApiError, log
from hiperrag.service.routes.models import collection_of_model
from hiperrag.service.schemas import LONGEST_QUESTION, ChatCompletion, ChatOptions, ChatRequest, FoundPassage
from hiperrag.service.state import passage_url

MOST_TOKENS = 4096
"""Longer answers are not asked of a generator, whatever the request says."""

READING_S = 30.0
"""What a client may take to read the end of an answer, beyond the time for the answer."""

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The answer."}},
)
async def chat_completions(request: Request, body: ChatRequest) -> Any:
    """Answer the last user message from a collection; with `stream`, as server-sent events."""
    collection = collection_of_model(request, body.model)
    asked = _asked(body)
    settings = service(request).settings
    completion = Completion(body.model, lambda passage: passage_url(request, settings, collection.name, passage))
    job = AnswerJob(service(request), collection, asked, caller(request))
    if body.stream:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        return _AnswerStream(job, _stream(job, completion, include_usage), settings.request_timeout_s + READING_S)
    leaving = asyncio.create_task(_cancel_when_left(request, job))
    try:
        return await _whole(job, completion)
    finally:
        leaving.cancel()


class _AnswerStream(StreamingResponse):
    """Server-sent events of a job, which ends with them: also where the client left before the first."""

    def __init__(self, job: AnswerJob, events: AsyncIterator[bytes], longest_s: float) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._job = job
        self._longest_s = longest_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._longest_s):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            log.warning("a client stopped reading its answer; the connection is closed")
        finally:
            self._job.cancel()


def _asked(body: ChatRequest) -> Asked:
    turns = [turn for turn in body.messages if turn.role in ("user", "assistant")]
    last = next((number for number in reversed(range(len(turns))) if turns[number].role == "user"), None)
    if last is None:
        raise ApiError(422, "messages: one with the role user is needed", param="messages")
    question = " ".join(turns[last].text.split())
    if len(question) > LONGEST_QUESTION:
        raise ApiError(422, f"messages: a question may have {LONGEST_QUESTION} characters", param="messages")
    history: list[Message] = [{"role": turn.role, "content": turn.text} for turn in turns[:last]]
    options = body.hiperrag or ChatOptions()
    where = Filter.parse(options.where) if options.where is not None else None
    wanted = body.max_completion_tokens or body.max_tokens or MAX_TOKENS
    return Asked(question, history, options, where, min(wanted, MOST_TOKENS))


async def _whole(job: AnswerJob, completion: Completion) -> ChatCompletion:
    results: list[FoundPassage] = []
    async for event in job.events():
        match event:
            case Found():
                results = completion.search(event)
            case Sentence():
                completion.add(event)
            case Answer():
                completion.end(event)
            case Attributed():
                completion.attribution = event.attribution
    return completion.whole(results)


async def _stream(job: AnswerJob, completion: Completion, include_usage: bool) -> AsyncIterator[bytes]:
    """The events of the stream. The first comes before the search; a failure is an event too, and the last."""
    try:
        yield completion.chunk({"role": "assistant", "content": ""})
        async for event in job.events():
            match event:
                case Heartbeat():
                    yield HEARTBEAT
                case Found():
                    results = [found.model_dump() for found in completion.search(event)]
                    yield completion.chunk({}, search_results=results)
                case Draft():
                    yield completion.chunk({}, hiperrag={"draft": event.text})
                case Sentence():
                    yield completion.chunk({"content": completion.add(event)})
                case Answer():
                    if rest := completion.end(event):
                        yield completion.chunk({"content": rest})
                case Attributed():
                    completion.attribution = event.attribution
        yield _last_chunk(completion)
        if include_usage:
            yield completion.usage_chunk()
        yield DONE
    except ApiError as error:
        yield sse(error.to_json())
    except Exception as error:
        log.error("a stream failed", exc_info=error)
        yield sse(ApiError(500, "the service failed on this request; its log says why").to_json())


def _last_chunk(completion: Completion) -> bytes:
    annotations = [annotation.model_dump() for annotation in completion.annotations]
    more: dict[str, Any] = {
        "citations": [citation.model_dump() for citation in completion.citations],
        "hiperrag": completion.facts.model_dump(),
    }
    if completion.attribution is not None:
        more["attribution"] = completion.attribution
    return completion.chunk({"annotations": annotations}, completion.answer.finish, **more)


async def _cancel_when_left(request: Request, job: AnswerJob) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.cancel()
