"""Bringing lessons together: equal ones with their evidence counted, contrary ones side by side.

Pure functions. Nothing is merged away: a group only says which lessons belong together, so it can be undone, and
what is shown of it is told where one of its lessons is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from tracebank.learning.analysis import one_line
from tracebank.records import Outcome
from tracebank.store.lesson_groups import Group, GroupKind, KnownLesson, LessonKey

# Cosines of all-MiniLM-L6-v2: above the first two lessons are worded alike, above the second two tasks are the same kind
# of task, above the third two lessons are about the same thing.
EQUAL_COSINE, LIKE_TASK_COSINE, SAME_SUBJECT_COSINE = 0.95, 0.85, 0.6
MAX_LESSONS = 1_000
CONTRARY_CHARS = 160
_NAMED = re.compile(r"`[^`]+`|“[^“”]+”|\"[^\"]+\"|\d+")
_NEGATED = re.compile(r"\b(?:not|never|no|nothing|avoid|without|instead|cannot|fails?|failed|\w+n't)\b", re.IGNORECASE)

Found = tuple[GroupKind, tuple[LessonKey, ...]]
Vectors = NDArray[np.float32]


def consolidate(lessons: Sequence[KnownLesson]) -> list[Found]:
    """Return the groups among these lessons: of each its kind and its members, at least two, of different traces."""
    equal = _equal(lessons)
    return [*equal, *_contrary(lessons, {key: i for i, (_, members) in enumerate(equal) for key in members})]


def _equal(lessons: Sequence[KnownLesson]) -> list[Found]:
    # Two lessons that differ in a name, a number or a "not" are never equal, however near their vectors are.
    ordered = sorted(lessons, key=lambda lesson: (_essence(lesson), lesson.key))
    clusters = [cluster for _, alike in groupby(ordered, key=_essence) for cluster in _clusters_of_words(list(alike))]
    several = [cluster for cluster in clusters if len({lesson.key[0] for lesson in cluster}) > 1]
    return [("equal", tuple(sorted(lesson.key for lesson in cluster))) for cluster in several]


def _essence(lesson: KnownLesson) -> str:
    text = lesson.lesson.content
    return repr((sorted(_NAMED.findall(text)), sorted(word.casefold() for word in _NEGATED.findall(text))))


def _clusters_of_words(lessons: Sequence[KnownLesson]) -> list[list[KnownLesson]]:
    """Return lessons of the same words together, or, where there are vectors, of nearly the same."""
    same: dict[str, list[KnownLesson]] = {}
    for lesson in lessons:
        same.setdefault(" ".join(lesson.lesson.content.casefold().split()), []).append(lesson)
    with_vector = [group for group in same.values() if group[0].vector is not None]
    labels = cluster([group[0].vector for group in with_vector if group[0].vector is not None], min_cosine=EQUAL_COSINE)
    merged: dict[int, list[KnownLesson]] = {}
    for group, label in zip(with_vector, labels, strict=True):
        merged.setdefault(label, []).extend(group)
    return [*merged.values(), *(group for group in same.values() if group[0].vector is None)]


def _contrary(lessons: Sequence[KnownLesson], equal: Mapping[LessonKey, int]) -> list[Found]:
    """Return pairs of lessons from like tasks that ended in opposite ways: each failure's with the nearest success's.

    One that says the same (the number in `equal` is the same) is evidence for it, and nothing is said against it.
    """
    groups: list[Found] = []
    known = [lesson for lesson in lessons if lesson.vector is not None and lesson.task_vector is not None]
    known = [lesson for lesson in known if lesson.outcome in (Outcome.SUCCESS, Outcome.FAILURE)]
    labels = cluster([lesson.task_vector for lesson in known if lesson.task_vector is not None], min_cosine=LIKE_TASK_COSINE)
    situations: dict[int, list[KnownLesson]] = {}
    for lesson, label in zip(known, labels, strict=True):
        situations.setdefault(label, []).append(lesson)
    for situation in situations.values():
        successes = [lesson for lesson in situation if lesson.outcome == Outcome.SUCCESS]
        for failure in (lesson for lesson in situation if lesson.outcome == Outcome.FAILURE):
            nearest = max(successes, key=lambda s: (_cosine(s, failure), (-s.key[0], -s.key[1])), default=None)
            if nearest is None or _cosine(nearest, failure) < SAME_SUBJECT_COSINE:
                continue
            if failure.key not in equal or equal[failure.key] != equal.get(nearest.key):
                groups.append(("contrary", tuple(sorted((failure.key, nearest.key)))))
    return groups


def _cosine(a: KnownLesson, b: KnownLesson) -> float:
    assert a.vector is not None
    assert b.vector is not None
    return float(a.vector @ b.vector)


def cluster(vectors: Sequence[Vectors], *, min_cosine: float) -> list[int]:
    """Return a label for each unit vector [dim]; within a label any two have at least this cosine (complete linkage)."""
    if len(vectors) < 2:
        return list(range(len(vectors)))
    from sklearn.cluster import AgglomerativeClustering  # half a second and 40 MB: only where there is something to cluster

    clustering = AgglomerativeClustering(n_clusters=None, metric="cosine", linkage="complete", distance_threshold=1 - min_cosine)
    return [int(label) for label in clustering.fit_predict(np.stack(vectors))]


def told(groups: Iterable[Group], rows: Sequence[int]) -> Mapping[LessonKey, str | None]:
    """Return what is said after each lesson on a page of these traces, in this order; None: the page has said the same before."""
    place = {row: i for i, row in enumerate(rows)}
    remarks: dict[LessonKey, list[str]] = {}
    repeated: set[LessonKey] = set()
    for group in groups:
        here = sorted((m for m in group.members if m.key[0] in place), key=lambda m: (place[m.key[0]], m.key))
        if group.kind == "equal":
            repeated.update(m.key for m in here[1:])
            for member in here[:1]:
                remarks.setdefault(member.key, []).append(evidence_of(group))
        else:
            for member in here:
                remarks.setdefault(member.key, []).extend(_against(m) for m in group.members if m.key != member.key)
    return {**{key: " ".join(said) for key, said in remarks.items()}, **dict.fromkeys(repeated)}


def evidence_of(group: Group) -> str:
    """Return how often a lesson was learned, and how those traces ended."""
    outcomes = {m.key[0]: m.outcome for m in group.members}
    ended = [f"{n} {outcome}" for outcome in Outcome if (n := sum(o == outcome for o in outcomes.values()))]
    return f"(learned in {len(outcomes)} traces: {', '.join(ended)})"


def _against(other: KnownLesson) -> str:
    return f"(but in a like task that ended in {other.outcome}, trace {other.trace_id}: {one_line(other.lesson.content, CONTRARY_CHARS)})"
