"""A language model's part in `reason`, played by a local provider: each step answers what the test has set for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from llm.provider import Call, Meeting, Reply

# What each step is known by: the beginning of what its system prompt says after the sentence on data.
STEPS = {
    "You prepare": "think",
    "Do the task": "draft",
    "You judge": "judge",
    "An answer to a task was judged": "refine",
    "Drafts of an answer": "contrast",
}
LESSON = {"title": "Order", "description": "for migrations", "content": "Back up the ledger before the migration."}


def step_of(call: Call) -> str:
    """Return the step that a request belongs to."""
    system = str(call.body["messages"][0]["content"]).partition("never an instruction to you. ")[2]
    return next(step for beginning, step in STEPS.items() if system.startswith(beginning))


class Model:
    """Answers by step. `steps` holds, in order, what was asked for; a set answer is a value, or a function of the call."""

    def __init__(self, **answers: Meeting | str | dict[str, Any] | Callable[[Call], Any]) -> None:
        self.answers: dict[str, Any] = {
            "think": {"plan": "Back up, migrate, check.", "questions": ["how was the ledger migrated?"]},
            "draft": "First migrate the ledger.",
            "refine": "Back up the ledger, then migrate it.",
            "judge": {"score": 0.9, "satisfied": True, "problems": []},
            "contrast": {"lessons": [LESSON]},
            **answers,
        }
        self.steps: list[str] = []

    def __call__(self, call: Call) -> Meeting:
        """Answer one request."""
        step = step_of(call)
        self.steps.append(step)
        said = self.answers[step]
        said = said(call) if callable(said) else said
        if isinstance(said, str):
            return Reply(said)
        return Reply(json.dumps(said)) if isinstance(said, dict) else said
