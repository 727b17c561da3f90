"""The join of assignments and outcomes: each unit counts once, for the release that it first saw."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.builders import A, B
from tidegate.core.outcomes import GRACE, Assignment, Outcome, Tallies, join
from tidegate.core.plan import AbTest, Check, Key, Plan, Ratio, Seconds
from tidegate.outcomes import Entry, unit_of

ANY = {"bought": None}


def seen(request: str, release: str, unit: str, at: float = 0.0) -> Assignment:
    """One journaled request."""
    return Assignment(request, release, unit, at)


def said(request: str, value: int = 1, at: float = 1.0, name: str = "bought") -> Outcome:
    """One outcome."""
    return Outcome(request, name, value, at)


def bought(units: int, crossed: int, known: int, ones: int) -> Tallies:
    """A release's tallies."""
    return Tallies((units, crossed), {"bought": (known, ones)})


def test_a_unit_counts_once_by_its_first_outcome():
    """Two requests of a user are one unit, and the second outcome changes nothing."""
    events = [seen("r1", B, "ann"), seen("r2", B, "ann"), said("r2", 0), said("r1", 1), said("r2", 1)]
    assert join(events, ANY, now=9) == {B: bought(1, 0, 1, 0)}


def test_a_unit_that_saw_both_arms_counts_for_the_first():
    """What a user does is due to the arm it was sent to first, whichever answered later."""
    events = [seen("r1", A, "ann"), seen("r2", B, "ann"), said("r2", 1)]
    assert join(events, ANY, now=9) == {A: bought(1, 1, 1, 1)}


def test_an_outcome_may_come_before_its_request_is_known():
    """An outcome waits for its request; one of a request that never comes counts nowhere."""
    assert join([said("r1"), said("ghost"), seen("r1", B, "ann")], ANY, now=9) == {B: bought(1, 0, 1, 1)}
    assert join([said("ghost")], ANY, now=9) == {}


def test_without_a_window_only_outcomes_that_came_count():
    """A unit without an outcome is assigned, and nothing is known of it however long it takes."""
    assert join([seen("r1", B, "ann")], ANY, now=1e9) == {B: bought(1, 0, 0, 0)}


def test_with_a_window_all_units_count_when_it_is_over():
    """No unit counts before its window is over, a 1 no sooner than a 0: what is known is no biased lot."""
    events = [seen("r1", B, "ann", 0), seen("r2", B, "bob", 0), seen("r3", B, "cat", 50), said("r1", 1, 5)]
    windows = {"bought": 60.0}
    assert join(events, windows, now=59) == {B: bought(3, 0, 0, 0)}
    assert join(events, windows, now=61 + GRACE) == {B: bought(3, 0, 2, 1)}
    assert join(events, windows, now=120 + GRACE) == {B: bought(3, 0, 3, 1)}


def test_an_outcome_after_the_window_is_late():
    """One that was received after its unit's window was over changes nothing."""
    events = [seen("r1", B, "ann", 0), said("r1", 1, 61 + GRACE)]
    assert join(events, {"bought": 60.0}, now=1000) == {B: bought(1, 0, 1, 0)}


def test_a_request_without_a_unit_takes_no_part_unless_each_is_one():
    """A/B tests count users; a bandit without users counts requests, and no request twice."""
    events = [seen("r1", B, ""), seen("r1", A, ""), seen("r2", B, ""), said("r1"), said("r1", 0)]
    assert join(events, ANY, now=9) == {}
    assert join(events, ANY, now=9, by_request=True) == {B: bought(2, 0, 1, 1)}


def test_another_name_is_another_outcome():
    """Outcomes under a name that nobody asked for are not counted."""
    assert join([seen("r1", B, "ann"), said("r1", name="liked")], ANY, now=9) == {B: bought(1, 0, 0, 0)}


events = st.lists(
    st.one_of(
        st.builds(
            Assignment,
            st.sampled_from(["r1", "r2", "r3", "r4"]),
            st.sampled_from([A, B]),
            st.sampled_from(["ann", "bob", ""]),
            st.floats(0, 50),
        ),
        st.builds(
            Outcome,
            st.sampled_from(["r1", "r2", "r3", "r4", "ghost"]),
            st.just("bought"),
            st.integers(0, 1),
            st.floats(0, 200),
        ),
    )
)


@given(events, st.lists(events, max_size=3), st.sampled_from([None, 30.0]), st.booleans())
def test_counts_only_grow(first, later, window, by_request):
    """However requests and outcomes mix, no count ever falls: looks take differences of them."""
    known, now, windows = list(first), 0.0, {"bought": window}
    before = join(known, windows, now, by_request)
    for more in later:
        known, now = known + more, now + 60
        after = join(known, windows, now, by_request)
        for release, old in before.items():
            new = after[release]
            assert new.units >= old.units
            pairs = zip(new.outcomes["bought"], old.outcomes["bought"], strict=True)
            assert all(n >= o for n, o in [*pairs, (new.units[1], old.units[1])])
        before = after


@given(events, st.booleans())
def test_no_unit_is_counted_twice(known, by_request):
    """All units together are at most the distinct ones, and no more outcomes are known than units."""
    joined = join(known, ANY, 0, by_request)
    units = {e.id if by_request else e.unit for e in known if isinstance(e, Assignment)} - {""}
    assert sum(t.units[0] for t in joined.values()) <= len(units)
    for found in joined.values():
        assert found.outcomes["bought"][1] <= found.outcomes["bought"][0] <= found.units[0]


def test_a_cookie_is_cut_out_of_its_header():
    """Of a whole cookie header only the named cookie tells a user from another; none of that name is none."""
    entry = Entry("r1", "toy", B, 'theme=dark; uid="ann"; sid=9', 0.0)
    assert unit_of(entry, "uid") == "ann"
    assert unit_of(entry, "id") == ""
    assert unit_of(entry, "") == entry.unit


def test_what_a_plan_counts_is_told_by_its_strategy_and_checks():
    """An A/B test's outcome and a check's are counted; a check that wants ones counts zeros as events."""
    from tidegate.core.outcomes import Spec, named

    test = AbTest(Key(header="x-user"), "bought", Ratio(0.1), Ratio(0.01), window=Seconds(60))
    check = Check("liked", "outcome", Ratio(0.5), outcome="liked", better="higher")
    plan = Plan("abTest", ab_test=test, checks=(check,))
    assert named(plan) == {"outcome:bought": ("bought", False), "liked": ("liked", True)}
    assert Spec.of(plan).windows == {"bought": 60.0, "liked": None}
    assert not Spec.of(plan).by_request
