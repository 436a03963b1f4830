"""The derived indexes: ChromaDB for meaning, tantivy for words. All they hold can be rebuilt from the store."""

from tracebank.index.base import IndexedText, IndexedTrace, VectorIndex, WordHits, WordIndex, delete_set_aside
from tracebank.index.chroma import ChromaVectorIndex
from tracebank.index.served import ChromaServer, ServedVectorIndex
from tracebank.index.words import TantivyWordIndex

__all__ = [
    "ChromaServer",
    "ChromaVectorIndex",
    "IndexedText",
    "IndexedTrace",
    "ServedVectorIndex",
    "TantivyWordIndex",
    "VectorIndex",
    "WordHits",
    "WordIndex",
    "delete_set_aside",
]
