"""The languages whose comments can be told with certainty, and how to recognise one. Any other is left as it is."""

from __future__ import annotations

import ast
import re
import threading
import warnings
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pygments.lexer import RegexLexer


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language, and the pattern of what its lexer may read wrongly: code that matches `doubtful` is left alone."""

    name: str
    lexer_name: str
    doubtful: re.Pattern[str] | None = None
    one_line_strings: bool = False

    def lexer(self) -> RegexLexer:
        """Return a lexer. Its module is imported now: together they take 0.1 s, of which an engine that is coming up has better use."""
        found: RegexLexer = resolve_name(self.lexer_name)()
        return found


def _language(name: str, lexer_name: str, doubtful: str = "", one_line_strings: bool = False) -> Language:
    pattern = re.compile(doubtful, re.MULTILINE) if doubtful else None
    return Language(name=name, lexer_name=lexer_name, doubtful=pattern, one_line_strings=one_line_strings)


_OURS, _PYGMENTS = "tracebank.compression.lexers", "pygments.lexers"
# A tag may hold text such as `see // this`; the lexer is quadratic in the length of a chain such as a.b.c, and behind what may end a
# value or come before one, and at the margin, it may take a regular expression for a division or the contrary, though a quote or a class of
# characters in it may hide what looks like a comment.
_DOUBTFUL_SCRIPT = (
    r"</|/>|[\w?.$]{200}"
    r"|(?:(?:[)}]|=>|\.\.\.|\+\+|--|[\w$)\]]!|\b(?:this|super|of|async|await|yield|static))\s*|^)"
    r"""/(?![/*])(?:\\.|[^/\\\n"'`\[])*+["'`\[][^\n]*/"""
)
_LANGUAGES = {
    "python py python3 py3": _language("python", f"{_PYGMENTS}.python:PythonLexer"),
    "c h": _language("c", f"{_OURS}:CLikeLexer"),
    "cpp c++ cc cxx hpp": _language("cpp", f"{_OURS}:CLikeLexer"),
    "java": _language("java", f"{_OURS}:JavaLexer"),
    # A template may hold a string that holds anything. One pair of braces within it is looked through.
    "kotlin kt": _language("kotlin", f"{_OURS}:KotlinLexer", r'\$\{(?:[^{}"]|\{[^{}"]*\})*+["{]'),
    "csharp c# cs": _language("csharp", f"{_OURS}:CSharpLexer", r'\$@?"(?:\\"|""|[^"{]|\{\{|\{[^{}"]*\})*+\{[^}"]*["{]'),
    # The comment above `import "C"` is C code.
    "go golang": _language("go", f"{_OURS}:GoLexer", r'import "C"'),
    "rust rs": _language("rust", f"{_OURS}:RustLexer"),
    "javascript js mjs cjs jsx": _language("javascript", f"{_OURS}:ScriptLexer", _DOUBTFUL_SCRIPT, one_line_strings=True),
    "typescript ts mts tsx": _language("typescript", f"{_OURS}:ScriptLexer", _DOUBTFUL_SCRIPT, one_line_strings=True),
    # MySQL escapes a quote by a backslash, the standard does not; PostgreSQL quotes by $tag$.
    "sql postgresql postgres pgsql mysql sqlite sqlite3 tsql": _language("sql", f"{_OURS}:SqlLexer", r"\\'|\$\w*\$"),
    # Here-documents, and defaults such as ${a:- # b}.
    "bash sh shell": _language("bash", f"{_PYGMENTS}.shell:BashLexer", r"<<[-~]?\s*['\"\\]?\w|\$\{(?:[^}\n$]|\$(?!\{))*\s#"),
    "toml": _language("toml", f"{_PYGMENTS}.configs:TOMLLexer", r'"""' + r"|'''"),
}
_BY_ALIAS = {alias: language for aliases, language in _LANGUAGES.items() for alias in aliases.split()}
# The syntax trees before and after take 200 times the memory of their code, the tokens of any other language 70 times: 4 MB took 800 MB
# and half a minute.
LONGEST_CODE_CHARS = 500_000
_BEGINNING_CHARS = 50_000

_SHEBANG = re.compile(r"\A#![^\n]*\b(?P<name>python|bash|sh)[\d.]*\s*$", re.MULTILINE)
_BEGINS = r"(?:def |class |import |from \w|async def |@\w|if __name__)"
_PYTHON = re.compile("^" + _BEGINS, re.MULTILINE)
_AFTER_BLANK_LINE = re.compile("(?<=\n\n)" + _BEGINS)
# The clause that begins every file of Go, and a function as only Go writes it: Kotlin, Scala and CUE have such a clause, too.
_GO = re.compile(r"\A(?:\s|//[^\n]*+|/\*(?s:.*?)\*/)*+package \w+[ \t\r]*\n(?s:.*?)^func ", re.MULTILINE)

# warnings.catch_warnings changes the whole process, so our threads take turns.
_ONE_AT_A_TIME = threading.Lock()


def find(alias: str) -> Language | None:
    """Return the language that is called `alias` after a fence, or None if its comments are not known."""
    return _BY_ALIAS.get(alias)


def guess(code: str) -> str:
    """Return the name of the language of `code` where it can be no other, for comments go by it; "" if in doubt."""
    if shebang := _SHEBANG.match(code):
        return shebang["name"]
    if certainly_python(code):
        return "python"
    return "go" if _GO.match(code) else ""


def certainly_python(text: str) -> bool:
    """Tell whether `text` is a Python module: it defines or imports something, and it parses; a very long one by its beginning."""
    if len(text) > LONGEST_CODE_CHARS:
        beginning = text[:_BEGINNING_CHARS].replace("\r\n", "\n")
        # What begins at the margin ends what was before it.
        text = beginning[: max((match.start() for match in _AFTER_BLANK_LINE.finditer(beginning)), default=0)]
    return _PYTHON.search(text) is not None and parsed(text) is not None


def parsed(code: str) -> ast.Module | None:
    """Return the syntax tree of Python `code`, None if there is none, or would be too large a one."""
    if len(code) > LONGEST_CODE_CHARS:
        return None
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def same_tree(one: ast.AST, other: ast.AST) -> bool:
    """Compare two syntax trees, without positions, as ast.dump would; depth is no limit."""
    pairs: list[tuple[object, object]] = [(one, other)]
    while pairs:
        left, right = pairs.pop()
        if type(left) is not type(right):
            return False
        if isinstance(left, ast.AST):
            pairs.extend((getattr(left, field, None), getattr(right, field, None)) for field in left._fields)
        elif isinstance(left, list) and isinstance(right, list):
            if len(left) != len(right):
                return False
            pairs.extend(zip(left, right, strict=True))
        elif left != right:
            return False
    return True
