"""Comments and blank lines in code.

Nothing is believed: Python is parsed before and after, any other language is read anew and compared line by line, and
a block that would differ in anything but comments and blank lines stays as it was.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from pygments.token import Comment, Error, String, _TokenType, is_token_subtype

from tracebank.compression.languages import LONGEST_CODE_CHARS, Language, find, guess, parsed, same_tree
from tracebank.compression.segments import Kind, Segment

# Lexers are quadratic in the length of a line or of a blank stretch.
_UNSAFE = re.compile(r"^[^\n]{2001}|(?<!\s)\s{1000}|\r", re.MULTILINE)
# A line that goes on must not lose the line it goes on with.
_CONTINUED = re.compile(r"\\\n[ \t]*(?:#|//|/\*|--|\n|\Z)")
_EMPTY_LINES = re.compile(r"(?<![ \t])[ \t]*\n(?:[ \t]*\n)*")
_FIRST_EMPTY_LINES = re.compile(r"\A(?:[ \t]*\n)+")
# Comments that a program reads.
_READ_BY_PROGRAMS = re.compile(
    r"""\A\#!|coding[:=]
    |\A(?:\#|//|/\*+|--)\s*(?:
        type:|noqa|nosec|pylint|pyright|mypy|ruff|flake8|fmt:|yapf|isort|black:|pragma|cython:|distutils:
        |eslint|jshint|jslint|tslint|biome|prettier|istanbul|c8\s|v8\s|webpack|vite|@\w|\#__|global\s|deno-|sourceMapping
        |nolint|NOLINT|NOSONAR|noinspection|clang-format|clang-tidy|IWYU|LINT|cppcheck|lint:|fallthrough
        |go:|\+build|export\s|swiftlint|ktlint|detekt|CHECKSTYLE|shellcheck|ReSharper|language=|language:
        |vim?:|-\*-|syntax=|///|region|endregion|\#region|\#endregion)
    |\A(?:\#|//)[a-z][\w-]*:
    |\A///|\A/\*[!+]|\A--\S|@ts-|@license|@preserve|@type|@flow|@jsx
    """,
    re.VERBOSE,
)

_CODE, _GAP, _COMMENT = "code", "gap", "comment"


class _Piece(NamedTuple):
    sort: str
    text: str


def without_comments(segment: Segment) -> str:
    """Drop comments and blank lines of a code block in a known language; docstrings, directives and very long blocks stay."""
    if segment.kind is not Kind.BLOCK or len(segment.body) > LONGEST_CODE_CHARS:
        return segment.body
    language = find(segment.language or guess(segment.body))
    body = segment.body.replace("\r\n", "\n")
    if language is None or _UNSAFE.search(body) or _CONTINUED.search(body) or _is_doubtful(body, language):
        return segment.body
    pieces = _pieces(body, language)
    if pieces is None:
        return segment.body
    stripped = _stripped(pieces, final_newline=body.endswith("\n"))
    return stripped if stripped != body and _same(body, pieces, stripped, language) else segment.body


def _is_doubtful(body: str, language: Language) -> bool:
    return language.doubtful is not None and language.doubtful.search(body) is not None


def _stripped(pieces: list[_Piece], *, final_newline: bool) -> str:
    """Join the pieces without comments and blank lines."""
    out: list[str] = []
    gap = ""
    for piece in pieces:
        if piece.sort == _CODE:
            out += (_closed(gap, out, piece.text), piece.text)
            gap = ""
        elif piece.sort == _GAP:
            gap += piece.text
    out.append(_closed(gap, out, "\n"))
    text = "".join(out)
    return text if final_newline else text.removesuffix("\n")


def _closed(gap: str, before: list[str], after: str) -> str:
    """Return the white space between two pieces of code without its empty lines."""
    if not before or before[-1].endswith("\n"):
        gap = _FIRST_EMPTY_LINES.sub("", gap)
    return _EMPTY_LINES.sub("\n", gap if not after.startswith("\n") else gap.rstrip(" \t"))


def _pieces(body: str, language: Language) -> list[_Piece] | None:
    """Return code, white space and the comments that can go; None if the lexer stumbles or finds no code."""
    text = body if body.endswith("\n") else body + "\n"
    pieces: list[_Piece] = []
    for start, role, value in _joined(text, language):
        if role == "error" or (role == "line_string" and language.one_line_strings and _is_torn(value)):
            return None
        if role in ("comment", "directive"):
            bare = value.rstrip("\n")
            can_go = role == "comment" and _is_removable(text, start, bare)
            pieces.append(_Piece(_COMMENT if can_go else _CODE, bare))
            pieces.append(_Piece(_GAP, value[len(bare) :]))
        else:
            pieces.append(_Piece(_GAP if role == "other" and value.isspace() else _CODE, value))
    return pieces if any(piece.sort == _CODE for piece in pieces) else None


def _joined(text: str, language: Language) -> Iterator[tuple[int, str, str]]:
    """Yield start, role and text of the tokens, a comment that comes in parts as one."""
    first, kind, parts = 0, "other", [""]
    for start, token_type, value in language.lexer().get_tokens_unprocessed(text):
        role = _role(token_type)
        if role == kind == "comment" and _goes_on(parts):
            parts.append(value)
            continue
        if parts[0]:
            yield first, kind, "".join(parts)
        first, kind, parts = start, role, [value]
    if parts[0]:
        yield first, kind, "".join(parts)


def _goes_on(parts: list[str]) -> bool:
    return not parts[-1].endswith("*/" if parts[0].startswith("/*") else "\n")


@cache
def _role(token_type: _TokenType) -> str:
    if is_token_subtype(token_type, Error):
        return "error"
    if is_token_subtype(token_type, Comment):
        return "comment" if token_type is Comment.Single or token_type is Comment.Multiline else "directive"
    if is_token_subtype(token_type, String):
        lines = is_token_subtype(token_type, String.Single) or is_token_subtype(token_type, String.Double)
        return "line_string" if lines else "string"
    return "other"


def _is_torn(value: str) -> bool:
    return "\n" in value.replace("\\\n", "")


def _is_removable(text: str, start: int, comment: str) -> bool:
    """A comment can go if it ends its line, stands apart from code, is closed, and no program reads it."""
    end = start + len(comment)
    line_end = text.find("\n", end)
    before = text[text.rfind("\n", 0, start) + 1 : start]
    ends_line = not text[end : line_end if line_end >= 0 else len(text)].strip()
    # A blank behind a backslash is a character of a word.
    backslashes = len(before[:-1]) - len(before[:-1].rstrip("\\"))
    apart = not before or (before[-1] in " \t" and backslashes % 2 == 0)
    # The end of line inside a comment may end a statement.
    lone = "\n" not in comment or not before.strip()
    return ends_line and apart and lone and _is_whole(comment) and not _READ_BY_PROGRAMS.search(comment)


def _is_whole(comment: str) -> bool:
    if comment.startswith("/*"):
        return len(comment) >= 4 and comment.endswith("*/") and "/*" not in comment[2:]
    return comment.startswith(("//", "#", "--")) and "\n" not in comment


def _same(before: str, pieces: list[_Piece], after: str, language: Language) -> bool:
    """Tell whether `after` has the code of `before`, whose pieces these are."""
    if language.name == "python":
        one, other = parsed(textwrap.dedent(before)), parsed(textwrap.dedent(after))
        return one is not None and other is not None and same_tree(one, other)
    again = _pieces(after, language)
    return again is not None and _code_lines(pieces) == _code_lines(again)


def _code_lines(pieces: list[_Piece]) -> list[list[str]]:
    """Return the code of each line that has any, without comments and white space."""
    lines: list[list[str]] = [[]]
    for piece in pieces:
        if piece.sort == _CODE and piece.text.strip():
            lines[-1].append(piece.text.strip("\n"))
        if lines[-1] and "\n" in piece.text:
            lines.append([])
    return [line for line in lines if line]
