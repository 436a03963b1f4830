"""numpy's matrix products stay in the thread that asks for them.

OpenBLAS wakes a thread on every core for a few thousand vectors and lets them spin for more work, in the way of ONNX Runtime's: on
two cores a question embedded after such a product took 20 ms longer than one without, the product itself half a millisecond.
"""

from __future__ import annotations

import os


def stay_in_one_thread() -> None:
    """Say so, unless the environment says otherwise; to be called before numpy is imported."""
    for name in ("OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ.setdefault(name, "1")
