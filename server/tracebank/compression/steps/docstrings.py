"""Docstrings of Python code, shortened to their first line. Everything else of the syntax tree stays the same."""

from __future__ import annotations

import ast
import textwrap

from tracebank.compression.languages import find, guess, parsed, same_tree
from tracebank.compression.segments import Kind, Segment

_OWNERS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


def first_lines(segment: Segment) -> str:
    """Return the body with each docstring of several lines cut to its first, or as it is in doubt."""
    language = find(segment.language or guess(segment.body)) if segment.kind is Kind.BLOCK else None
    if language is None or language.name != "python" or "\r" in segment.body:
        return segment.body
    body = segment.body
    tree = parsed(textwrap.dedent(body))
    if tree is None or textwrap.dedent(body) != body:
        return body
    shorter = _shortened(body, tree)
    again = parsed(shorter)
    return shorter if again is not None and same_tree(_bare(tree), _bare(again)) else body


def _docstrings(tree: ast.Module) -> list[ast.Expr]:
    owners = (node for node in ast.walk(tree) if isinstance(node, _OWNERS))
    return [node.body[0] for node in owners if ast.get_docstring(node) is not None and isinstance(node.body[0], ast.Expr)]


def _shortened(body: str, tree: ast.Module) -> str:
    lines = body.split("\n")
    for docstring in sorted(_docstrings(tree), key=lambda node: -node.lineno):
        first, last = docstring.lineno - 1, (docstring.end_lineno or docstring.lineno) - 1
        opening = lines[first]
        ends = lines[last].rstrip()
        quotes = ends[-3:]
        # Only where the docstring stands alone on its lines and says something on the first.
        if (
            last > first
            and quotes in ('"""', "'''")
            and opening.strip().strip("rRuU").startswith(quotes)
            and opening.strip()[3:].strip(quotes[0])
        ):
            lines[first : last + 1] = [opening.rstrip() + quotes]
    return "\n".join(lines)


def _bare(tree: ast.Module) -> ast.Module:
    """Return the tree with every docstring emptied."""
    for docstring in _docstrings(tree):
        docstring.value = ast.Constant(value="")
    return tree
