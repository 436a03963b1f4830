"""What a line is by its looks: a heading, a tag, an item, a row of a table, a line of a log, or the words of somebody."""

from __future__ import annotations

import re

BLANK = re.compile(r"[ \t\r]*\Z")
MARKDOWN_HEADING = re.compile(r"(#{1,6})[ \t]+\S|(={2,5})[ \t]*\S.*=\s*\Z")
OPENING_TAG = re.compile(r"[ \t]*<([A-Za-z][\w.:-]*)(?:\s[^<>]*)?(?<!/)>[ \t\r]*\Z")
CLOSING_TAG = re.compile(r"[ \t]*</([A-Za-z][\w.:-]*)>[ \t\r]*\Z")
BOLD_LINE = re.compile(r"[ \t]*(?:\*\*[^*\n]{1,100}\*\*|__[^_\n]{1,100}__):?[ \t\r]*\Z")
_CAPITALS = re.compile(r"[^a-z]*[A-Z]{2}[^a-z.]{0,70}\Z")
ITEM = re.compile(r"[ \t]*(?:[-*+•‣◦–]|\d{1,3}[.)]|[A-Za-z][.)])[ \t]+\S")
ROW = re.compile(r"[ \t]*\|.*\|[ \t\r]*\Z")
RULE_ROW = re.compile(r"[ \t]*\|[-:| \t]+\|[ \t\r]*\Z")
LOG = re.compile(
    r"[ \t]*[\[(<]?(?:\d{4}[-/]\d\d[-/]\d\d[T ,]|\d\d:\d\d:\d\d|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d"
    r"|(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL|CRITICAL)\b)"
)
# What names the source or the speaker at the beginning of a line: "Document [3](Title: …)", "[3]", "Passage 2:",
# "User:", "Ann (09:31):", "[2026-03-01] Ann:".
SOURCE = re.compile(
    r"[ \t]*(?:[A-Z][\w-]{0,20} ?)?\[[\w.-]{1,12}\](?:[ \t]?\((?:[^()\n]|\([^()\n]*\)){1,300}\))?[:.]?[ \t]+(?=\S)"
    r"|[ \t]*(?:Document|Doc|Passage|Source|Result|Excerpt|Context|Article|Chunk|Page|File|Memory|Example)"
    r"[ \t]+#?\w{1,8}[ \t]*[:.)–-][ \t]+(?=\S)"
)
_SPEAKER = re.compile(
    r"[ \t]*(?:\[[^\]\n]{1,40}\][ \t]+)?(?:\*\*)?[^\W\d_][\w.'’ -]{0,30}?(?:[ \t]?\([^()\n]{1,40}\))?(?:\*\*)?:(?:\*\*)?[ \t]+(?=\S)"
)
_MOST_SPEAKER_WORDS = 4
_LONGEST_HEADING_CHARS = 100
INTRODUCTION_LEVEL = 7


def heading_level(line: str) -> int:
    """Return 1 for the highest heading, 7 for a line that introduces what follows, 0 for none."""
    if match := MARKDOWN_HEADING.match(line):
        return len(match[1] or match[2])
    if len(line) > _LONGEST_HEADING_CHARS:
        return 0
    if BOLD_LINE.match(line) or (_CAPITALS.match(line) and not LOG.match(line) and not ROW.match(line)):
        return 6
    return INTRODUCTION_LEVEL if line.rstrip().endswith(":") else 0


def is_source(label: str) -> bool:
    """Tell whether a label names a document, rather than who speaks."""
    return SOURCE.match(label + "…") is not None


def speaker_end(line: str) -> int | None:
    """Return where the words of a line begin that names who says them; None where it names nobody."""
    match = _SPEAKER.match(line)
    if match is None or len(match[0].split()) > _MOST_SPEAKER_WORDS + (line.lstrip()[:1] == "["):
        return None
    return match.end()
