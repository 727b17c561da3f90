"""Counters followed from a first sight on."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.core.readings import ROLLOUTS, SOURCES, Readings, follow

increments = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20)
readings = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=20)


@given(first=st.tuples(st.integers(0, 1000), st.integers(0, 1000)), added=increments)
def test_what_a_counter_grew_by_is_counted(first: tuple[int, int], added: list[tuple[int, int]]) -> None:
    """Of a counter that only grows, all that came after the first sight is counted, and nothing before."""
    row, found = first, follow(None, first)
    for more in added:
        row = (row[0] + more[0], row[1] + more[1])
        found = follow(found, row)
    assert found.counted == (row[0] - first[0], row[1] - first[1])


@given(first=readings)
def test_what_is_counted_never_falls(first: list[tuple[int, int]]) -> None:
    """Whatever is read, what was counted stays counted: a sum that fell would be taken for a new one."""
    found = follow(None, first[0])
    for row in first[1:]:
        before, found = found, follow(found, row)
        assert all(new >= old for old, new in zip(before.counted, found.counted, strict=True))


amounts = st.tuples(st.integers(0, 20), st.integers(0, 20))  # bad ones, and good ones


@given(
    first=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    steps=st.lists(st.tuples(amounts, amounts, st.booleans()), max_size=30),
)
@example(first=(0, 10), steps=[((0, 5), (0, 0), True), ((0, 5), (0, 0), True), ((0, 0), (0, 0), False)])
def test_a_part_out_of_sight_is_never_counted_twice(
    first: tuple[int, int], steps: list[tuple[tuple[int, int], tuple[int, int], bool]]
) -> None:
    """A sum of two counters, of which one comes and goes, never counts more than happened; in sight, all."""

    def row(*parts: tuple[int, int]) -> tuple[int, int]:
        bad, good = (sum(values) for values in zip(*parts, strict=True))
        return bad, bad + good

    mine = other = first
    found = follow(None, row(mine, other))
    for more, others, hidden in steps:
        mine = (mine[0] + more[0], mine[1] + more[1])
        other = (other[0] + others[0], other[1] + others[1])
        happened = tuple(now - 2 * then for now, then in zip(row(mine, other), row(first), strict=True))
        found = follow(found, row(mine) if hidden else row(mine, other))
        assert all(counted <= real for counted, real in zip(found.counted, happened, strict=True))
        if not hidden and not found.owed:
            assert found.counted == happened


@given(
    before=st.integers(20, 200),
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=200),
)
def test_after_a_restart_every_look_is_counted_whole(before: int, steps: list[tuple[int, int]]) -> None:
    """However far it grows past its old height: a look that is smaller than the drop is new, as it is."""
    row, found = (0, 0), follow(follow(None, (before, 2 * before)), (0, 0))
    for bad, good in steps:
        row = (row[0] + bad, row[1] + bad + good)
        found = follow(found, row)
    assert found.counted == row


def test_a_counter_that_began_anew_goes_on_counting() -> None:
    """After a restart what is added counts again from the first sight on."""
    found = follow(None, (1000,))
    for value in (1005, 2, 10, 30):
        found = follow(found, (value,))
    assert found.counted == (5 + 8 + 20,)


def test_what_began_under_our_eyes_is_new_as_a_whole() -> None:
    """All of a fresh counter counts."""
    assert follow(None, (7, 2), fresh=True).counted == (7, 2)


def test_rows_of_another_length_begin_anew() -> None:
    """A row that changed its form is a new one, not an error in the middle of a look."""
    assert follow(follow(None, (1, 2)), (5, 6, 7)).counted == (0, 0, 0)


def test_what_is_remembered_is_bounded() -> None:
    """The rollouts and sources asked for longest ago are forgotten."""
    kept = Readings("x")
    for number in range(SOURCES + 5):
        kept.take("one", str(number), (number,))
    assert len(kept.sources("one")) == SOURCES
    assert kept.known("one", "0") is None
    for number in range(ROLLOUTS):
        kept.take(number, "a", (1,))
    assert kept.sources("one") == ()


def test_a_source_out_of_sight_keeps_what_was_counted() -> None:
    """What was counted of it is known until it is seen again."""
    kept = Readings("x")
    kept.take("one", "a", (5,))
    kept.take("one", "a", (9,))
    assert (kept.known("one", "a"), kept.known("one", "b"), kept.known("two", "a")) == ((4,), None, None)
    assert kept.key("check", "a") == "check@a.x"
