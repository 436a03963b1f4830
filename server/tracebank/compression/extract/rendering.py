"""Write down what was chosen, in its order, with a brief mark for each gap."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from itertools import groupby

from tracebank.compression.extract.outline import Outline
from tracebank.compression.segments import Span

# The mark of the nth gap, from 1.
Mark = Callable[[int], str]


def bare_mark(number: int) -> str:
    """Return the shortest mark."""
    return "…"


def numbered_mark(number: int) -> str:
    """Return a mark that can be asked for: the part that it stands for is kept."""
    return f"[…{number}]"


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text, and where in the outline's text each gap lies, in the order of their marks."""

    text: str
    gaps: tuple[Span, ...]


def rendered(outline: Outline, chosen: Container[int], mark: Mark = bare_mark) -> Rendered:
    """Join the chosen units; a gap that holds nothing but white space has no mark."""
    out: list[str] = []
    gaps: list[Span] = []
    for kept, run in groupby(range(len(outline.units)), key=lambda position: position in chosen):
        positions = list(run)
        start, end = outline.units[positions[0]].start, outline.units[positions[-1]].end
        if kept:
            out.append(outline.text[start:end])
        elif outline.text[start:end].strip():
            gaps.append((start, end))
            out.append(_placed(mark(len(gaps)), "".join(out[-1:]), outline.text[start:end]))
        else:
            out.append(outline.text[start:end])
    return Rendered("".join(out), tuple(gaps))


def _placed(mark: str, before: str, gap: str) -> str:
    """Return the mark on a line of its own where the gap begins one, else within the line."""
    if not mark:
        return "\n" if before and not before[-1:].isspace() and "\n" in gap else ""
    begins_line = not before or before.endswith("\n")
    blank = "" if begins_line or before[-1:].isspace() else " "
    return f"{blank}{mark}" + ("\n" if gap.endswith("\n") else " ")
