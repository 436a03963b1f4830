"""How much memory the process keeps: glibc is told to share one arena, and to hand back what is free.

Without this an engine that serves four clients grew from 200 MB to 560: each of its threads (Chroma's, tantivy's, the
model's) got an arena of its own, and batches of ever different shapes left holes in all of them. One arena costs no
time here: what is allocated often is Python's own, what is large is rare. On other systems nothing is done.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# From glibc's malloc.h.
M_ARENA_MAX = -8


def share_one_arena() -> None:
    """Let all threads that begin from now on allocate from one arena."""
    if (limit := _glibc("mallopt")) is not None:
        limit(M_ARENA_MAX, 1)


def give_back() -> None:
    """Hand freed memory back to the system; takes a few milliseconds, without the interpreter's lock."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def _glibc(function: str) -> Any:
    # Another C library on Linux may lack them.
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
