"""Getting the tables of an encoding, within a bounded time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tracebank import memory
from tracebank.errors import SettingsError
from tracebank.records import ENCODINGS
from tracebank.tokens.base import Tokenizer
from tracebank.tokens.estimate import EstimateTokenizer
from tracebank.tokens.exact import TiktokenTokenizer

if TYPE_CHECKING:
    import tiktoken


class TokenizerLoader:
    """Get the tables of an encoding in the background; give the estimate until they are there.

    There is one attempt. tiktoken downloads without a time limit, so it runs in a daemon thread that may hang, and
    nobody waits for it longer than once and for `timeout_s`. A late success replaces the estimate.
    """

    def __init__(
        self,
        encoding: str,
        *,
        cache_dir: Path,
        get_encoding: Callable[[str], tiktoken.Encoding] | None = None,
    ) -> None:
        """Raise SettingsError where `encoding` is not known. `cache_dir` is where downloaded tables are kept."""
        if encoding not in ENCODINGS:
            raise SettingsError(f"encoding must be one of {', '.join(ENCODINGS)}, not {encoding!r}")
        self._encoding = encoding
        self._cache_dir = cache_dir
        self._get_encoding = get_encoding or _get_encoding
        self._starting = threading.Lock()
        self._started = False
        self._settled = threading.Event()
        self._waited = False
        self._tokenizer: Tokenizer = EstimateTokenizer()
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the attempt failed, or None where it succeeded or still runs."""
        return self._problem

    @property
    def settled(self) -> bool:
        """Whether the attempt has ended, well or not."""
        return self._settled.is_set()

    def start(self) -> None:
        """Begin the attempt, once. Returns at once."""
        with self._starting:
            if self._started:
                return
            self._started = True
            _keep_tables_in(self._cache_dir)
            threading.Thread(target=self._attempt, name="tokenizer-tables", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the attempt has ended, for so long at most. Returns whether it has. Who needs a tokenizer waits all the same."""
        return self._settled.wait(timeout_s)

    def current(self, timeout_s: float) -> Tokenizer:
        """Return the real tokenizer if it is there within `timeout_s`, else the estimate.

        Once a call has waited in vain, later calls return at once: with the real tokenizer, if it came late.
        """
        self.start()
        if not self._waited:
            self._settled.wait(timeout_s)
            self._waited = True
        return self._tokenizer

    def _attempt(self) -> None:
        # The top level of this thread: whatever fails here (network, disk, a table that does not match its hash),
        # those who wait must hear of it, and the estimate goes on serving.
        try:
            self._tokenizer = TiktokenTokenizer(self._get_encoding(self._encoding))
        except Exception as error:
            self._problem = f"the tables of {self._encoding} cannot be had: {type(error).__name__}: {error}"
        finally:
            self._settled.set()


def load_tokenizer(encoding: str, *, cache_dir: Path, timeout_s: float) -> Tokenizer:
    """Return the real tokenizer of `encoding` if its tables can be had within `timeout_s`, else the estimate.

    There is one attempt for each encoding and `cache_dir` in the life of the process.

    Raises: SettingsError where `encoding` is not known.
    """
    return _loader(encoding, cache_dir).current(timeout_s)


@cache
def _loader(encoding: str, cache_dir: Path) -> TokenizerLoader:
    return TokenizerLoader(encoding, cache_dir=cache_dir)


def _get_encoding(name: str) -> tiktoken.Encoding:
    from tiktoken import Encoding
    from tiktoken_ext.openai_public import ENCODING_CONSTRUCTORS

    parts = ENCODING_CONSTRUCTORS[name]()
    encoding = Encoding(**parts)
    # It counts by a copy of its own, outside of Python; this one is 30 MB that nothing here reads again.
    parts["mergeable_ranks"].clear()
    memory.give_back()
    return encoding


def _keep_tables_in(cache_dir: Path) -> None:
    # By default tiktoken caches in the temp directory, which a reboot empties, and it takes another place only from
    # the environment, at a moment of its own in the background thread. So the variable is set before the thread
    # starts and then left: to put it back would race with that thread. Who has set either variable has chosen.
    if "DATA_GYM_CACHE_DIR" not in os.environ:
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(cache_dir))
