"""OpenAI Responses. https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracebank.llm.base import Answer, Request
from tracebank.llm.dialects.usage import tokens
from tracebank.llm.structured import SCHEMA_NAME, is_strict


class Responses:
    """POST /responses."""

    base_url = "https://api.openai.com/v1"
    path = "/responses"

    def headers(self, key: str) -> dict[str, str]:
        """Return the headers; `key` is empty where none is needed."""
        return {"authorization": f"Bearer {key}"} if key else {}

    def body(self, request: Request, *, model: str, max_output_tokens: int, base_url: str) -> dict[str, Any]:
        """Return the request's JSON. Nothing is to be kept at the provider's."""
        body: dict[str, Any] = {"model": model, "input": request.prompt, "max_output_tokens": max_output_tokens, "store": False}
        if request.system:
            body["instructions"] = request.system
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.schema is not None:
            form = {"type": "json_schema", "name": SCHEMA_NAME, "schema": request.schema, "strict": is_strict(request.schema)}
            body["text"] = {"format": form}
        return body

    def answer(self, payload: Mapping[str, Any]) -> Answer:
        """Read an answer's JSON. Raises: KeyError, TypeError where it is none."""
        parts = [part for item in payload["output"] if item["type"] == "message" for part in item["content"]]
        usage = payload.get("usage") or {}
        reason = (payload.get("incomplete_details") or {}).get("reason")
        filtered = "the provider's content filter held it back" if reason == "content_filter" else ""
        return Answer(
            text="".join(part["text"] for part in parts if part["type"] == "output_text"),
            model=payload.get("model") or "",
            tokens_in=tokens(usage, "input_tokens"),
            tokens_out=tokens(usage, "output_tokens"),
            truncated=reason == "max_output_tokens",
            refusal="".join(part["refusal"] for part in parts if part["type"] == "refusal") or filtered,
        )
