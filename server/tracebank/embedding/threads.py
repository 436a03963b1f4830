"""The thread that computes documents: it steps back behind the others of its process."""

from __future__ import annotations

import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor

# A thread with 7 weighs a fifth of a usual one. A question's p95 beside an import was 4 to 6 times the p50 of one alone with 0, 3.3
# with 5, 2.8 with 7 and 2.2 with 10; while questions come without a pause, a third, a fifth and a tenth of the import goes on.
DOCUMENTS_NICE = 7


def thread_for_documents() -> ThreadPoolExecutor:
    """Return a thread for what nobody waits for right now. Where nobody else has work it is as fast as any."""
    return ThreadPoolExecutor(1, thread_name_prefix="documents", initializer=_step_back)


def _step_back() -> None:
    # Only Linux knows priorities of threads; there it is what 0, "the calling process", means.
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + DOCUMENTS_NICE)
