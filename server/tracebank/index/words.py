"""Search by words: tantivy, BM25 (k1 1.2, b 0.75) over stemmed words.

Each namespace has two small indexes, of chunks and of whole traces: BM25 needs the average length and the
document frequencies of its own kind of text, and one tenant's words must not weigh in another's.
Scores are divided by the highest that the query could reach, sum of idf * (k1 + 1), so they fuse with cosines.

What is deleted is only marked, and tantivy cannot be told to merge. So a namespace that something was forgotten of is
written anew: a copy beside it is filled while it is searched, and what is written meanwhile goes into both.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tracebank.beside import Beside
from tracebank.errors import IndexFaultError
from tracebank.index.analysis import WORD_PATTERN
from tracebank.index.base import IndexedTrace, WordHits, mark_directory, prepare_directory, set_aside
from tracebank.index.field import WordField
from tracebank.records import Filters
from tracebank.scores import Numbers, Scores, chunk_number

log = logging.getLogger(__name__)

FORMAT_VERSION = 4
# Opening a writer costs 40 ms, keeping it costs its threads: those of the namespaces written last stay open.
MAX_WRITERS = 4
# From here on the whole traces are searched beside the chunks: it takes milliseconds, and handing it to a thread a tenth of one.
BESIDE_TRACES = 50_000
SEARCHERS = 2
# Behind a namespace's number: a copy that is being filled, one that is whole and takes its place, and what it takes that of.
FILLING, WHOLE, FORMER = ".filling", ".whole", ".former"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Namespace:
    chunks: WordField
    traces: WordField

    @classmethod
    def open(cls, home: Path) -> _Namespace:
        return cls(WordField(home / "chunks"), WordField(home / "traces"))

    def write(self, upserts: Sequence[IndexedTrace], removals: Sequence[int]) -> None:
        rows = [trace.row for trace in upserts] + list(removals)
        self.chunks.write(rows, [(chunk_number(t.row, i), text, t) for t in upserts for i, text in enumerate(t.chunks)])
        self.traces.write(rows, [(t.row, t.text, t) for t in upserts])

    def release_writers(self) -> None:
        self.chunks.release_writer()
        self.traces.release_writer()


class TantivyWordIndex:
    """A `WordIndex` in tantivy."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._format = {"format": FORMAT_VERSION, "analyzer": WORD_PATTERN}
        self._lock = threading.Lock()
        # A writer whose task was cancelled still writes: whoever clears or closes waits for it.
        self._writing = threading.Lock()
        self._namespaces: dict[int, _Namespace] = {}
        self._written: OrderedDict[int, _Namespace] = OrderedDict()
        self._copies: dict[int, _Namespace] = {}
        self._beside = Beside(SEARCHERS, name="whole-traces")
        self._fresh = not prepare_directory(directory, self._format)
        try:
            self._finish_exchanges()
        except OSError as error:
            log.warning("an exchange cannot be finished (%s): the index of words is made anew", error)
            set_aside(directory)
            self._fresh = True
        for suffix in (FILLING, WHOLE, FORMER):
            for left in directory.glob(f"*{suffix}"):
                shutil.rmtree(left, ignore_errors=True)

    @property
    def fresh(self) -> bool:
        """Whether it has to be filled from the store."""
        return self._fresh

    def mark_filled(self) -> None:
        """Write down that the directory can be used at the next start."""
        mark_directory(self._directory, self._format)
        self._fresh = False

    def apply(self, namespace: int, upserts: Sequence[IndexedTrace], removals: Sequence[int]) -> None:
        """Write the traces and their chunks; delete what the rows had before."""
        with self._writing:
            fields = self._open(namespace)
            _guarded(lambda: fields.write(upserts, removals))
            self._keep_writers(namespace, fields)
            if (copy := self._copies.get(namespace)) is not None:
                _guarded(lambda: copy.write(upserts, removals))

    def query(self, namespace: int, text: str, limit: int, filters: Filters) -> WordHits:
        """Return the best chunks and traces, at most `limit` of each."""
        fields = self._open(namespace)
        return self._both(fields, lambda field: field.search(text, limit, field.restriction(filters)))

    def score(self, namespace: int, text: str, chunks: Numbers, rows: Numbers) -> WordHits:
        """Return the scores of these chunks and traces."""
        fields = self._open(namespace)
        numbers = {fields.chunks: chunks.tolist(), fields.traces: rows.tolist()}
        return self._both(fields, lambda field: field.search(text, len(numbers[field]), field.numbered(numbers[field])))

    def _both(self, fields: _Namespace, search: Callable[[WordField], Scores]) -> WordHits:
        """Search chunks and whole traces, side by side where there are many."""
        worth = fields.traces.documents >= BESIDE_TRACES
        return WordHits(*_guarded(lambda: self._beside.both(lambda: search(fields.chunks), lambda: search(fields.traces), worth=worth)))

    def idf(self, namespace: int, words: Sequence[str]) -> list[float]:
        """Return the inverse document frequency of each word among the chunks; of one that is stemmed to several, the highest."""
        chunks = self._open(namespace).chunks
        return _guarded(lambda: [chunks.idf(word) for word in words])

    def count(self, namespace: int) -> int:
        """Return how many chunks the namespace holds."""
        return int(self._open(namespace).chunks.searcher.num_docs)

    # -- written anew, without what was deleted ---------------------------------------------------------------------

    def begin_copy(self, namespace: int) -> None:
        """Begin a copy of a namespace; from now on what is written goes into it, too. Raises: IndexFaultError."""
        with self._writing:
            self._drop_copy(namespace)
            self._copies[namespace] = _guarded(lambda: _Namespace.open(self._home(namespace, FILLING)))

    def fill_copy(self, namespace: int, traces: Sequence[IndexedTrace]) -> bool:
        """Write traces into the copy only. Returns False where it is gone: all was emptied meanwhile. Raises: IndexFaultError."""
        with self._writing:
            if (copy := self._copies.get(namespace)) is None:
                return False
            _guarded(lambda: copy.write(traces, []))
            return True

    def exchange_copy(self, namespace: int) -> bool:
        """Let the copy, which is filled, take the namespace's place. Returns False where it is gone. Raises: IndexFaultError."""
        with self._writing, self._lock:
            if (copy := self._copies.pop(namespace, None)) is None:
                return False
            _guarded(copy.release_writers)
            for former in (self._namespaces.pop(namespace, None), self._written.pop(namespace, None)):
                if former is not None:
                    _guarded(former.release_writers)
            filling, whole = self._home(namespace, FILLING), self._home(namespace, WHOLE)
            _guarded(lambda: filling.rename(whole))
            try:
                _guarded(lambda: self._take_place(whole))
            except IndexFaultError:
                # It lacks what is written from now on, so the next start must not put it there.
                with contextlib.suppress(OSError):
                    whole.rename(filling)
                raise
            return True

    def _drop_copy(self, namespace: int) -> None:
        if (copy := self._copies.pop(namespace, None)) is not None:
            _guarded(copy.release_writers)
        shutil.rmtree(self._home(namespace, FILLING), ignore_errors=True)

    def _take_place(self, whole: Path) -> None:
        """Put a whole copy where the namespace was: killed anywhere in between, the next start goes on from here.

        Raises: OSError; then there is either the namespace or its copy.
        """
        home, former = whole.with_suffix(""), whole.with_suffix(FORMER)
        shutil.rmtree(former, ignore_errors=True)
        if home.exists():
            home.rename(former)
        try:
            whole.rename(home)
        except OSError:
            if former.exists():
                former.rename(home)
            raise
        shutil.rmtree(former, ignore_errors=True)  # what is left goes at the next start: the exchange is done

    def _finish_exchanges(self) -> None:
        """Go on where a kill has left them. Raises: OSError."""
        for former in self._directory.glob(f"*{FORMER}"):
            if not (home := former.with_suffix("")).exists():
                former.rename(home)
        for whole in self._directory.glob(f"*{WHOLE}"):
            if WordField.exists(whole / "chunks") and WordField.exists(whole / "traces"):
                self._take_place(whole)

    def _home(self, namespace: int, suffix: str = "") -> Path:
        return self._directory / f"{namespace}{suffix}"

    # -- its life -----------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Set the directory aside and start an empty one: it must work on a broken index too."""
        with self._writing, self._lock:
            self._written.clear()
            self._namespaces.clear()
            self._copies.clear()
            set_aside(self._directory)
            self._fresh = True

    def rest(self) -> None:
        """Let go of the writers, which take 15 MB each; the next write opens another, in 40 ms."""
        with self._writing, self._lock:
            self._release(keep=0)

    def close(self) -> None:
        """Let go of readers and writers."""
        self._beside.close()
        with self._writing, self._lock:
            self._release(keep=0)
            for namespace in list(self._copies):
                self._drop_copy(namespace)
            self._namespaces.clear()

    def _keep_writers(self, namespace: int, fields: _Namespace) -> None:
        with self._lock:
            self._written[namespace] = fields
            self._written.move_to_end(namespace)
            self._release(keep=MAX_WRITERS)

    def _release(self, *, keep: int) -> None:
        while len(self._written) > keep:
            _, fields = self._written.popitem(last=False)
            fields.release_writers()

    def _open(self, namespace: int) -> _Namespace:
        with self._lock:
            if namespace not in self._namespaces:
                self._namespaces[namespace] = _guarded(lambda: _Namespace.open(self._home(namespace)))
            return self._namespaces[namespace]


def _guarded(action: Callable[[], Result]) -> Result:
    """Run a tantivy call; whatever it raises becomes an IndexFaultError."""
    try:
        return action()
    except Exception as error:
        raise IndexFaultError(f"tantivy: {error}") from error
