"""Texts that nobody would write down take as long as they are, and hold up nobody: a pattern keeps the interpreter to itself."""

from __future__ import annotations

import subprocess
import sys

from samples import WAIT_S

# Each of these took the square of its length: hours.
CASES = {
    "a heading that never ends": 'heading_level("== a" + "=" * N + "x")',
    "a file of Go without a function": 'guess("/**/ " * N + "package a\\n" + "/*\\n" * N)',
    "a row of a table with much room": 'compact(Segment(kind=Kind.PROSE, body="| a" + " " * N + "b |"))',
    "a shell's defaults within defaults": 'find("bash").doubtful.search("${" * N)',
    "a template within templates of Kotlin": 'find("kotlin").doubtful.search("${" + "{}" * N)',
    "braces in a string of C#": """find("csharp").doubtful.search('$"' + "{{" * N)""",
    "blank lines in code that are none": '_EMPTY_LINES.sub("", " " * N)',
    "what must survive, in every unit": "carved(UNITS, SPANS)",
    "units that must survive": '_protected(SimpleNamespace(text=KEPT, units=UNITS), SimpleNamespace(protected=["kept"] * len(SPANS)))',
    "a log of empty lines": 'list(_Memory().runs([""] * N))',
    "quotes that are never closed": 'consolidate([lesson(1, "“" * N), lesson(2, "“" * N)])',
    "a name of one long word": 'made_up("a" * N + " A" + "a" * N, "source")',
}
CODE = f"""
from types import SimpleNamespace
from tracebank.compression.extract.lines import heading_level
from tracebank.compression.extract.outline import carved
from tracebank.compression.extract.units import Sort, Unit
from tracebank.compression.languages import find, guess
from tracebank.compression.segments import Kind, Segment
from tracebank.compression.steps.code import _EMPTY_LINES
from tracebank.compression.steps.duplicates import _Memory
from tracebank.compression.steps.extract import _protected
from tracebank.compression.steps.layout import compact
from tracebank.learning.consolidation import consolidate
from tracebank.learning.model_lessons import made_up
from tracebank.records import Lesson, Outcome
from tracebank.store.lesson_groups import KnownLesson

N = 1_000_000
SPANS = [(at, at + 4) for at in range(0, N // 2, 4)]
KEPT = "kept" * len(SPANS)
UNITS = [Unit(start=start, end=end, sort=Sort.FRAME) for start, end in SPANS]

def lesson(row, text):
    return KnownLesson(key=(row, 0), trace_id=str(row), outcome=Outcome.SUCCESS, lesson=Lesson(content=text))

for name, case in {CASES!r}.items():
    eval(case)
    print(name, flush=True)
"""


def test_patterns_take_time_linear_in_what_they_read() -> None:
    """In a process of its own, for no other thread could tell the time."""
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True) as process:
        try:
            told, _ = process.communicate(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            told, _ = process.communicate()
    assert told.splitlines() == list(CASES)
