"""Lexers that tell comments from strings in one pass.

Pygments' own lexers for C, C++, C#, Java, Kotlin, Go and Rust take quadratic time on blank lines, on plain words or on
comments that are never closed (16,000 characters: up to 10 s). All that is needed here is where strings and comments
are, and whatever is never closed simply ends with the text.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pygments.lexer import RegexLexer, include, inherit
from pygments.lexers.javascript import JavascriptLexer
from pygments.lexers.sql import SqlLexer as PygmentsSqlLexer
from pygments.token import Comment, Name, Number, Punctuation, String, Whitespace

_BLOCK_COMMENT = r"/\*(?s:.*?)(?:\*/|\Z)"


class CLikeLexer(RegexLexer):
    """C and C++, and the base of the languages that look like them."""

    tokens: ClassVar[dict[str, list[Any]]] = {
        "root": [
            (r"\s+", Whitespace),
            (r'(?!(?:u8?|U|L)?[Rrb]+["#])[^\W\d]\w*', Name),
            (r"[;,.(){}\[\]=<>+*&|!:?-]+", Punctuation),
            (r"//(?:\\\n|[^\n])*+", Comment.Single),
            (_BLOCK_COMMENT, Comment.Multiline),
            (r'(?:u8?|U|L)?R"([^()\\\s"]{0,16})\((?s:.*?)(?:\)\1"|\Z)', String),
            (r'"(?:\\(?s:.)|[^"\\\n])*+"?', String),
            (r"'(?:\\(?s:.)|[^'\\\n])*+'?", String.Char),
            (r"\d[\w.']*", Number),
            (r"(?s).", Punctuation),
        ]
    }


class JavaLexer(CLikeLexer):
    """Java: also strings in three quotes."""

    tokens: ClassVar[dict[str, list[Any]]] = {"root": [(r'"""(?s:\\.|.)*?(?:"""|\Z)', String), inherit]}


class KotlinLexer(CLikeLexer):
    """Kotlin: also raw strings in three quotes, which know no escapes and may end in a quote of their own, and names in back quotes."""

    tokens: ClassVar[dict[str, list[Any]]] = {"root": [(r'"""(?s:.*?)(?:"{3,}+|\Z)', String), (r"`[^`\n]*+`", Name), inherit]}


class CSharpLexer(CLikeLexer):
    """C#: also raw strings in three quotes or more, and verbatim strings."""

    tokens: ClassVar[dict[str, list[Any]]] = {
        "root": [
            (r'("{3,}+)(?s:.*?)(?:\1|\Z)', String),
            (r'(?:\$@|@\$|@)"(?:""|[^"])*+"?', String),
            inherit,
        ]
    }


class GoLexer(CLikeLexer):
    """Go: also raw strings in back quotes."""

    tokens: ClassVar[dict[str, list[Any]]] = {"root": [(r"`[^`]*+`?", String), inherit]}


class RustLexer(CLikeLexer):
    """Rust: also nested comments, documentation comments (which are attributes), raw strings and lifetimes."""

    tokens: ClassVar[dict[str, list[Any]]] = {
        "root": [
            (r"//(?:/(?!/)|!)[^\n]*+", String.Doc),
            (r"/\*(?:\*(?![*/])|!)(?s:.*?)(?:\*/|\Z)", String.Doc),
            (r"/\*(?:[^*/]|\*(?!/)|/(?!\*))*+\*/", Comment.Multiline),
            (r"/\*", Comment.Special, "nested"),
            (r'b?r(#{0,16})"(?s:.*?)(?:"\1|\Z)', String),
            (r'b?"(?s:\\.|[^"\\])*+"?', String),
            (r"b?'(?:\\[^\n][^'\n]*|[^'\\\n])'", String.Char),
            (r"'\w+", Name),
            inherit,
        ],
        "nested": [
            (r"[^*/]+", Comment.Special),
            (r"/\*", Comment.Special, "#push"),
            (r"\*/", Comment.Special, "#pop"),
            (r"[*/]", Comment.Special),
        ],
    }


class ScriptLexer(JavascriptLexer):
    """JavaScript and TypeScript: Pygments' lexer, which knows regular expressions, and decorators and templates with braces in them."""

    tokens: ClassVar[dict[str, list[Any]]] = {
        "commentsandwhitespace": [(_BLOCK_COMMENT, Comment.Multiline), inherit],
        # A property may be called like a keyword, behind which a slash begins a regular expression.
        "root": [(r"@", Punctuation), (r"(?<=\.)[^\W\d]\w*", Name), inherit],
        "interp-inside": [(r"\{", Punctuation, ("braces", "slashstartsregex")), inherit],
        "braces": [(r"\{", Punctuation, ("braces", "slashstartsregex")), (r"\}", Punctuation, "#pop"), include("root")],
    }


class SqlLexer(PygmentsSqlLexer):
    """SQL: Pygments' lexer, and names in back quotes (MySQL) or brackets (SQL Server)."""

    tokens: ClassVar[dict[str, list[Any]]] = {"root": [(r"`[^`\n]*+`|\[(?:[^\]'\"\n]|\]\])*+\]", Name), inherit]}
