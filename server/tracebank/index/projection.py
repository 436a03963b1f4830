"""Shorter vectors: the main directions (PCA) of a namespace's own vectors, found by scikit-learn in a process of its own.

The process has a reason: scikit-learn would stay in the engine with 60 MB, for seconds of work once in a long while.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracebank.errors import IndexFaultError
from tracebank.index.base import Vectors

FIT_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """`centre` is float32 [dim], `directions` float32 [dim, dims]; `kept` the share of the sample's variance that is left."""

    centre: Vectors
    directions: Vectors
    kept: float

    @property
    def dims(self) -> int:
        """How many numbers are left."""
        return int(self.directions.shape[1])

    def __call__(self, vectors: Vectors) -> Vectors:
        """Return float32 [len(vectors), dims] of length 1."""
        short = (vectors - self.centre) @ self.directions
        lengths = np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-9)
        return np.asarray(short / lengths, np.float32)

    def kept_of(self, vectors: Vectors) -> float:
        """Return the share of other vectors' variance that is left: much less than `kept` where they have drifted."""
        around = vectors - self.centre
        return float(np.square(around @ self.directions).sum() / np.square(around).sum())

    def save(self, file: Path) -> None:
        """Write it down."""
        with file.open("wb") as out:
            np.savez(out, centre=self.centre, directions=self.directions, kept=np.float32(self.kept))
            out.flush()
            os.fsync(out.fileno())


def load(file: Path) -> Projection:
    """Read one that was saved. Raises: IndexFaultError."""
    try:
        # A file that numpy opens itself stays open where it is damaged.
        with file.open("rb") as opened, np.load(opened) as found:
            return Projection(found["centre"], found["directions"], float(found["kept"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        # All of them are what numpy and zipfile make of a damaged file.
        raise IndexFaultError(f"{file} cannot be read: {error}") from error


def fit(sample: Vectors, dims: int) -> Projection:
    """Return the main directions of a sample, float32 [n, dim] with n > dims. Blocks. Raises: IndexFaultError."""
    with tempfile.TemporaryDirectory(prefix="tracebank-") as directory:
        given, made = Path(directory, "sample.npy"), Path(directory, "projection.npz")
        np.save(given, sample)
        command = [sys.executable, "-m", __name__, str(given), str(dims), str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=FIT_TIMEOUT_S)  # noqa: S603 - our own module
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = (error.stderr or b"").decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise IndexFaultError(f"no projection could be found: {said or error}") from error
        return load(made)


def main(given: str, dims: str, made: str) -> None:
    """Fit, in a process of its own."""
    from sklearn.decomposition import PCA

    sample = np.load(given)
    # The same sample gives the same directions.
    found = PCA(int(dims), svd_solver="randomized", random_state=0).fit(sample)
    kept = float(found.explained_variance_ratio_.sum())
    Projection(found.mean_.astype(np.float32), np.ascontiguousarray(found.components_.T, np.float32), kept).save(Path(made))


if __name__ == "__main__":
    main(*sys.argv[1:])
