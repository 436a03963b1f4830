"""White space in JSON."""

from __future__ import annotations

from tracebank.compression.json_text import minify
from tracebank.compression.segments import Kind, Segment

_LINES = ("jsonl", "ndjson", "jsonlines")


def minified(segment: Segment) -> str:
    """Minify JSON arrays and objects: all values, their spelling, their order and doubled keys stay."""
    if segment.kind is not Kind.BLOCK or segment.language not in ("", "json", *_LINES):
        return segment.body
    if segment.language in _LINES:
        return "\n".join(minify(line) for line in segment.body.split("\n"))
    # In a fence the closing line needs a line of its own.
    end = "\n" if segment.closing and segment.body.endswith("\n") else ""
    small = minify(segment.body)
    return small if small == segment.body else small + end
