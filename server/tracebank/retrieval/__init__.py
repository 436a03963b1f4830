"""From a question to the few lines that help: search, fusion, passages, budget, text."""

from tracebank.retrieval.fusion import Ranked
from tracebank.retrieval.presentation import Page, present
from tracebank.retrieval.reranking import Reranker
from tracebank.retrieval.search import Retriever, Searched
from tracebank.retrieval.shown import Result

__all__ = ["Page", "Ranked", "Reranker", "Result", "Retriever", "Searched", "present"]
