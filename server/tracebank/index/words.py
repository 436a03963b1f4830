"""Search by words: tantivy, BM25 (k1 1.2, b 0.75) over stemmed words.

Each namespace has two small indexes, of chunks and of whole traces: BM25 needs the average length and the
document frequencies of its own kind of text, and one tenant's words must not weigh in another's.
Scores are divided by the highest that the query could reach, sum of idf * (k1 + 1), so they fuse with cosines.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import tantivy

from tracebank.errors import IndexFaultError
from tracebank.index.base import ChunkKey, IndexedTrace, Removal, WordHits, mark_directory, prepare_directory, set_aside
from tracebank.index.stopwords import STOP_WORDS
from tracebank.records import Filters, Outcome

FORMAT_VERSION = 2
K1 = 1.2
# What two neighbouring words of the question add where they are neighbours, of their own BM25: enough to decide
# between equals, too little to lift a text that lacks other words (0.3 lowered one set of four).
PAIR_BOOST = 0.1
# A chunk's number: the trace's row above, the ordinal in the lower bits (1 MiB of text has far fewer chunks).
ORDINAL_BITS = 20
WRITER_HEAP_BYTES = 15_000_000
# Opening a writer costs 40 ms, keeping it costs its threads: those of the namespaces written last stay open.
MAX_WRITERS = 4
ANALYZER = "tracebank_words"
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}"
# Runs of letters and digits; scripts that are written without spaces, character by character.
_WORD_PATTERN = rf"[{_SPACELESS}]|[[\p{{L}}\p{{M}}\p{{N}}]--[{_SPACELESS}]]+"
_LONGEST_WORD_BYTES = 64

Result = TypeVar("Result")


def _analyzer(*, stem: bool) -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.regex(_WORD_PATTERN))
    builder = builder.filter(tantivy.Filter.remove_long(_LONGEST_WORD_BYTES)).filter(tantivy.Filter.lowercase())
    return (builder.filter(tantivy.Filter.stemmer("english")) if stem else builder).build()


_PLAIN, _STEMMED = _analyzer(stem=False), _analyzer(stem=True)


def stemmed_words(text: str) -> list[str]:
    """Return the stemmed words of a text in order, each as often as it stands there, stop words too."""
    return list(_STEMMED.analyze(text))


def query_terms(text: str) -> list[str]:
    """Return the distinct stemmed words of a question, in order, without stop words unless there is nothing else."""
    words = _PLAIN.analyze(text)
    telling = [word for word in words if word not in STOP_WORDS] or words
    return list(dict.fromkeys(stem for word in telling for stem in _STEMMED.analyze(word)))


def query_pairs(text: str) -> list[tuple[str, str]]:
    """Return the distinct pairs of stemmed words that stand beside each other in a question, none of them a stop word.

    "ticket number 7" is not what worker 7 did with ticket number 12: words that belong together are found together.
    """
    words = _PLAIN.analyze(text)
    pairs = [pair for pair in pairwise(words) if not STOP_WORDS & set(pair)]
    stems = [(_STEMMED.analyze(first), _STEMMED.analyze(second)) for first, second in pairs]
    return list(dict.fromkeys((first[0], second[0]) for first, second in stems if first and second))


def idf(documents: int, having: int) -> float:
    """Return the inverse document frequency of BM25 as tantivy and Lucene compute it."""
    return math.log(1 + (documents - having + 0.5) / (having + 0.5))


class _Field:
    """One tantivy index: numbered texts with the trace's row, outcome, tags and time beside them."""

    def __init__(self, directory: Path) -> None:
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("number", indexed=True, fast=True)
        builder.add_unsigned_field("row", indexed=True)
        builder.add_text_field("text", tokenizer_name=ANALYZER, index_option="position")
        builder.add_text_field("outcome", tokenizer_name="raw", index_option="basic")
        builder.add_text_field("tag", tokenizer_name="raw", index_option="basic")
        builder.add_integer_field("occurred_at_ms", indexed=True, fast=True)
        self.schema = builder.build()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.index = tantivy.Index(self.schema, path=str(directory))
        self.index.register_tokenizer(ANALYZER, _STEMMED)
        self.searcher = self.index.searcher()
        self._writer: tantivy.IndexWriter | None = None

    def write(self, rows: Sequence[int], texts: Sequence[tuple[int, str, IndexedTrace]]) -> None:
        """Replace everything of the rows by the numbered texts, in one commit."""
        if self._writer is None:
            self._writer = self.index.writer(heap_size=WRITER_HEAP_BYTES, num_threads=1)
        try:
            self._replace(self._writer, rows, texts)
        except Exception:
            # What the writer holds uncommitted must not slip into the next commit.
            writer, self._writer = self._writer, None
            writer.rollback()
            self._writer = writer
            raise
        self.index.reload()
        self.searcher = self.index.searcher()

    def _replace(self, writer: tantivy.IndexWriter, rows: Sequence[int], texts: Sequence[tuple[int, str, IndexedTrace]]) -> None:
        writer.delete_documents_by_query(tantivy.Query.term_set_query(self.schema, "row", list(rows)))
        for number, text, trace in texts:
            document = tantivy.Document()
            document.add_unsigned("number", number)
            document.add_unsigned("row", trace.row)
            document.add_text("text", text)
            document.add_text("outcome", trace.outcome)
            for tag in trace.tags:
                document.add_text("tag", tag)
            document.add_integer("occurred_at_ms", trace.occurred_at_ms)
            writer.add_document(document)
        writer.commit()

    def release_writer(self) -> None:
        """End the writer with its threads, memory and lock. The next write opens another."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.wait_merging_threads()

    def search(self, text: str, limit: int, restriction: Sequence[tantivy.Query]) -> dict[int, float]:
        """Return the relative BM25 of the best documents, by number."""
        searcher, terms = self.searcher, query_terms(text)
        if not terms or not searcher.num_docs or not limit:
            return {}
        documents = self._documents()
        highest = sum(idf(documents, searcher.doc_freq("text", term)) * (K1 + 1) for term in terms)
        words = [(tantivy.Occur.Should, tantivy.Query.term_query(self.schema, "text", term, index_option="freq")) for term in terms]
        pairs = [tantivy.Query.phrase_query(self.schema, "text", list(pair)) for pair in query_pairs(text)]
        query = tantivy.Query.boolean_query(
            [*words, *((tantivy.Occur.Should, tantivy.Query.boost_query(pair, PAIR_BOOST)) for pair in pairs)]
        )
        if restriction:
            must = [(tantivy.Occur.Must, tantivy.Query.const_score_query(q, 0.0)) for q in restriction]
            query = tantivy.Query.boolean_query([(tantivy.Occur.Must, query), *must])
        hits = searcher.search(query, limit=limit, count=False).hits
        numbers = searcher.fast_field_values("number", [address for _, address in hits])
        return {int(number or 0): min(1.0, score / highest) for (score, _), number in zip(hits, numbers, strict=True)}

    def idf(self, word: str) -> float:
        """Return the inverse document frequency of a word as it stands in a text."""
        documents = self._documents()
        return max((idf(documents, self.searcher.doc_freq("text", stem)) for stem in _STEMMED.analyze(word)), default=0.0)

    def _documents(self) -> int:
        # BM25 counts the documents that are deleted but not merged away yet, too; each has one outcome.
        return sum(self.searcher.doc_freq("outcome", str(outcome)) for outcome in Outcome)

    def restriction(self, filters: Filters) -> list[tantivy.Query]:
        """Return the filters as queries that must match."""
        schema = self.schema
        must = [tantivy.Query.term_query(schema, "tag", tag, index_option="basic") for tag in filters.tags]
        if filters.outcomes:
            must.append(tantivy.Query.term_set_query(schema, "outcome", [str(outcome) for outcome in filters.outcomes]))
        if filters.since_ms is not None or filters.until_ms is not None:
            low, high = filters.since_ms, filters.until_ms
            must.append(tantivy.Query.range_query(schema, "occurred_at_ms", tantivy.FieldType.Integer, low, high))
        return must

    def numbered(self, numbers: Sequence[int]) -> list[tantivy.Query]:
        """Return the restriction to just these documents."""
        return [tantivy.Query.term_set_query(self.schema, "number", list(numbers))]


@dataclass(frozen=True, slots=True)
class _Namespace:
    chunks: _Field
    traces: _Field


class TantivyWordIndex:
    """A `WordIndex` in tantivy."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._format = {"format": FORMAT_VERSION, "analyzer": _WORD_PATTERN}
        self._lock = threading.Lock()
        # A writer whose task was cancelled still writes: whoever clears or closes waits for it.
        self._writing = threading.Lock()
        self._namespaces: dict[int, _Namespace] = {}
        self._written: OrderedDict[int, _Namespace] = OrderedDict()
        self._fresh = not prepare_directory(directory, self._format)

    @property
    def fresh(self) -> bool:
        """Whether it has to be filled from the store."""
        return self._fresh

    def mark_filled(self) -> None:
        """Write down that the directory can be used at the next start."""
        mark_directory(self._directory, self._format)
        self._fresh = False

    def apply(self, namespace: int, upserts: Sequence[IndexedTrace], removals: Sequence[Removal]) -> None:
        """Write the traces and their chunks; delete what the rows had before."""
        fields = self._open(namespace)
        rows = [trace.row for trace in upserts] + [removal.row for removal in removals]
        chunks = [((t.row << ORDINAL_BITS) | i, text, t) for t in upserts for i, text in enumerate(t.chunks)]
        with self._writing:
            _guarded(lambda: fields.chunks.write(rows, chunks))
            _guarded(lambda: fields.traces.write(rows, [(t.row, t.text, t) for t in upserts]))
            self._keep_writers(namespace, fields)

    def query(self, namespace: int, text: str, limit: int, filters: Filters) -> WordHits:
        """Return the best chunks and traces, at most `limit` of each."""
        fields = self._open(namespace)
        chunks = _guarded(lambda: fields.chunks.search(text, limit, fields.chunks.restriction(filters)))
        traces = _guarded(lambda: fields.traces.search(text, limit, fields.traces.restriction(filters)))
        return WordHits({_key(number): score for number, score in chunks.items()}, traces)

    def score(self, namespace: int, text: str, keys: Sequence[ChunkKey], rows: Sequence[int]) -> WordHits:
        """Return the scores of these chunks and traces."""
        fields = self._open(namespace)
        numbers = [(row << ORDINAL_BITS) | ordinal for row, ordinal in keys]
        chunks = _guarded(lambda: fields.chunks.search(text, len(numbers), fields.chunks.numbered(numbers)))
        traces = _guarded(lambda: fields.traces.search(text, len(rows), fields.traces.numbered(rows)))
        return WordHits({_key(number): score for number, score in chunks.items()}, traces)

    def idf(self, namespace: int, words: Sequence[str]) -> list[float]:
        """Return the inverse document frequency of each word among the chunks; of one that is stemmed to several, the highest."""
        chunks = self._open(namespace).chunks
        return _guarded(lambda: [chunks.idf(word) for word in words])

    def count(self, namespace: int) -> int:
        """Return how many chunks the namespace holds."""
        return int(self._open(namespace).chunks.searcher.num_docs)

    def clear(self) -> None:
        """Set the directory aside and start an empty one: it must work on a broken index too."""
        with self._writing, self._lock:
            self._written.clear()
            self._namespaces.clear()
            set_aside(self._directory)
            self._fresh = True

    def rest(self) -> None:
        """Let go of the writers, which take 15 MB each; the next write opens another, in 40 ms."""
        with self._writing, self._lock:
            self._release(keep=0)

    def close(self) -> None:
        """Let go of readers and writers."""
        with self._writing, self._lock:
            self._release(keep=0)
            self._namespaces.clear()

    def _keep_writers(self, namespace: int, fields: _Namespace) -> None:
        with self._lock:
            self._written[namespace] = fields
            self._written.move_to_end(namespace)
            self._release(keep=MAX_WRITERS)

    def _release(self, *, keep: int) -> None:
        while len(self._written) > keep:
            _, fields = self._written.popitem(last=False)
            fields.chunks.release_writer()
            fields.traces.release_writer()

    def _open(self, namespace: int) -> _Namespace:
        with self._lock:
            if namespace not in self._namespaces:
                home = self._directory / str(namespace)
                self._namespaces[namespace] = _guarded(lambda: _Namespace(_Field(home / "chunks"), _Field(home / "traces")))
            return self._namespaces[namespace]


def _key(number: int) -> ChunkKey:
    return number >> ORDINAL_BITS, number & ((1 << ORDINAL_BITS) - 1)


def _guarded(action: Callable[[], Result]) -> Result:
    """Run a tantivy call; whatever it raises becomes an IndexFaultError."""
    try:
        return action()
    except Exception as error:
        raise IndexFaultError(f"tantivy: {error}") from error
