"""Kinds of episodes: nearly the same task done again and again, with how often it went well. Pure functions.

A new episode joins the kind whose example it is most like; only those that are like none are clustered. So the work in idle time
grows with what is new and not with what is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from tracebank.learning.analysis import one_line
from tracebank.learning.consolidation import LIKE_TASK_COSINE, cluster
from tracebank.learning.reward import CREDIT
from tracebank.store.kinds import Example, Kind

# So many episodes that are of no kind yet are looked at: those that nothing was like for long are seldom like what comes.
MAX_UNSORTED = 1_000
# A kind is told where so many of its episodes are known to have ended one way or the other.
MIN_JUDGED = 3
TASK_CHARS = 80


def joining(episodes: Sequence[Example], kinds: Sequence[Example]) -> dict[int, int]:
    """Return, by row, the kind whose example each episode is most like, of those that are like one."""
    if not episodes or not kinds:
        return {}
    likeness = np.stack([episode.vector for episode in episodes]) @ np.stack([kind.vector for kind in kinds]).T
    nearest = likeness.argmax(axis=1)
    pairs = zip(episodes, nearest, likeness.max(axis=1), strict=True)
    return {episode.row: kinds[kind].row for episode, kind, cosine in pairs if cosine >= LIKE_TASK_COSINE}


def new_kinds(episodes: Sequence[Example]) -> list[tuple[int, list[int]]]:
    """Return the kinds among episodes that are of none, by row: the example, which is most like all others, and all members."""
    labels = cluster([episode.vector for episode in episodes], min_cosine=LIKE_TASK_COSINE)
    clusters: dict[int, list[Example]] = {}
    for episode, label in zip(episodes, labels, strict=True):
        clusters.setdefault(label, []).append(episode)
    several = [members for members in clusters.values() if len(members) > 1]
    return [(_example_of(members), [member.row for member in members]) for members in several]


def _example_of(members: Sequence[Example]) -> int:
    vectors = np.stack([member.vector for member in members])
    return members[int((vectors @ vectors.sum(axis=0)).argmax())].row


def told(kinds: Mapping[int, Kind], rows: Sequence[int]) -> list[str]:
    """Return what is worth telling on a page of these traces: of the first kind on it how often it went well, in a line."""
    kind = next((kinds[row] for row in rows if row in kinds), None)
    return [line(kind)] if kind is not None and len(_credits(kind)) >= MIN_JUDGED else []


def line(kind: Kind) -> str:
    """Return a kind in words."""
    credits = _credits(kind)
    steps = median(kind.efforts) if kind.efforts else 0
    usually = f", usually in {steps:g} step{'' if steps == 1 else 's'}" if steps else ""
    return f"tasks like “{one_line(kind.task, TASK_CHARS)}” ({sum(credits):g} of {len(credits)} episodes succeeded{usually})"


def figures(kind: Kind) -> dict[str, str | int | float | None]:
    """Return a kind for `stats`."""
    credits = _credits(kind)
    rate = round(sum(credits) / len(credits), 3) if credits else None
    return {"task": one_line(kind.task, TASK_CHARS), "episodes": len(kind.outcomes), "success_rate": rate}


def _credits(kind: Kind) -> list[float]:
    found = (CREDIT[outcome] for outcome in kind.outcomes)
    return [credit for credit in found if credit is not None]
