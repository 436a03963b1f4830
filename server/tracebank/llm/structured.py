"""Answers as JSON: asking for a schema, reading what came, checking it.

jsonschema is imported late: only those who ask for a schema pay for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from tracebank.errors import InputError
from tracebank.llm.base import Request
from tracebank.llm.storable import storable_json

SCHEMA_NAME = "answer"
# To check a schema takes 2 ms, and a caller has few of them.
KNOWN_SCHEMAS = 64
_SHOWN_CHARS = 300


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise InputError unless `schema` is a JSON Schema."""
    try:
        written = json.dumps(schema)
    except (TypeError, ValueError) as error:
        raise InputError("schema", f"is not JSON: {error}") from error
    _check_written(written)


@lru_cache(maxsize=KNOWN_SCHEMAS)
def _check_written(schema: str) -> None:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(json.loads(schema))
    except SchemaError as error:
        raise InputError("schema", f"is not a JSON Schema: {error.message[:_SHOWN_CHARS]}") from error


def parsed(text: str, schema: Mapping[str, Any]) -> Any:
    """Return the JSON in an answer, once it is known to match. Raises: ValueError saying what is wrong, and where."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    try:
        value = storable_json(_unfenced(text))
    except ValueError as error:
        raise ValueError(f"the answer is not JSON ({error})") from error
    if (wrong := best_match(Draft202012Validator(dict(schema)).iter_errors(value))) is not None:
        raise ValueError(f"the answer does not match the schema at {wrong.json_path}: {wrong.message[:_SHOWN_CHARS]}")
    return value


def _unfenced(text: str) -> str:
    """Return what stands in the code fence that models like to put around JSON."""
    text = text.strip()
    if not text.startswith("```"):
        return text
    return text.partition("\n")[2].rpartition("```")[0]


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Return whether OpenAI can hold the model to the schema: every object closed, and every property required.

    https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
    """
    return schema.get("type") == "object" and all(_is_closed(part) for part in _parts(schema))


def _is_closed(part: Mapping[str, Any]) -> bool:
    if part.get("type") != "object":
        return True
    return part.get("additionalProperties") is False and set(part.get("required", ())) == set(part.get("properties", {}))


def _parts(schema: Any) -> list[Mapping[str, Any]]:
    """Return a schema and every schema in it."""
    if isinstance(schema, Mapping):
        return [schema, *(part for value in schema.values() for part in _parts(value))]
    if isinstance(schema, list | tuple):
        return [part for value in schema for part in _parts(value)]
    return []


def in_words(request: Request) -> Request:
    """Return the request with its schema in the prompt, for providers that take none."""
    schema = json.dumps(request.schema, ensure_ascii=False)
    return replace(request, prompt=f"{request.prompt}\n\nAnswer with JSON alone, matching this JSON Schema:\n{schema}", schema=None)


def corrected(request: Request, problem: str) -> Request:
    """Return the request, told what was wrong with the last answer: asked the same way a model errs the same way."""
    return replace(request, prompt=f"{request.prompt}\n\nYour last answer could not be used: {problem}. Answer again, with JSON alone.")
