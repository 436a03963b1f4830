"""The derived indexes: ChromaDB for meaning, tantivy for words. All they hold can be rebuilt from the store."""

from tracebank.index.base import ChunkKey, IndexedTrace, Removal, VectorIndex, WordHits, WordIndex
from tracebank.index.chroma import ChromaVectorIndex
from tracebank.index.words import TantivyWordIndex

__all__ = ["ChromaVectorIndex", "ChunkKey", "IndexedTrace", "Removal", "TantivyWordIndex", "VectorIndex", "WordHits", "WordIndex"]
