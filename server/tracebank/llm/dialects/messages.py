"""Anthropic Messages. https://docs.anthropic.com/en/api/messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tracebank.llm.base import Answer, Request
from tracebank.llm.dialects.usage import tokens
from tracebank.llm.structured import SCHEMA_NAME


class Messages:
    """POST /messages."""

    base_url = "https://api.anthropic.com/v1"
    path = "/messages"

    def headers(self, key: str) -> dict[str, str]:
        """Return the headers; `key` is empty where none is needed."""
        version = {"anthropic-version": "2023-06-01"}
        return version | {"x-api-key": key} if key else version

    def body(self, request: Request, *, model: str, max_output_tokens: int, base_url: str) -> dict[str, Any]:
        """Return the request's JSON. A schema is that of a tool which the model has to call: every model knows that."""
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": max_output_tokens,
            "messages": [{"role": "user", "content": request.prompt}],
        }
        if request.system:
            body["system"] = request.system
        if request.temperature is not None:
            # The range of this protocol ends at 1.
            body["temperature"] = min(1.0, request.temperature)
        if request.schema is not None:
            body["tools"] = [{"name": SCHEMA_NAME, "description": "Give the answer.", "input_schema": request.schema}]
            body["tool_choice"] = {"type": "tool", "name": SCHEMA_NAME}
        return body

    def answer(self, payload: Mapping[str, Any]) -> Answer:
        """Read an answer's JSON. Raises: KeyError, TypeError where it is none."""
        usage = payload.get("usage") or {}
        stop = payload.get("stop_reason")
        tokens_in = tokens(usage, "input_tokens")
        if tokens_in is not None:
            # What was written to or read from the provider's prompt cache is not in the first count.
            tokens_in += (tokens(usage, "cache_creation_input_tokens") or 0) + (tokens(usage, "cache_read_input_tokens") or 0)
        text = "".join(_text(block) for block in payload["content"])
        return Answer(
            text=text,
            model=payload.get("model") or "",
            tokens_in=tokens_in,
            tokens_out=tokens(usage, "output_tokens"),
            truncated=stop == "max_tokens",
            refusal=(text or "it gave no reason") if stop == "refusal" else "",
        )


def _text(block: Mapping[str, Any]) -> str:
    if block["type"] == "tool_use":
        return json.dumps(block["input"], ensure_ascii=False)
    return str(block["text"]) if block["type"] == "text" else ""
