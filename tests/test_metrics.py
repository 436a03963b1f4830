"""Counters and percentiles."""

from __future__ import annotations

import threading

import pytest

from tracebank.metrics import WINDOW, Metrics, percentile


@pytest.mark.parametrize(
    ("values", "fraction", "expected"),
    [
        ([1.0], 0.5, 1.0),
        ([1.0], 0.99, 1.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([float(i) for i in range(1, 101)], 0.5, 50.0),
        ([float(i) for i in range(1, 101)], 0.95, 95.0),
        ([float(i) for i in range(1, 101)], 0.99, 99.0),
    ],
)
def test_a_percentile_is_the_value_at_the_nearest_rank(values: list[float], fraction: float, expected: float) -> None:
    """The smallest value that at least this share of all values does not exceed."""
    assert percentile(values, fraction) == expected


def test_latencies_have_count_percentiles_and_the_highest_value() -> None:
    """By operation, in milliseconds."""
    metrics = Metrics()
    for elapsed_ms in range(1, 101):
        metrics.observe("search", float(elapsed_ms))
    assert metrics.latencies() == {"search": {"count": 100, "p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "max_ms": 100.0}}


def test_percentiles_are_of_the_last_values_the_highest_is_of_all() -> None:
    """Memory is bounded, and an old peak is not forgotten."""
    metrics = Metrics()
    metrics.observe("search", 500.0)
    for _ in range(WINDOW):
        metrics.observe("search", 1.0)
    assert metrics.latencies()["search"] == {"count": WINDOW + 1, "p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0, "max_ms": 500.0}


def test_what_fails_is_counted_apart() -> None:
    """Its duration would say nothing about the operation."""
    metrics = Metrics()
    with pytest.raises(KeyError), metrics.timed("add"):
        raise KeyError
    with metrics.timed("add"):
        pass
    assert metrics.counters() == {"add_failed": 1}
    assert metrics.latencies()["add"]["count"] == 1


def test_counting_from_many_threads_loses_nothing() -> None:
    """The lock holds."""
    metrics = Metrics()

    def work() -> None:
        for _ in range(500):
            metrics.count("texts", 2)
            metrics.observe("batch", 1.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.counters() == {"texts": 8_000}
    assert metrics.latencies()["batch"]["count"] == 4_000
