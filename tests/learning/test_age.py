"""The prior of age: of two that fit alike the newer one, and never more than that."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import TinyModel, settings_of, settled

from tracebank.engine import Engine
from tracebank.learning.age import SPREAD, prior, priors
from tracebank.learning.feedback import DAY_MS


@given(st.dictionaries(st.integers(1, 50), st.integers(-(10**14), 10**14), min_size=1))
def test_the_newest_keeps_its_score_and_no_other_loses_more_than_the_spread(moments: dict[int, int]) -> None:
    """However old it is: what fits better by more than that is never buried."""
    weights = priors(moments, half_life_days=365)
    assert max(weights.values()) == 1.0
    assert all(1 - SPREAD <= weight <= 1 for weight in weights.values())
    assert weights[max(moments, key=lambda row: moments[row])] == 1.0


def test_half_of_it_is_lost_after_a_half_life_and_moments_count_nothing() -> None:
    """Slowly."""
    assert prior(365, half_life_days=365) == pytest.approx(1 - SPREAD / 2)
    assert prior(1 / 24, half_life_days=365) == pytest.approx(1, abs=1e-5)


def test_a_memory_that_nobody_adds_to_does_not_fade_as_a_whole() -> None:
    """Only differences count, not today's date."""
    assert priors({1: 0, 2: 5 * DAY_MS}, half_life_days=9) == priors({1: 10**13, 2: 10**13 + 5 * DAY_MS}, half_life_days=9)
    assert priors({}, half_life_days=9) == {}


@pytest.mark.anyio
async def test_of_two_that_fit_alike_the_newer_is_first_and_what_fits_better_stays_above_both(tmp_path: Path, tiny: TinyModel) -> None:
    """In a search, whichever was stored first."""
    said = "The gate of the north dock is opened with the green lever after the bell has rung"
    old, new = "2001-05-01T00:00:00Z", "2026-05-01T00:00:00Z"
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for trace_id, content, at in (
            ("exact", f"{said} twice", "1999-01-01T00:00:00Z"), ("old", f"{said}, they say", old), ("new", f"{said}, we know", new),
        ):  # fmt: skip
            await engine.add({"trace_id": trace_id, "task": "gate", "content": content, "occurred_at": at}, session)
        await settled(engine)
        found = (await engine.retrieve({"query": f"{said} twice"}, session)).page.results
        assert [result.trace_id for result in found] == ["exact", "new", "old"]
