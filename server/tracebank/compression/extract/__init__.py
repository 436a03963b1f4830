"""Extraction: which units of a text to keep under a budget, with a question or without one.

`units` cuts the text, `outline` holds what is known of it, `relevance` and `salience` score, `ends` guards instructions and
request, `choosing` picks under the budget, `rendering` writes down.
"""
