"""Forgetting over MCP: shown first, done when it is said, and then found nowhere."""

from __future__ import annotations

import pytest
from talk import Talk, text_of


def test_what_matches_is_shown_and_only_then_deleted(either: Talk, namespace: str) -> None:
    """By ids or by a filter, in the namespace that is named."""
    for i in range(3):
        either.call(
            "add_trace", task=f"forgettable {i}", trace_id=f"{namespace}-{i}", namespace=namespace, tags=["odd" if i % 2 else "even"]
        )
    shown = either.call("forget", namespace=namespace, tags=["even"])
    assert (shown["matched"], shown["deleted"]) == (2, 0)
    assert sorted(found["trace_id"] for found in shown["sample"]) == [f"{namespace}-0", f"{namespace}-2"]
    assert len(either.found(query="forgettable", namespace=namespace)) == 3
    assert either.call("forget", namespace=namespace, tags=["even"], dry_run=False)["deleted"] == 2
    assert either.found(query="forgettable", namespace=namespace) == [f"{namespace}-1"]
    assert either.call("forget", trace_ids=[f"{namespace}-1"], namespace=namespace, dry_run=False)["deleted"] == 1
    assert either.found(query="forgettable", namespace=namespace) == []


def test_without_a_namespace_only_the_clients_own_is_touched(talk: Talk, namespace: str) -> None:
    """An id of another project is not known here."""
    talk.call("add_trace", task="somebody else's", trace_id=namespace, namespace=namespace)
    assert talk.call("forget", trace_ids=[namespace], dry_run=False) == {"matched": 0, "deleted": 0, "sample": []}
    told = text_of(talk.result("forget", trace_ids=[namespace, "nowhere"]))
    assert told == f"0 match; not in namespace default: {namespace}, nowhere; in namespace {namespace}, which you may give: {namespace}"
    assert talk.found(query="somebody", namespace=namespace) == [namespace]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "trace_ids: say what to forget: ids, or a namespace, tags, an outcome, a time or metadata"),
        ({"trace_ids": ["a"], "tags": ["b"]}, "trace_ids: give ids or a filter, not both"),
        ({"outcome": "won", "dry_run": False}, "outcome: must be one of success, failure, partial, unknown"),
        ({"before": "soon", "dry_run": False}, "before: must be an RFC 3339 time"),
        ({"trace_ids": [], "namespace": "x", "dry_run": False}, "trace_ids: is empty, which would mean everything else that is asked for"),
        ({"tags": [], "outcome": "failure", "dry_run": False}, "tags: is empty"),
        ({"outcome": [], "namespace": "x", "dry_run": False}, "outcome: is empty"),
        ({"metadata": {}, "namespace": "x", "dry_run": False}, "metadata: is empty"),
        ({"namespace": "x", "dry_run": "perhaps"}, "dry_run: must be true or false, not 'perhaps'"),
    ],
)
def test_what_is_not_said_clearly_forgets_nothing(talk: Talk, arguments: dict[str, object], error: str) -> None:
    """The message says what to do."""
    assert talk.refusal("forget", **arguments).startswith(error)
