"""From a request to a page of memories: reading it, keeping answers, finding what is not kept."""

from tracebank.answering.asking import Asking
from tracebank.answering.finder import Finder, Retrieved
from tracebank.answering.requests import Asked

__all__ = ["Asked", "Asking", "Finder", "Retrieved"]
