"""Which collection answers for each namespace, and which one is being filled to take its place.

One small file, replaced as a whole: two generations change places in one step, and a kill leaves the one or the other.
A namespace that is not in the file has its first generation, with whole vectors.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

FILE = "generations.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One collection of a namespace: `dims` numbers a vector, None: whole. `recall` at 10 as measured, None: exact enough."""

    namespace: int
    number: int = 0
    dims: int | None = None
    recall: float | None = None

    @property
    def name(self) -> str:
        """The collection's name."""
        return f"namespace-{self.namespace}" + (f"-{self.number}" if self.number else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """`following` is filled with the traces up to row `filled_to`."""

    serving: Generation
    following: Generation | None = None
    filled_to: int = 0


class Generations:
    """The file's content. One thread changes it; any may read. Raises: ValueError where it is damaged."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE
        self._pairs: dict[int, Pair] = {}
        try:
            read = json.loads(self._file.read_text(encoding="utf-8"))
            self._pairs = {int(space): _pair(value) for space, value in read.items()}
        except FileNotFoundError:
            pass
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{self._file} is of another shape: {error}") from error

    def of(self, namespace: int) -> Pair:
        """Return the generations of a namespace."""
        return self._pairs.get(namespace) or Pair(serving=Generation(namespace=namespace))

    def names(self) -> set[str]:
        """Return the collections of all pairs that were ever changed."""
        return {g.name for pair in self._pairs.values() for g in (pair.serving, pair.following) if g is not None}

    def changed_spaces(self) -> list[int]:
        """Return the namespaces that have, or had, more than their first generation."""
        return sorted(self._pairs)

    def next(self, namespace: int, dims: int | None) -> Generation:
        """Return what the next generation will be."""
        pair = self.of(namespace)
        newest = max(g.number for g in (pair.serving, pair.following) if g is not None)
        return Generation(namespace=namespace, number=newest + 1, dims=dims)

    def begin(self, following: Generation) -> None:
        """Let another generation be filled."""
        self._put(following.namespace, replace(self.of(following.namespace), following=following, filled_to=0))

    def filled(self, namespace: int, row: int) -> None:
        """Note how far the next generation is filled."""
        self._put(namespace, replace(self.of(namespace), filled_to=row))

    def exchange(self, namespace: int, recall: float | None) -> None:
        """Let the next generation answer."""
        following = self.of(namespace).following
        assert following is not None
        self._put(namespace, Pair(serving=replace(following, recall=recall)))

    def drop(self, namespace: int) -> None:
        """Give the next generation up."""
        self._put(namespace, replace(self.of(namespace), following=None, filled_to=0))

    def _put(self, namespace: int, pair: Pair) -> None:
        pairs = self._pairs | {namespace: pair}
        written = self._file.with_suffix(".new")
        with written.open("w", encoding="utf-8") as out:
            json.dump({str(space): asdict(value) for space, value in pairs.items()}, out)
            out.flush()
            os.fsync(out.fileno())
        written.replace(self._file)
        self._pairs = pairs


def _pair(value: dict[str, Any]) -> Pair:
    serving, following = value["serving"], value["following"]
    return Pair(
        serving=Generation(**serving), following=None if following is None else Generation(**following),
        filled_to=int(value["filled_to"]),
    )  # fmt: skip
