"""Where sentences end, the same for what is shown of a memory and for what is kept of a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Words after which a full stop does not end the sentence.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Gen|Col|Lt|Sgt|Capt|Rev|Hon|Gov|Sen|Rep|vs|etc|e\.g|i\.e|cf|al|approx|No|Nos|Fig|Figs|Eq"
    r"|Sec|Vol|pp?|Inc|Ltd|Co|Corp|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|(?:[A-Za-z]\.)+[A-Za-z])\.\Z"
)
_ABBREVIATION_CHARS = 12
_END = re.compile(r"[.!?…]{1,5}[\"'”’)\]*_]{0,3}\s++(?=[\"'“‘(\[*_]{0,3}[^\sa-z,;:)])|[。！？]+[」』”）]*")


def sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where the sentences between `start` and `end` begin and end, in order; the white space behind one belongs to it."""
    at = start
    for match in _END.finditer(text, start, end):
        # What stands before the white space decides, and no more of it than an abbreviation is long.
        before = text[max(at, match.start() - _ABBREVIATION_CHARS) : match.start() + 1]
        if match.end() < end and not (match[0][0] == "." and _ABBREVIATION.search(before)):
            yield at, match.end()
            at = match.end()
    if at < end:
        yield at, end
