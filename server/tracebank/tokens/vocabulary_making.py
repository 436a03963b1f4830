"""Writing the vocabularies that come with the package, from tiktoken's tables, which it downloads where it has none.

    python -m tracebank.tokens.vocabulary_making

To be run when another encoding is offered. `vocabulary` is who reads; tiktoken itself is needed by nobody else.
"""

from __future__ import annotations

from tiktoken_ext.openai_public import ENCODING_CONSTRUCTORS

from tracebank.records import ENCODINGS
from tracebank.tokens.vocabulary import Vocabulary, files_of


def main() -> None:
    """Write the files of each encoding."""
    for name in ENCODINGS:
        parts = ENCODING_CONSTRUCTORS[name]()
        Vocabulary.of(name, parts["pat_str"], parts["mergeable_ranks"]).save()
        print(f"{name}: {len(parts['mergeable_ranks']):,} tokens in {sum(file.stat().st_size for file in files_of(name)):,} bytes")


if __name__ == "__main__":
    main()
