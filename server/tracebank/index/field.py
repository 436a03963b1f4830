"""One tantivy index: numbered texts with the trace's row, outcome, tags, metadata and time beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tantivy

from tracebank.index.analysis import ANALYZER, K1, STEMMED, idf, metadata_term, query_pairs, query_terms, stems_of
from tracebank.index.base import IndexedTrace
from tracebank.records import Filters, Outcome
from tracebank.scores import NO_SCORES, Scores

# What a pair of the question's words adds where they are neighbours, of its own BM25: enough to tell a number that is asked
# for from the same one beside another word, however its vectors fall; half lowered one set of four.
PAIR_BOOST = 0.3
WRITER_HEAP_BYTES = 15_000_000


class WordField:
    """Written by one at a time; any thread may search."""

    def __init__(self, directory: Path) -> None:
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("number", indexed=True, fast=True)
        builder.add_unsigned_field("row", indexed=True)
        builder.add_text_field("text", tokenizer_name=ANALYZER, index_option="position")
        builder.add_text_field("outcome", tokenizer_name="raw", index_option="basic")
        builder.add_text_field("tag", tokenizer_name="raw", index_option="basic")
        builder.add_text_field("metadata", tokenizer_name="raw", index_option="basic")
        builder.add_integer_field("occurred_at_ms", indexed=True, fast=True)
        self.schema = builder.build()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.index = tantivy.Index(self.schema, path=str(directory))
        self.index.register_tokenizer(ANALYZER, STEMMED)
        self._look()
        self._writer: tantivy.IndexWriter | None = None

    @staticmethod
    def exists(directory: Path) -> bool:
        """Return whether there is one."""
        return directory.is_dir() and tantivy.Index.exists(str(directory))

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
        self._look()

    def _look(self) -> None:
        """See what was committed last."""
        searcher = self.index.searcher()
        # BM25 counts the documents that are deleted but not merged away yet, too; each has one outcome.
        documents = sum(searcher.doc_freq("outcome", str(outcome)) for outcome in Outcome)
        self.searcher, self.documents = searcher, documents

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
            for key, value in trace.metadata.items():
                document.add_text("metadata", metadata_term(key, value))
            document.add_integer("occurred_at_ms", trace.occurred_at_ms)
            writer.add_document(document)
        writer.commit()

    def release_writer(self) -> None:
        """End the writer with its threads, memory and lock. The next write opens another."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.wait_merging_threads()

    def search(self, text: str, limit: int, restriction: Sequence[tantivy.Query]) -> Scores:
        """Return the relative BM25 of the best documents."""
        searcher, terms = self.searcher, query_terms(text)
        if not terms or not searcher.num_docs or not limit:
            return NO_SCORES
        documents = self.documents
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
        return Scores.of(numbers, np.minimum(1.0, np.array([score for score, _ in hits]) / highest))

    def idf(self, word: str) -> float:
        """Return the inverse document frequency of a word as it stands in a text."""
        return max((idf(self.documents, self.searcher.doc_freq("text", stem)) for stem in stems_of(word)), default=0.0)

    def restriction(self, filters: Filters) -> list[tantivy.Query]:
        """Return the filters as queries that must match."""
        schema = self.schema
        must = [tantivy.Query.term_query(schema, "tag", tag, index_option="basic") for tag in filters.tags]
        must += [
            tantivy.Query.term_query(schema, "metadata", metadata_term(key, value), index_option="basic") for key, value in filters.metadata
        ]
        if filters.outcomes:
            must.append(tantivy.Query.term_set_query(schema, "outcome", [str(outcome) for outcome in filters.outcomes]))
        if filters.since_ms is not None or filters.until_ms is not None:
            low, high = filters.since_ms, filters.until_ms
            must.append(tantivy.Query.range_query(schema, "occurred_at_ms", tantivy.FieldType.Integer, low, high))
        return must

    def numbered(self, numbers: Sequence[int]) -> list[tantivy.Query]:
        """Return the restriction to just these documents."""
        return [tantivy.Query.term_set_query(self.schema, "number", list(numbers))]
