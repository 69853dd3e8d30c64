"""`POST /v1/embeddings`: pooled vectors of questions."""

from __future__ import annotations

import base64

from fastapi import APIRouter, Request

from hiperrag.service.auth import service
from hiperrag.service.routes.models import collection_of_model
from hiperrag.service.schemas import Embedding, EmbeddingsRequest, EmbeddingsResponse, EmbeddingsUsage

router = APIRouter()


@router.post("/v1/embeddings")
async def embeddings(request: Request, body: EmbeddingsRequest) -> EmbeddingsResponse:
    """One unit vector a text, as the collection's encoder makes them of questions."""
    encoder = collection_of_model(request, body.model).encoder
    texts = [body.input] if isinstance(body.input, str) else body.input
    encoded = await service(request).run(lambda: encoder.encode_queries(texts))
    as_text = body.encoding_format == "base64"
    data = [
        Embedding(
            index=number,
            embedding=base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_text else vector.tolist(),
        )
        for number, vector in enumerate(encoded.pooled)
    ]
    n_tokens = int(encoded.offsets[-1])
    usage = EmbeddingsUsage(prompt_tokens=n_tokens, total_tokens=n_tokens)
    return EmbeddingsResponse(model=body.model, data=data, usage=usage)
