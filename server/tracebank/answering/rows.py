"""What is asked and what is answered, as rows of JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tracebank.answering.pages import Retrieved
from tracebank.answering.requests import Asked
from tracebank.records import Filters, Outcome, Query
from tracebank.retrieval.cursor import Place
from tracebank.retrieval.presentation import Page
from tracebank.retrieval.shown import Result


def asked_row(asked: Asked) -> dict[str, Any]:
    """Return the row of what is asked."""
    return {"query": {**_row(asked.query), "filters": _row(asked.query.filters)}, "place": asked.place, "periods": asked.periods}


def asked_of(row: Mapping[str, Any]) -> Asked:
    """Return what a row says is asked. Raises: TypeError, ValueError, KeyError."""
    filters = Filters(**{**_values(row["query"]["filters"]), "outcomes": tuple(Outcome(o) for o in row["query"]["filters"]["outcomes"])})
    query = Query(**{**_values(row["query"]), "filters": filters})
    return Asked(query=query, place=Place(*_tuples(row["place"])), periods=tuple((first, behind) for first, behind in row["periods"]))


def answer_row(answer: Retrieved) -> dict[str, Any]:
    """Return the row of an answer."""
    results = [{**_row(result), "parts": dict(result.parts)} for result in answer.page.results]
    row = {**_row(answer), "page": {**_row(answer.page), "results": results}}
    del row["shaped"]
    return row


def answer_of(row: Mapping[str, Any]) -> Retrieved:
    """Return the answer of a row. Raises: TypeError, ValueError, KeyError."""
    results = tuple(Result(**_values(result)) for result in row["page"]["results"])
    return Retrieved(**{**_values(row), "page": Page(**{**_values(row["page"]), "results": results})})


def _row(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a row, lists as the tuples that they were."""
    return {name: _tuples(value) for name, value in row.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
