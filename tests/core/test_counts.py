"""What a look counts: slow answers by bucket, sums by name, and what came between two readings."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.counts import Counts, added, slower

BOUNDS = (10.0, 20.0, 50.0, 100.0, math.inf)
limits = st.one_of(st.sampled_from(BOUNDS[:-1]), st.floats(0.5, 200))
rows = st.lists(st.integers(0, 9), min_size=5, max_size=5)


@given(counts=rows, limit=limits)
def test_slow_answers_are_counted_by_what_their_bucket_proves(counts: list[int], limit: float) -> None:
    """Surely slow is a bucket that begins at the limit or above, possibly slow one that ends above it."""
    lower = (0.0, *BOUNDS[:-1])
    certain = sum(n for low, n in zip(lower, counts, strict=True) if low >= limit * (1 - 1e-9))
    possible = sum(n for high, n in zip(BOUNDS, counts, strict=True) if high * (1 - 1e-9) > limit)
    buckets = tuple(zip(BOUNDS, counts, strict=True))
    assert slower(buckets, limit) == (sum(counts), certain, possible)


def test_no_buckets_hold_no_answers() -> None:
    """Without latencies nothing was answered, slowly or not."""
    assert slower((), 20.0) == (0, 0, 0)


@given(mine=st.dictionaries(st.sampled_from("abc"), rows), new=st.dictionaries(st.sampled_from("abc"), rows))
def test_sums_by_name_lose_nothing(mine: dict[str, list[int]], new: dict[str, list[int]]) -> None:
    """Every name of either is there, with the sum of both."""
    a, b = ({k: tuple(v) for k, v in one.items()} for one in (mine, new))
    both = added(a, b)
    assert set(both) == set(a) | set(b)
    for name, row in both.items():
        zeros = (0,) * 5
        assert row == tuple(x + y for x, y in zip(a.get(name, zeros), b.get(name, zeros), strict=True))


def test_rows_of_another_length_begin_anew() -> None:
    """A histogram whose bins were changed can't be added to the old one: the newer stays."""
    assert added({"drift": (1, 2)}, {"drift": (1, 2, 3)}) == {"drift": (1, 2, 3)}


def test_an_unknown_tally_is_nothing() -> None:
    """A name that nobody counted has no trials."""
    assert Counts().tally("bought") == (0, 0)
