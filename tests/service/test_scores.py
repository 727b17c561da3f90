"""What range a service's scores are counted over, and that both ways of counting agree."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import Meta

from tidegate.serving.scores import BINS, Scores, around, promised

finite = st.floats(-1e12, 1e12)


class Said(msgspec.Struct, rename={"minutes": "min"}):
    """Answers of many kinds."""

    probability: Annotated[float, Meta(ge=0, le=1, description="how likely")]
    open_end: Annotated[float, Meta(ge=0)]
    between: Annotated[int, Meta(gt=3, lt=9)]
    maybe: Annotated[float, Meta(ge=-5, le=5, description="kWh")] | None
    minutes: Annotated[float, Meta(ge=-60, le=600)]
    word: str


@pytest.mark.parametrize(
    ("score", "wanted"),
    [
        ("probability", (0.0, 1.0)),
        ("open_end", None),
        ("between", (3.0, 9.0)),
        ("maybe", (-5.0, 5.0)),
        ("min", (-60.0, 600.0)),
        ("word", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_the_range_is_what_the_answer_promises(score: str, wanted: Any) -> None:
    """The bounds of the field that is the score, by its name in the answer; no bound is taken for granted."""
    assert promised(Said, score) == wanted
    assert promised(None, score) is None


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        ((0.02, 0.98), (0.0, 1.5)),
        ((81.0, 262.0), (0.0, 400.0)),
        ((79.0, 266.0), (0.0, 400.0)),  # trained again
        ((-3.0, 4.0), (-7.0, 8.0)),
        ((5.0, 5.0), None),
        ((math.nan, 1.0), None),
        (None, None),
    ],
)
def test_a_holdout_gives_a_round_range(seen: Any, wanted: Any) -> None:
    """Well around what was seen, so that the next training's is mostly the same."""
    assert around(seen) == pytest.approx(wanted)


@given(low=finite, width=st.floats(1e-6, 1e12))
def test_what_was_seen_lies_within(low: float, width: float) -> None:
    """No score of the holdout is outside of the range made of it."""
    assume(low < low + width)
    found = around((low, low + width))
    assert found is not None
    assert found[0] <= low < low + width <= found[1]


@given(values=st.lists(finite, min_size=1), ends=st.tuples(finite, st.floats(1e-3, 1e12)), told=st.booleans())
def test_one_by_one_and_many_at_once_count_the_same(
    values: list[float], ends: tuple[float, float], told: bool
) -> None:
    """Every score is in one bin, at an end where it is outside; without a range they are only counted."""
    span = (ends[0], ends[0] + ends[1]) if told else None
    alone, together = Scores(span), Scores(span)
    for value in values:
        alone.add(value)
    together.add_many(np.array(values))
    assert alone.counts == together.counts
    assert (alone.number, alone.outside) == (together.number, together.outside)
    assert alone.number == sum(alone.histogram.counts) == len(values)
    assert alone.outside == sum(not span[0] <= value <= span[1] for value in values) if span else True
    assert len(alone.counts) == (BINS if span else 0)
    assert alone.histogram.total == pytest.approx(together.histogram.total, abs=1e-3)
