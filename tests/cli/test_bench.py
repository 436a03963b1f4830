"""`tracebank bench embedding`, on few texts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples import exported_models

COMMAND = str(Path(sys.executable).with_name("tracebank"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_engine_is_measured_with_every_length(tmp_path: Path) -> None:
    """As JSON; nothing but that is on standard output."""
    done = subprocess.run(
        [COMMAND, "--data-dir", str(tmp_path), "bench", "embedding", "--quick", "--json"],
        env={**os.environ, "TRACEBANK_EMBEDDING__CACHE_DIR": str(exported_models())}, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    rows = json.loads(done.stdout)
    assert [row["engine"] for row in rows][:3] == ["torch", "fp32", "int8"]  # an accelerator comes behind them
    for row in rows:
        assert set(row["single"]) == set(row["batch_ms"]) == {"12", "60", "150"}
        assert all(0 < spread["p50_ms"] <= spread["p95_ms"] for spread in row["single"].values())
        assert row["concurrent"][0]["texts"] == row["many"]["texts"] == 32
        assert row["many"]["ms"] > 0


def test_what_cannot_be_measured_is_told() -> None:
    """With what can."""
    done = subprocess.run([COMMAND, "bench", "everything"], capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tracebank: what: must be embedding, not everything\n"
