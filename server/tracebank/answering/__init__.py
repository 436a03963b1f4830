"""From a request to a page of memories: reading it, keeping answers, finding what is not kept."""

from tracebank.answering.asking import Asking
from tracebank.answering.finder import Finder
from tracebank.answering.pages import Pages, Retrieved
from tracebank.answering.requests import Asked

__all__ = ["Asked", "Asking", "Finder", "Pages", "Retrieved"]
