"""Reasoning with memory, where there is a language model: think, recall, draft, judge, refine; contrast and remember."""

from tracebank.reasoning.progress import Listener
from tracebank.reasoning.reasoner import Reasoned, Reasoner

__all__ = ["Listener", "Reasoned", "Reasoner"]
