"""Fit a prompt into a budget of tokens: first by what costs no meaning, last by cutting the middle.

    compressed = compress(text, budget_tokens=2000, tokenizer=tokenizer)

`pipeline` holds the order of the steps, `segments` says which part of a text is prose, code or JSON, `steps/` has one
module per step, and `languages` and `lexers` know about comments.
"""

from tracebank.compression.pipeline import STRATEGIES, Compressed, StepReport, Strategy, compress

__all__ = ["STRATEGIES", "Compressed", "StepReport", "Strategy", "compress"]
