"""`hiperrag chat` with stand-ins for collection and generator, so that it starts at once; run by test_chat."""

from __future__ import annotations

import sys
import types

from chat_helpers import Retriever, Storyteller

from hiperrag.answering import generators
from hiperrag.cli import main

retrieval = types.ModuleType("hiperrag.answering.retrieval")
retrieval.Retriever = Retriever
sys.modules[retrieval.__name__] = retrieval
generators.load_generator = lambda spec: Storyteller()
sys.argv = ["hiperrag", "chat", "papers"]
main()
