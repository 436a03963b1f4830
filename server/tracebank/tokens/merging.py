"""Byte pair encoding of one piece: which bytes end up together in a token.

Sennrich, Haddow and Birch (2016), on bytes: of all neighbouring parts the two whose union has the lowest rank are joined, the
first of equals first, until no two neighbours make a token. A heap knows the lowest, so that a piece of n bytes takes n log n.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

Rank = Callable[[bytes], int | None]


def token_lengths(piece: bytes, rank: Rank) -> list[int]:
    """Return the bytes of each token of `piece`, in order. `rank` is that of a token, None where these bytes are none."""
    length = len(piece)
    # The part that begins at a byte: where it ends (0: no part begins here any more), and where the one before it begins.
    ends, befores = list(range(1, length + 1)), list(range(-1, length - 1))
    pairs = ((rank(piece[start : start + 2]), start, start + 2) for start in range(length - 1))
    heap = [(found, start, end) for found, start, end in pairs if found is not None]
    heapify(heap)
    while heap:
        _, start, end = heappop(heap)
        middle = ends[start]
        if not 0 < middle < end or ends[middle] != end:
            continue  # one of the two has been joined with another one meanwhile
        ends[start], ends[middle] = end, 0
        if end < length:
            befores[end] = start
            if (found := rank(piece[start : ends[end]])) is not None:
                heappush(heap, (found, start, ends[end]))
        if (before := befores[start]) >= 0 and (found := rank(piece[before:end])) is not None:
            heappush(heap, (found, before, end))
    return [end - start for start, end in enumerate(ends) if end]
