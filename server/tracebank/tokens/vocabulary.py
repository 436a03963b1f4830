"""The tokens of an encoding with their ranks, and the pattern that cuts a text into pieces first.

They come with the package: tiktoken's own tables are downloaded where they are first used, and take 45 MB of memory in a process.
Here the tokens are a MARISA trie, which is read where it lies in a mapped file: 1.3 MB, of which only what is looked at is
in memory. `vocabulary_making` is who writes.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import marisa_trie

from tracebank.errors import InstallationError

DIRECTORY = Path(__file__).with_name("vocabularies")
# tiktoken's patterns, one alternative a line; those that are tried first come first.
PATTERNS = {
    "o200k_base": "|".join((
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
    )),
    "cl100k_base": "|".join((
        r"'(?i:[sdmt]|ll|ve|re)", r"[^\r\n\p{L}\p{N}]?+\p{L}++", r"\p{N}{1,3}+", r" ?[^\s\p{L}\p{N}]++[\r\n]*+", r"\s++$",
        r"\s*[\r\n]", r"\s+(?!\S)", r"\s",
    )),
}  # fmt: skip
RANK_TYPE: Final = "I"
# What has the lowest rank in all of tiktoken's encodings; on a machine with the other byte order it would have another one.
FIRST_TOKEN = b"!"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of one encoding. All 256 bytes are tokens, so that any text can be written with them."""

    name: str
    pattern: str
    tokens: marisa_trie.BinaryTrie
    ranks: memoryview[int]

    @classmethod
    def shipped(cls, name: str) -> Vocabulary:
        """Return one of `records.ENCODINGS`. Raises: InstallationError where its files are not what they were."""
        trie, ranks = files_of(name)
        tokens = marisa_trie.BinaryTrie()
        try:
            tokens.mmap(str(trie))
            with ranks.open("rb") as file:
                mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).cast(RANK_TYPE)
            found = cls(name, PATTERNS[name], tokens, mapped)
            whole = len(mapped) == len(tokens) and found.rank(FIRST_TOKEN) == 0
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise InstallationError(f"{trie.with_suffix('')}.* cannot be read: {error}; install tracebank again") from error
        if not whole:
            raise InstallationError(f"{trie.with_suffix('')}.* are not what came with the package: install tracebank again")
        return found

    @classmethod
    def of(cls, name: str, pattern: str, ranks: Mapping[bytes, int]) -> Vocabulary:
        """Return that of tokens with their ranks."""
        tokens = marisa_trie.BinaryTrie(list(ranks))
        by_id = sorted((tokens[token], rank) for token, rank in ranks.items())
        return cls(name, pattern, tokens, memoryview(array(RANK_TYPE, [rank for _, rank in by_id])))

    def rank(self, token: bytes) -> int | None:
        """Return the rank of a token; None where these bytes are none."""
        found = self.tokens.get(token)
        return None if found is None else self.ranks[found]

    def save(self) -> None:
        """Write it to where `shipped` reads it."""
        trie, ranks = files_of(self.name)
        DIRECTORY.mkdir(exist_ok=True)
        self.tokens.save(str(trie))
        ranks.write_bytes(self.ranks.tobytes())


def files_of(name: str) -> tuple[Path, Path]:
    """Return where the tokens and their ranks (32 bits, little-endian, by the trie's numbers) lie."""
    return DIRECTORY / f"{name}.trie", DIRECTORY / f"{name}.ranks"
