"""Two releases' answers to the same requests."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.answers import Answer, Join, Pair, Side, differs, distance, event, silent, summary
from tidegate.core.plan import Check, Ratio

OTHERWISE = Check("otherwise", "disagreement", Ratio(0.01))
APART = Check("apart", "score-difference", Ratio(0.01), difference=0.1)


def _answer(name: str = "1", at: float = 0.0, status: int = 200, ms: float = 1.0, **said: Any) -> Answer:
    return Answer(name, at, status, ms, said.get("score"), said.get("decision"))


def _pair(mine: dict[str, Any], theirs: dict[str, Any]) -> Pair:
    return Pair(_answer(**mine), _answer(**theirs))


@pytest.mark.parametrize(
    ("mine", "theirs", "wanted"),
    [
        ({"score": 0.5}, {"score": 0.49}, None),
        ({"score": 251.0}, {"score": -3.0}, None),
        ({"score": 0.6, "decision": False}, {"score": 0.1, "decision": False}, False),
        ({"score": 0.6, "decision": "a"}, {"score": 0.6, "decision": "b"}, True),
        ({"score": 0.6}, {"score": 0.6, "decision": "b"}, True),
        ({"decision": 3}, {"decision": 3}, False),
        ({"score": 0.6}, {}, None),
        ({}, {}, None),
        ({"status": 500}, {"score": 0.1}, True),
        ({"score": 0.1}, {"status": 500}, True),
        ({"status": 422}, {"score": 0.1}, True),
        ({"status": 500}, {"status": 500}, None),
        ({"status": 422}, {"status": 422}, None),
    ],
)
def test_what_counts_as_deciding_otherwise(mine: Any, theirs: Any, wanted: bool | None) -> None:
    """Decisions are compared where there are any, and no score is taken for one; an error beside an
    answer differs, two errors say nothing."""
    assert differs(_pair(mine, theirs)) is wanted
    assert event(OTHERWISE, _pair(mine, theirs)) is wanted


@pytest.mark.parametrize(
    ("mine", "theirs", "wanted"),
    [(0.3, 0.15, True), (0.3, 0.25, False), (0.1, 0.3, True), (None, 0.3, None), (0.3, None, None)],
)
def test_scores_are_apart_by_more_than_the_difference(
    mine: float | None, theirs: float | None, wanted: bool | None
) -> None:
    """In either direction; a pair without both scores is no trial."""
    assert event(APART, _pair({"score": mine}, {"score": theirs})) is wanted


# ---------------------------------------------------------------- joining
arms = st.sampled_from(["candidate", "stable"])
added = st.lists(st.tuples(arms, st.integers(0, 8), st.floats(0, 200)), max_size=60)


@given(given_answers=added)
def test_an_answer_is_part_of_one_pair_at_most(given_answers: list[tuple[Side, int, float]]) -> None:
    """Pairs have one answer of each arm to one request, given within the window; none is used twice."""
    join, used = Join(window=10, waiting=5), 0
    for side, number, at in given_answers:
        pair = join.add(side, _answer(str(number), at))
        if pair:
            used += 2
            assert pair.candidate.id == pair.stable.id == str(number)
            assert abs(pair.candidate.at - pair.stable.at) <= 10
    assert used + join.expired + len(join) == len(given_answers)


@given(order=st.permutations([("candidate", n) for n in range(20)] + [("stable", n) for n in range(20)]))
def test_the_order_in_which_answers_come_does_not_matter(order: list[tuple[Side, int]]) -> None:
    """Within the window every request with two answers makes a pair."""
    join = Join()
    assert sum(bool(join.add(side, _answer(str(number)))) for side, number in order) == 20


def test_what_waits_is_bounded() -> None:
    """An arm whose twins never come holds the newest answers only, by number and by age."""
    join = Join(window=60, waiting=100)
    for number in range(1000):
        join.add("stable", _answer(str(number), number / 100))
    assert (len(join), join.expired) == (100, 900)
    join.add("stable", _answer("late", 500.0))
    assert len(join) == 1


def test_a_clock_that_is_set_back_stops_no_pairing() -> None:
    """Answers from the future expire by number; those of now find each other."""
    join = Join(window=60, waiting=100)
    join.add("stable", _answer("future", 86_400.0))
    join.add("stable", _answer("a", 0.0))
    assert join.add("candidate", _answer("a", 0.1)) is not None


@pytest.mark.parametrize(
    ("mine", "theirs", "decided", "scored"),
    [
        ({"score": 0.6}, {"score": 0.1}, True, False),
        ({"decision": "a"}, {"decision": "b"}, False, True),
        ({"decision": "a", "score": 2.0}, {"score": 1.0}, False, False),
        ({}, {}, True, True),
        ({"status": 500}, {"score": 0.1}, None, None),
        ({"status": 422}, {"status": 422}, None, None),
    ],
)
def test_good_answers_may_say_nothing_of_what_is_compared(
    mine: Any, theirs: Any, decided: bool | None, scored: bool | None
) -> None:
    """Without a decision, or a score on both sides; of refusals and failures it is not asked."""
    assert silent(OTHERWISE, _pair(mine, theirs)) is decided
    assert silent(APART, _pair(mine, theirs)) is scored


# ---------------------------------------------------------------- the summary
scores = st.one_of(st.none(), st.floats(0, 1))
statuses = st.sampled_from([200, 200, 200, 422, 500])
pairs = st.lists(
    st.builds(
        lambda a, b, s, t, x, y: Pair(
            _answer("1", 0, s, x, score=a, decision=a and a > 0.5),
            _answer("1", 0, t, y, score=b, decision=b and b > 0.5),
        ),
        *(scores, scores, statuses, statuses, st.floats(0, 1000), st.floats(0, 1000)),
    ),
    max_size=40,
)


@given(found=pairs)
def test_a_summary_agrees_with_its_pairs(found: list[Pair]) -> None:
    """Shares and means are those of the pairs that can be compared; without any there is none."""
    made = summary(found)
    compared = [differs(pair) for pair in found if differs(pair) is not None]
    assert (made.pairs, made.compared) == (len(found), len(compared))
    assert (made.agreement is None) == (not compared)
    if compared:
        assert made.agreement == pytest.approx(compared.count(False) / len(compared))
    apart = [d for pair in found if (d := distance(pair)) is not None]
    assert (made.mean_difference is None) == (not apart)
    if apart:
        assert made.mean_difference == pytest.approx(sum(apart) / len(apart))
        assert made.largest_difference in apart
    if found:
        assert min(p.candidate.ms for p in found) <= (made.candidate.p50 or 0) <= (made.candidate.p99 or 0)
        assert made.stable.failed == sum(pair.stable.status == 500 for pair in found)


def test_a_summary_is_json() -> None:
    """It goes to a page and a status as JSON types."""
    made = summary(
        [_pair({"score": 0.6, "ms": 2.0, "decision": "yes"}, {"score": 0.1, "decision": "no"})]
    ).as_dict()
    assert msgspec.json.decode(msgspec.json.encode(made)) == made
    assert (made["agreement"], made["mean_difference"], made["candidate"]["p99"]) == (0.0, 0.5, 2.0)
