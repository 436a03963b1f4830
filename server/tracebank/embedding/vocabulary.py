"""Tokenizers read from a file; those of one vocabulary hold it once: 6 MB for 30,000 words, and more for larger ones."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import Model

# The last one only: an engine has one model, and for a while another that takes its place.
_last: dict[bytes, Model] = {}


def read_tokenizer(file: Path) -> Tokenizer:
    """Return the tokenizer of a file, neither cutting nor padding, whatever it was last used with.

    Raises: Exception, as tokenizers does, where the file cannot be read.
    """
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    digest = blake2b(tokenizer.model.__getstate__(), digest_size=16).digest()
    known = _last.get(digest)
    if known is None:
        _last.clear()
        _last[digest] = tokenizer.model
    else:
        tokenizer.model = known
    return tokenizer
