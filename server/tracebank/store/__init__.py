"""The store: one SQLite file that holds the truth. Everything else can be rebuilt from it."""

from tracebank.store.store import Store
from tracebank.store.traces import Added, StoredTrace

__all__ = ["Added", "Store", "StoredTrace"]
