"""White space in JSON."""

from __future__ import annotations

import json
import random

import pytest

from tracebank.compression.json_text import minify
from tracebank.compression.segments import split
from tracebank.compression.steps.json_minify import minified


def _minified(text: str) -> str:
    return "".join(segment.with_body(minified(segment)).text for segment in split(text))


def _pairs(text: str) -> object:
    return json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str)


def _value(rng: random.Random, depth: int) -> object:
    if depth == 0:
        return rng.choice(["a  b", 'q"\\ {', "é\u2028", 1, 1.5, -0.0, True, None, 10**40])
    if rng.random() < 0.5:
        return [_value(rng, depth - 1) for _ in range(3)]
    return {f"k {number}": _value(rng, depth - 1) for number in range(3)}


@pytest.mark.parametrize("seed", range(20))
def test_minified_json_has_the_same_value_and_no_white_space(seed: int) -> None:
    """Values, their order and the spelling of numbers are equal, and the result is as short as json.dumps makes it."""
    value = _value(random.Random(seed), 3)
    pretty = json.dumps(value, indent=2, ensure_ascii=False)
    assert _pairs(minify(pretty)) == _pairs(pretty)
    assert minify(pretty) == json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def test_numbers_keep_their_spelling_and_doubled_keys_stay() -> None:
    """1.0 is not 1, 1e5 is not 100000.0, and a number of 5,000 digits is no error."""
    digits = "9" * 5000
    assert minify('{ "a": 1.0, "a": 1e5, "b": ' + digits + " }") == '{"a":1.0,"a":1e5,"b":' + digits + "}"


def test_json_is_found_alone_in_fences_and_between_prose() -> None:
    """Wherever an array or object begins and ends a line."""
    assert _minified('{\n  "a": [1, 2]\n}') == '{"a":[1,2]}'
    assert _minified('see\n\n  {\n  "a": 1\n}\nend\n[1, 2]') == 'see\n\n  {"a":1}\nend\n[1,2]'
    assert _minified('```json\n{\n  "a": 1\n}\n```\n') == '```json\n{"a":1}\n```\n'
    assert _minified('```\n{ "a": 1 }\n```') == '```\n{"a":1}\n```'
    assert _minified('```jsonl\n{ "a": 1 }\n{ "b": 2 }\n```') == '```jsonl\n{"a":1}\n{"b":2}\n```'


@pytest.mark.parametrize("language", ["json", "jsonl", ""])
def test_json_in_a_list_stays_in_the_list(language: str) -> None:
    """What begins at the margin would end it."""
    text = f'1. Do:\n   ```{language}\n   {{ "a": 1 }}\n   ```\n2. End\n'
    assert _minified(text) == text.replace('{ "a": 1 }', '{"a":1}')


def test_letters_are_written_as_such_and_other_escapes_stay() -> None:
    """Accents and emoji; not quotes, signs that cannot be seen, half characters, or what only looks like an escape."""
    text = r'["caf\u00e9 \u201cNoir\u201d \ud83e\udd96", "\u0022 \u005c \u0007 \n \u200d \ud83e x \\u00e9 \u0041\ud83e"]'
    assert minify(text) == r'["café “Noir” 🦖","\u0022 \u005c \u0007 \n \u200d \ud83e x \\u00e9 A\ud83e"]'
    assert json.loads(minify(text)) == json.loads(text)


def test_json_is_found_behind_what_introduces_it() -> None:
    """Where it is drawn over lines: what stands in one line may be anything."""
    assert _minified('Result (list): {\n  "a": [1,\n 2]\n}\nend') == 'Result (list): {"a":[1,2]}\nend'
    for text in ('Result: { "a": 1 }\n', 'see {\n  "a": 1\n}\n'):
        assert _minified(text) == text


@pytest.mark.parametrize(
    "text",
    ['{ "a": 1, }', "[ see below ]\ntext", "[ link ](http://a)", "{ a: 1 }", '```js\nx = [ "a" ]\n```', "[" * 9000],
)
def test_what_is_no_json_stays(text: str) -> None:
    """Half JSON, links, code and what is too deep to be parsed are left alone."""
    assert _minified(text) == text
