"""OpenAI-compatible chat completions: OpenAI, Ollama, LM Studio, vLLM, OpenRouter and many more.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracebank.llm.base import Answer, Request
from tracebank.llm.dialects.usage import tokens
from tracebank.llm.structured import SCHEMA_NAME, is_strict


class Chat:
    """POST /chat/completions."""

    base_url = "https://api.openai.com/v1"
    path = "/chat/completions"

    def headers(self, key: str) -> dict[str, str]:
        """Return the headers; `key` is empty where none is needed."""
        return {"authorization": f"Bearer {key}"} if key else {}

    def body(self, request: Request, *, model: str, max_output_tokens: int, base_url: str) -> dict[str, Any]:
        """Return the request's JSON."""
        # OpenAI's newer models refuse the old name, and most of those who are compatible do not know the new one.
        limit = "max_completion_tokens" if base_url == self.base_url else "max_tokens"
        system = [{"role": "system", "content": request.system}] if request.system else []
        body: dict[str, Any] = {
            "model": model,
            "messages": [*system, {"role": "user", "content": request.prompt}],
            limit: max_output_tokens,
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.schema is not None:
            form = {"name": SCHEMA_NAME, "schema": request.schema, "strict": is_strict(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body

    def answer(self, payload: Mapping[str, Any]) -> Answer:
        """Read an answer's JSON. Raises: KeyError, TypeError, IndexError where it is none."""
        choice = payload["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        usage = payload.get("usage") or {}
        filtered = "the provider's content filter held it back" if finish == "content_filter" else ""
        return Answer(
            text=_text(message.get("content")),
            model=payload.get("model") or "",
            tokens_in=tokens(usage, "prompt_tokens"),
            tokens_out=tokens(usage, "completion_tokens"),
            truncated=finish == "length",
            refusal=message.get("refusal") or filtered,
        )


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    return content or ""
