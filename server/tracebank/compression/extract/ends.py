"""Instructions at the beginning and the request at the end: what a prompt is read by, whatever lies between."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tracebank.compression.extract.outline import Outline

_DIRECTIVE = re.compile(
    r"\?\s*\Z|\b(?:you are|your (?:task|job|goal|role|answer)|you (?:must|should|will|can|have)|must|never|always|do not|don't"
    r"|please|make sure|answer|respond|reply|return only|output|follow|instructions?|rules?|task|question|query|goal|request)\b\s*:?"
    r"|^[ \t]*(?:[-*\d.)]+\s+)?(?:Write|Fix|Explain|Find|List|Summari[sz]e|Describe|Compare|Translate|Implement|Add|Remove|Refactor|Review"
    r"|Use|Create|Generate|Analy[sz]e|Tell|Give|Show|Check|Continue|Propose|Decide|Determine|Given|Read|Based on)\b",
    re.IGNORECASE | re.MULTILINE,
)

# A unit of prose is shorter; a longer one is data.
_LOOKED_AT_CHARS = 600


def first_instructions(outline: Outline, share_tokens: int) -> list[int]:
    """Return the leaves at the beginning that tell what to do, in at most `share_tokens`."""
    return list(_run(outline, outline.leaves, share_tokens))


def last_request(outline: Outline, share_tokens: int) -> list[int]:
    """Return the leaves at the end that ask for something, in at most `share_tokens`."""
    return list(_run(outline, outline.leaves[::-1], share_tokens))


def _run(outline: Outline, leaves: Sequence[int], share_tokens: int) -> Iterable[int]:
    """Yield leaves from one end on as long as they direct, or stand in one paragraph with one that does."""
    left = share_tokens
    directed: set[tuple[int, ...]] = set()
    for leaf in leaves:
        unit = outline.units[leaf]
        around = [outline.piece(frame) for frame in unit.frames if frame < leaf][-1:]
        if any(_DIRECTIVE.search(piece.strip()[-_LOOKED_AT_CHARS:]) for piece in (outline.piece(leaf), *around)):
            directed.add((*unit.frames, unit.section))
        elif (*unit.frames, unit.section) not in directed:
            return
        left -= outline.tokens[leaf]
        if left < 0:
            return
        yield leaf
