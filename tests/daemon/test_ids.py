"""Whose answer a line of the engine is, found without reading all of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tracebank.front import _answered_id

IDS: list[Any] = [0, 17, -3, "a", "", 'x,"result":{', "\\", '"', "ü\u2028\n", "x" * 500, None]


@pytest.mark.parametrize("call_id", IDS)
@pytest.mark.parametrize("body", [{"result": {"text": "y" * 999}}, {"error": {"code": 1, "data": [1, {"a": 1, "result": 2}]}}])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_an_answer_is_known_by_its_id(call_id: Any, body: dict[str, Any], separators: tuple[str, str]) -> None:
    """Whatever the id, and however the line is written."""
    message = {"jsonrpc": "2.0", "id": call_id, **body}
    for ascii_only in (True, False):
        line = json.dumps(message, separators=separators, ensure_ascii=ascii_only).encode() + b"\n"
        assert _answered_id(line) == json.dumps(call_id)


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "id": 5, "method": "sampling", "params": {"a": 1, "result": 2}},
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"id": 5, "a": 1, "result": 2}},
    ],
)
def test_requests_and_notifications_answer_nothing(message: dict[str, Any]) -> None:
    """Though they may have an id, and something called a result inside."""
    assert _answered_id(json.dumps(message, separators=(",", ":")).encode()) is None
