"""Checking a request to `reason`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracebank.errors import InputError
from tracebank.records import Limits, check_id, check_int, check_text, given, shown
from tracebank.settings import ReasoningSettings

FIELDS = ("task", "iterations", "candidates", "namespace")
MAX_ITERATIONS, MAX_CANDIDATES = 10, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A task, the attempts at it side by side, and the drafts that each of them may take."""

    task: str
    iterations: int
    candidates: int
    namespace: str


def parse_assignment(raw: Mapping[str, Any], *, limits: Limits, defaults: ReasoningSettings, namespace: str) -> Assignment:
    """Return the checked request; `namespace` serves where it has none. Raises: InputError."""
    if unknown := sorted(set(raw) - set(FIELDS)):
        raise InputError(shown(unknown[0]), f"is not an argument; the arguments are {', '.join(FIELDS)}")
    if raw.get("task") is None:
        raise InputError("task", "is required: say what is to be worked out")
    return Assignment(
        task=check_text("task", raw["task"], min_chars=1, max_chars=limits.task_chars),
        iterations=check_int("iterations", given(raw, "iterations", defaults.iterations), 1, MAX_ITERATIONS),
        candidates=check_int("candidates", given(raw, "candidates", defaults.candidates), 1, MAX_CANDIDATES),
        namespace=check_id("namespace", given(raw, "namespace", namespace), limits),
    )
