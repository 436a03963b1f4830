"""Writing the vocabularies that come with the package, from tiktoken's tables, which it downloads where it has none.

    python -m tracebank.tokens.vocabulary_making

To be run when another encoding is offered. `vocabulary` is who reads; tiktoken itself is needed by nobody else. An encoding
whose pieces are others where `splitting` cuts a text is refused.
"""

from __future__ import annotations

from itertools import pairwise

from tiktoken_ext.openai_public import ENCODING_CONSTRUCTORS

from tracebank.records import ENCODINGS
from tracebank.tokens.splitting import Splitter, borders
from tracebank.tokens.vocabulary import PATTERNS, Vocabulary, files_of

# With a border of each kind.
BORDERS = "a word\n\n\n \n  next\t\n\n(line) \n\r\n1 and!\n'tis a-\nlast\n"


def bears_cutting(pattern: str) -> bool:
    """Return whether a text that is cut at its borders has the pieces that it has as a whole."""
    splitter, at = Splitter(pattern), [0, *borders(BORDERS), len(BORDERS)]
    (whole,) = splitter.pieces(BORDERS)
    return whole == [piece for start, end in pairwise(at) for pieces in splitter.pieces(BORDERS[start:end]) for piece in pieces]


def main() -> None:
    """Write the files of each encoding."""
    for name in ENCODINGS:
        parts = ENCODING_CONSTRUCTORS[name]()
        if parts["pat_str"] != PATTERNS.get(name):
            raise ValueError(f"`vocabulary.PATTERNS` has to have the pattern of {name}: {parts['pat_str']}")
        if not bears_cutting(parts["pat_str"]):
            raise ValueError(f"{name} has other pieces where `splitting` cuts a text")
        Vocabulary.of(name, parts["pat_str"], parts["mergeable_ranks"]).save()
        print(f"{name}: {len(parts['mergeable_ranks']):,} tokens in {sum(file.stat().st_size for file in files_of(name)):,} bytes")


if __name__ == "__main__":
    main()
