"""`POST /v1/rerank`: texts of the caller's own, ranked for a query by MaxSim (the shape of Cohere's and Jina's API)."""

from __future__ import annotations

import secrets

import numpy as np
from fastapi import APIRouter, Request

from hiperrag.encoders.base import Encoder
from hiperrag.service.auth import service
from hiperrag.service.routes.models import collection_of_model
from hiperrag.service.schemas import (
    EmbeddingsUsage,
    RerankDocument,
    RerankedText,
    RerankRequest,
    RerankResponse,
    RerankResult,
)

router = APIRouter()


@router.post("/v1/rerank", response_model_exclude_none=True)
async def rerank(request: Request, body: RerankRequest) -> RerankResponse:
    """The texts, best first; equal scores in the order given."""
    encoder = collection_of_model(request, body.model).encoder
    texts = [one.text if isinstance(one, RerankDocument) else one for one in body.documents]
    scores, n_tokens = await service(request).run(lambda: maxsim(encoder, body.query, texts))
    best = sorted(range(len(texts)), key=lambda number: -scores[number])[: body.top_n or len(texts)]
    results = [
        RerankResult(
            index=number,
            relevance_score=scores[number],
            document=RerankedText(text=texts[number]) if body.return_documents else None,
        )
        for number in best
    ]
    usage = EmbeddingsUsage(prompt_tokens=n_tokens, total_tokens=n_tokens)
    return RerankResponse(id=f"rerank-{secrets.token_hex(16)}", model=body.model, results=results, usage=usage)


def maxsim(encoder: Encoder, query: str, texts: list[str]) -> tuple[list[float], int]:
    """For each text the mean over the query's tokens of the best cosine (0 without tokens); and tokens encoded."""
    asked = encoder.encode_queries([query])
    given = encoder.encode_passages(texts)
    scores = [
        float(np.mean(np.max(asked.tokens @ vectors.T, axis=1))) if len(vectors) else 0.0
        for vectors in given.token_arrays()
    ]
    return scores, int(asked.offsets[-1] + given.offsets[-1])
