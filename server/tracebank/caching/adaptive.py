"""How many bytes a cache is worth, learned from its own hits.

Keys that were let go are remembered for a while (ghosts). One that is asked for again shows that more room would have
been a hit, so the size grows by what that value took. Where a whole period passes without a ghost's hit and without a
hit in the eighth that was used longest ago, that eighth helps nobody and is given back. After the ghost lists of ARC
(Megiddo and Modha, FAST 2003), which move the border between two lists as this moves the border of one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

# Look-ups after which a size that helped nobody shrinks, and by which part.
PERIOD = 256
PART = 8


class AdaptiveSize:
    """A size in bytes between `least_bytes` and `most_bytes`; it begins at half of the most."""

    def __init__(self, *, least_bytes: float, most_bytes: float) -> None:
        self._least, self._most = min(least_bytes, most_bytes), most_bytes
        self.bytes = max(self._least, most_bytes / 2)
        # Hashes, not keys: a key may hold a long text. Two that share one make the size err, never an answer.
        self._ghosts: OrderedDict[int, int] = OrderedDict()
        self._ghost_bytes = 0
        self._asked = 0
        self._helped = False
        self.ghost_hits = 0

    def evicted(self, key: Hashable, size_bytes: int) -> None:
        """Remember a key that was let go for want of room, as long as the largest size could have kept it; the last one always."""
        self._forget(hash(key))
        self._ghosts[hash(key)] = size_bytes
        self._ghost_bytes += size_bytes
        while len(self._ghosts) > 1 and self._ghost_bytes > self._most - self.bytes:
            self._forget(next(iter(self._ghosts)))

    def missed(self, key: Hashable) -> None:
        """Grow where the key was let go lately."""
        if (size_bytes := self._forget(hash(key))) is not None:
            self.ghost_hits += 1
            self._helped = True
            self.bytes = min(self._most, self.bytes + size_bytes)
        self._count()

    def hit(self, *, in_tail: bool) -> None:
        """Note a hit; `in_tail`: a cache smaller by a part would have missed it."""
        self._helped |= in_tail
        self._count()

    def _count(self) -> None:
        self._asked += 1
        if self._asked % PERIOD == 0:
            if not self._helped:
                self.bytes = max(self._least, self.bytes * (1 - 1 / PART))
            self._helped = False

    def _forget(self, ghost: int) -> int | None:
        size_bytes = self._ghosts.pop(ghost, None)
        self._ghost_bytes -= size_bytes or 0
        return size_bytes
