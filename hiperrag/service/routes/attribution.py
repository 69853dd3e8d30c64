"""Which passage caused which sentence of an answer."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from hiperrag.answering.attribution import Attribution, attribute
from hiperrag.answering.citations import split_generated
from hiperrag.answering.generators.base import RequestGenerator, for_request
from hiperrag.answering.generators.scoring import CannotScoreError
from hiperrag.answering.hits import Hit
from hiperrag.service.auth import collection_of, service
from hiperrag.service.catalogue import Catalogue
from hiperrag.service.errors import ApiError
from hiperrag.service.reading import reading
from hiperrag.service.schemas import MODEL_PREFIX, MOST_PASSAGES, NOT_BLANK, Model, Question
from hiperrag.service.state import shown_generator

router = APIRouter()

LONGEST_ANSWER = 10_000
POLL_S = 0.25
"""How often it is looked whether the client is still there."""
_CLIENT_LEFT = 499
MOST_SENTENCES = 100
AnswerText = Annotated[str, Field(min_length=1, max_length=LONGEST_ANSWER, pattern=NOT_BLANK)]
PassageId = Annotated[str, Field(min_length=1, max_length=200)]


class AttributionRequest(BaseModel):
    """An answer as the service gave it, and its passages in the order of `search_results`: the n-th is [n]."""

    model_config = ConfigDict(strict=True)

    model: Model
    question: Question
    answer: AnswerText | Annotated[list[AnswerText], Field(min_length=1, max_length=MOST_SENTENCES)]
    """In one piece, or by sentences, as the stream gave them."""
    passages: Annotated[list[PassageId], Field(min_length=1, max_length=MOST_PASSAGES)]


@router.post("/v1/attributions")
async def attributions(request: Request, body: AttributionRequest) -> Response:
    """What each sentence of an answer owes to each passage; see `hiperrag.answering.attribution` for the object."""
    state = service(request)
    served = collection_of(request, body.model.removeprefix(MODEL_PREFIX), "model")
    shared = reading(request.app)
    with for_request(state.generator) as generator:

        def work() -> dict[str, Any]:
            hits = _hits(shared.catalogue(served), body.passages)
            return shown(_attribute(body, hits, generator))

        working = asyncio.ensure_future(state.run(work))
        leaving = asyncio.ensure_future(_left(request))
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if working.done():
            return JSONResponse(await working)
        generator.close()
        await asyncio.wait({working})
        working.exception()
    return Response(status_code=_CLIENT_LEFT)


def shown(attribution: Attribution) -> dict[str, Any]:
    """An attribution as clients see it: the generator without folders and addresses."""
    return attribution.to_json() | {"generator": shown_generator(attribution.generator)}


def _hits(catalogue: Catalogue, passage_ids: list[str]) -> list[Hit]:
    hits = []
    for n, passage_id in enumerate(passage_ids, start=1):
        found = catalogue.find(passage_id)
        if found is None:
            raise ApiError(
                404,
                f"passage {n} is not in the collection; it may have been deleted or indexed anew",
                param="passages",
                code="passage_not_found",
            )
        hits.append(Hit(n, 0.0, found.passage))
    return hits


def _attribute(body: AttributionRequest, hits: list[Hit], generator: RequestGenerator) -> Attribution:
    sentences = split_generated(body.answer) if isinstance(body.answer, str) else body.answer
    try:
        return attribute(" ".join(body.question.split()), hits, sentences, generator)
    except CannotScoreError as error:
        raise ApiError(422, str(error), code="attribution_unavailable") from None


async def _left(request: Request) -> None:
    """Returns once the client has gone."""
    while not await request.is_disconnected():
        await asyncio.sleep(POLL_S)
