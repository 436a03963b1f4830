"""Comments and blank lines in code."""

from __future__ import annotations

import ast
import json
import sysconfig
from pathlib import Path

import pytest
from pygments.lexers.python import PythonLexer

from tracebank.compression import compress
from tracebank.compression.languages import LONGEST_CODE_CHARS, same_tree
from tracebank.compression.segments import Kind, as_code, split
from tracebank.compression.steps import code as code_step
from tracebank.compression.steps.code import without_comments
from tracebank.tokens import Tokenizer


def _stripped(code: str, language: str) -> str:
    (block,) = [segment for segment in split(f"```{language}\n{code}```\n") if segment.opening]
    return without_comments(block)


_MODULES = [path for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) if 2_000 < path.stat().st_size < 60_000][:60]


def test_real_modules_keep_their_syntax_tree_and_lose_their_comments() -> None:
    """Every module of the standard library in the sample, all of them; most of them become shorter."""
    shorter = 0
    for path in _MODULES:
        code = path.read_text(encoding="utf-8")
        stripped = _stripped(code, "python")
        assert ast.dump(ast.parse(stripped)) == ast.dump(ast.parse(code)), path.name
        shorter += len(stripped) < len(code)
    assert shorter >= 0.9 * len(_MODULES) > 30


def test_real_functions_keep_their_syntax_tree() -> None:
    """Three hundred functions, indented as they stand in their classes."""
    functions = [
        ast.get_source_segment(code, node, padded=True)
        for code in (path.read_text(encoding="utf-8") for path in (Path(ast.__file__), Path(json.__file__), *_MODULES[:25]))
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.FunctionDef)
    ][:300]
    assert len(functions) == 300
    for function in functions:
        assert function is not None
        wrapped = "if 1:\n" + function + "\n" if function[:1] == " " else function + "\n"
        assert ast.dump(ast.parse(_stripped(wrapped, "py"))) == ast.dump(ast.parse(wrapped))


_SAMPLES = [
    ("python", 'a = "#1"  # one\n\nb = 7 // 2\n# two\n', 'a = "#1"\nb = 7 // 2\n'),
    ("python", 'x = """\n\n# text\n"""\n\n\ny = 1\n', 'x = """\n\n# text\n"""\ny = 1\n'),
    (
        "c",
        ('#include <a.h>  // why\n/* note\n   on */\nchar *s = "http://x"; // end\n\nint b = 4 / 2;\n'),
        ('#include <a.h>\nchar *s = "http://x";\nint b = 4 / 2;\n'),
    ),
    ("cpp", 'auto s = R"(\n// text\n\n)"; // end\n', 'auto s = R"(\n// text\n\n)";\n'),
    ("java", 'String s = """\n  // text\n\n  """; // end\n', 'String s = """\n  // text\n\n  """;\n'),
    (
        "kotlin",
        'val a = """C:\\""" // end\nval b = """say "it // no""""\nval c = """\n  // text\n\n"""\nval d = "$a ${b.c} // no" // end\n',
        'val a = """C:\\"""\nval b = """say "it // no""""\nval c = """\n  // text\n\n"""\nval d = "$a ${b.c} // no"\n',
    ),
    (
        "csharp",
        'var a = """C:\\"""; // end\nvar b = """"\n  """ // text\n\n  """";\nvar c = $"{a} // no"; // end\nvar d = @"\\"; // end\n',
        'var a = """C:\\""";\nvar b = """"\n  """ // text\n\n  """";\nvar c = $"{a} // no";\nvar d = @"\\";\n',
    ),
    ("java", 'String s = """\n  \\""" // text\n  """; // end\n', 'String s = """\n  \\""" // text\n  """;\n'),
    ("js", "a = (b + c) / 2; // half\nd = (e) // end\n", "a = (b + c) / 2;\nd = (e)\n"),
    ("go", "s := `// raw\n\n`\n// note\nreturn s // end\n", "s := `// raw\n\n`\nreturn s\n"),
    (
        "rust",
        ("#[derive(Debug)]\n/// doc\n// note\nfn f<'a>(c: char) { c == '\"' } // end\n/* a /* b */ c */\n"),
        ("#[derive(Debug)]\n/// doc\nfn f<'a>(c: char) { c == '\"' }\n/* a /* b */ c */\n"),
    ),
    ("rust", 'let s = r#"\n// "text"\n\n"#; // end\n', 'let s = r#"\n// "text"\n\n"#;\n'),
    (
        "js",
        ('const u = "https://a/b"; // end\n\nconst t = `// ${a} no\n\n`;\nconst r = /[/]\\/\\/x/; /* note */\n'),
        ('const u = "https://a/b";\nconst t = `// ${a} no\n\n`;\nconst r = /[/]\\/\\/x/;\n'),
    ),
    ("ts", "@Injectable()\nclass A<T> {\n  // note\n  a?: T;\n}\n", "@Injectable()\nclass A<T> {\n  a?: T;\n}\n"),
    (
        "sql",
        ("SELECT '-- no' AS a -- end\n-- note\nFROM t;\n\nSELECT /*+ HINT */ 1;\n"),
        ("SELECT '-- no' AS a\nFROM t;\nSELECT /*+ HINT */ 1;\n"),
    ),
    ("mysql", "SELECT `a -- b`, [c -- d] -- end\nFROM t\n", "SELECT `a -- b`, [c -- d]\nFROM t\n"),
    (
        "bash",
        ('#!/bin/bash\n# note\necho "# no" ${a#b} $# a#b # end\n\nls\n'),
        ('#!/bin/bash\necho "# no" ${a#b} $# a#b\nls\n'),
    ),
    ("toml", 'a = "#"  # end\n\n# note\nb = 1\n', 'a = "#"\nb = 1\n'),
]


@pytest.mark.parametrize(("language", "code", "expected"), _SAMPLES, ids=[sample[0] for sample in _SAMPLES])
def test_comments_go_and_what_looks_like_one_stays(language: str, code: str, expected: str) -> None:
    """Strings, URLs, divisions, directives, lifetimes, regular expressions and templates are no comments."""
    assert _stripped(code, language) == expected


@pytest.mark.parametrize(
    ("language", "line"),
    [
        ("python", "#!/usr/bin/env python"),
        ("python", "# -*- coding: latin-1 -*-"),
        ("python", "x = f()  # type: ignore[misc]"),
        ("python", "import a  # noqa: F401"),
        ("ts", "// @ts-expect-error"),
        ("js", "/* eslint-disable no-console */"),
        ("go", "//go:build linux"),
        ("go", "//nolint:errcheck"),
        ("c", "int a; // NOLINT"),
        ("sql", "/*!40101 SET NAMES utf8 */;"),
        ("bash", "# shellcheck disable=SC2086"),
        ("js", "/*! @license MIT */"),
    ],
)
def test_comments_that_a_program_reads_stay(language: str, line: str) -> None:
    """And the ordinary comment beside them goes."""
    mark = {"python": "#", "bash": "#", "sql": "--"}.get(language, "//")
    assert _stripped(f"{line}\n{mark} ordinary\nx = 1\n", language) == f"{line}\nx = 1\n"


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "# note\nprint 'two'\n"),
        ("python", "# only a note\n"),
        ("", "# note\nkey: value\n"),
        ("yaml", "# note\na: |\n  # text\n\n"),
        ("makefile", "# note\nall:\n\n"),
        ("diff", "# note\n\n-a\n"),
        ("jsx", "// note\nreturn <p>see // this</p>;\n"),
        ("bash", "cat <<END\n# text\n\nEND\n"),
        ("bash", "ls \\\n# note\n-l\n"),
        ("sql", "SELECT 'it\\'s -- no' -- note\n"),
        ("sql", "SELECT [a]]b -- c] FROM t\n"),
        ("go", '/*\n#include <a.h>\n*/\nimport "C"\n'),
        ("c", "int a = 1; /* never closed\nint b;\n"),
        ("go", "see(https://a/b)\nint a;//b\n"),
        ("js", "if (a) /it's/.test(b)\nf('x // y')\n"),
        ("c", "int/* no */a; /* two\nlines */\n"),
        ("", "use List::Util qw(max);\nmy $port = $opt{port} // 8080;\n"),
        ("", "UPDATE users: 120 rows changed -- 3 failed with E1042, see error.log\n"),
        ("", 'package foo\n\nval s = """\n  keep // this\n"""\n'),
        ("", 'package foo\n\nimport "strings"\n\nhelp: """\n\tsee // this\n\t"""\n'),
        ("", '#include "HsVersions.h"\nb = a // [(1, 2)]\n'),
        ("", "function joined() {\n  sed s/ //\n}\n"),
        ("bash", "sed s/\\ #.*//\n"),
        ("kotlin", 'val s = "x ${f("a // b")} y"\n'),
        ("kotlin", 'val s = "x ${a.map { it }.to("a // b")} y"\n'),
        ("kotlin", "val `a // b` = 3\n"),
        ("csharp", 'var s = $"{{x}} {f("a // b")} y";\n'),
        ("csharp", 'var s = $@"a ""{f("x // y")}"" c";\n'),
        ("csharp", 'var s = $"a \\"{f("x // y")}\\" c";\n'),
        ("csharp", 'var s = $"""a {f("""x // y""")} c""";\n'),
        ("csharp", 'var s = $"{a.Select(x => { return x; }).To(" // b")} y";\n'),
        ("js", "if (x) /[ //]+/.test(y)\n"),
        ("js", 'if (x) /"/.test(y) && f(" // b")\n'),
        ("js", "if (x)\n  /`/.test(y)\n// `\n"),
        ("js", 'const quoted = s => /"/.test(s) ? s : "see // " + s\n'),
        ("js", "f(.../'/.exec(s), ' // ')\n"),
        ("js", "const a = b++ / 2; const s = ' / x // '\n"),
        ("ts", "const a = b! / 2 + ' / x // '\n"),
        ("js", "const a = this / 2 + ' / x // '\n"),
        ("js", "const a = b.in / 2 + ' / x // '\n"),
        ("js", "const a = b\n/ 2 + ' / x // '\n"),
        ("js", "f(`${a.map(b => { if (b) { c() } return `see // `; })}`)\n"),
    ],
)
def test_code_that_may_be_read_wrongly_stays(language: str, code: str) -> None:
    """What does not parse, what has another meaning by its white space, what is doubtful, and unknown languages."""
    assert _stripped(code, language) == code


def test_a_fence_without_a_language_is_python_only_if_it_parses() -> None:
    """Guessing is careful, for what is taken for a comment is gone."""
    assert _stripped("import a\n# note\na.b()\n", "") == "import a\na.b()\n"
    assert _stripped("import a\n# note\na.b(\n", "") == "import a\n# note\na.b(\n"


def test_the_code_strategy_guesses_the_language_of_the_whole_text(tokenizer: Tokenizer) -> None:
    """Without a fence the text is one block."""
    code = "package main\n\n// note\nfunc main() {} // end\n"
    assert without_comments(as_code(code)) == "package main\nfunc main() {}\n"
    compressed = compress(code, budget_tokens=tokenizer.count(code) - 1, tokenizer=tokenizer, strategy="code")
    assert compressed.text == "package main\nfunc main() {}\n"


def test_a_comment_that_is_to_be_kept_keeps_its_block(tokenizer: Tokenizer) -> None:
    """The block with the kept comment stays as it is, the other one loses its comment."""
    text = "```py\nx = 1  # one\n```\n```py\ny = 2  # two\n```\n"
    budget = tokenizer.count(text) - 1
    compressed = compress(text, budget_tokens=budget, tokenizer=tokenizer, keep=["1  # one"])
    assert compressed.text == "```py\nx = 1  # one\n```\n```py\ny = 2\n```\n"


def test_very_long_code_is_never_read_as_a_whole(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take hundreds of megabytes. It is code all the same, by its beginning: its lines stay as they are."""
    block = 'def f(a):\n    """Say it.\n\n    More.\n    """\n    # why\n    return {  1: a}\n\n\n'
    long_code = block * (LONGEST_CODE_CHARS // len(block) + 1)
    read: list[int] = []
    parse, lexer = ast.parse, PythonLexer.get_tokens_unprocessed
    fenced = f"```python\n{long_code}```\n"
    with monkeypatch.context() as patched:
        patched.setattr(ast, "parse", lambda code: read.append(len(code)) or parse(code))
        patched.setattr(PythonLexer, "get_tokens_unprocessed", lambda self, code: read.append(len(code)) or lexer(self, code))
        segments = split(long_code)
        cuts = [
            compress(text, budget_tokens=tokenizer.count(text) - 1_000, tokenizer=tokenizer, strategy="code")
            for text in (long_code, fenced)
        ]
    assert 0 < max(read) < LONGEST_CODE_CHARS
    assert [(segment.kind, segment.language) for segment in segments] == [(Kind.BLOCK, "python")]
    for cut in cuts:
        assert [step.tokens_before - step.tokens_after for step in cut.steps][:-1] == [0, 0]
    assert [segment.kind for segment in split("import this is prose.\n\n" + long_code)] == [Kind.PROSE]


def test_a_block_whose_code_would_change_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last check stands alone: were a comment taken out that joins two words, it would be seen."""
    monkeypatch.setattr(code_step, "_is_removable", lambda text, start, comment: True)
    assert _stripped("int/* between */a;\n", "c") == "int/* between */a;\n"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("a = 1", "a  =  1  # one", True), ("a = 1", "a = 2", False), ("a = 1", "a = True", False), ("a", "a; b", False)],
)
def test_syntax_trees_are_compared_to_their_leaves(one: str, other: str, same: bool) -> None:
    """Positions do not count; values and their types do."""
    assert same_tree(ast.parse(one), ast.parse(other)) is same
