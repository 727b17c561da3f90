"""Requests that are computed at once: who waits for whom, for how long, and what each gets back."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.serving.batching import AdaptiveBatcher, Apart, batcher
from tidegate.serving.request import Invalid
from tidegate.serving.settings import Batching


class _Jumping(selectors.SelectSelector):
    """Waits for nothing: time jumps to when the loop wants to be woken."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[Any]:
        """Let time pass."""
        assert timeout is not None, "the loop waits for something that never comes"
        self._jump(max(0.0, timeout))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while it has nothing to do, and at once."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jumping(self._pass))
        self._clock_resolution = 1e-9

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def time(self) -> float:
        """Return the loop's own time."""
        return self.now


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(work, 1e6))
    finally:
        loop.close()


class Model:
    """Answers each row by twice its number, in virtual time; a negative one is poison."""

    def __init__(self, fixed: float, each: float) -> None:
        self.fixed, self.each = fixed, each
        self.runs: list[tuple[float, float, list[float]]] = []  # from when to when, which rows

    async def __call__(self, rows: Any) -> Mapping[str, Any]:
        """Compute one batch."""
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(self.fixed + self.each * len(rows))
        self.runs.append((begun, asyncio.get_running_loop().time(), rows[:, 0].tolist()))
        if (rows < 0).any():
            raise ArithmeticError(f"{rows.min()}")
        return {"twice": rows[:, 0] * 2, "late": rows[:, 0] > 5}


async def asked(batches: AdaptiveBatcher, plan: list[tuple[float, list[int]]]) -> list[Any]:
    """Ask for rows at their times; return when each was asked, what it was, and what came."""

    async def one(at: float, numbers: list[int]) -> Any:
        await asyncio.sleep(at)
        begun = asyncio.get_running_loop().time()
        try:
            answer = await batches.run(np.array(numbers, dtype=np.float64)[:, None])
        except ArithmeticError as error:
            answer = {"failed": str(error)}
        return begun, numbers, answer

    return list(await asyncio.gather(*(one(at, numbers) for at, numbers in plan)))


durations = st.floats(0.0, 0.05)
requests = st.tuples(st.floats(0.0, 0.03), st.integers(1, 3), st.integers(0, 9).map(lambda n: n == 0))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(requests, min_size=1, max_size=30), st.integers(2, 8), st.floats(0.0, 0.02), durations, durations
)
def test_what_a_batch_promises(
    planned: list[tuple[float, int, bool]], most: int, cap: float, fixed: float, each: float
) -> None:
    """Whatever arrives: each gets its own rows back or its own failure, and nobody is held back over the cap.

    Held back is: waiting although nothing is computed.
    """
    plan, at, number = [], 0.0, 0
    for gap, count, poison in planned:
        at += gap
        numbers = list(range(number + 1, number + 1 + count))
        number += count
        plan.append((at, [-n for n in numbers] if poison else numbers))
    model = Model(fixed, each)
    batches = AdaptiveBatcher(model, most, cap)
    for begun, numbers, answer in run(asked(batches, plan)):
        if numbers[0] < 0:
            assert answer == {"failed": f"{float(min(numbers))}"}
        else:
            assert answer["twice"].tolist() == [2 * n for n in numbers]
            assert answer["late"].tolist() == [n > 5 for n in numbers]
        taken = next(start for start, _, rows in model.runs if numbers[0] in rows)
        busy = sum(max(0.0, min(end, taken) - max(start, begun)) for start, end, _ in model.runs)
        assert taken - begun - busy <= cap + 1e-6
    for _, _, rows in model.runs:
        assert len(rows) <= most or len(rows) <= 3  # one request is never divided
    assert batches._task is None
    assert not batches._waiting


@given(st.lists(st.floats(0.0, 0.1), min_size=1, max_size=20), durations)
def test_one_that_is_alone_is_never_held_back(pauses: list[float], takes: float) -> None:
    """A caller who asks again when he has his answer is computed at once each time, however fast he is."""
    model = Model(takes, 0.0)
    batches = AdaptiveBatcher(model, 16, 0.05)
    arrivals = []

    async def caller() -> None:
        for pause in pauses:
            await asyncio.sleep(pause)
            arrivals.append(asyncio.get_running_loop().time())
            await batches.run(np.ones((1, 1)))

    run(caller())
    assert [start for start, _, _ in model.runs] == pytest.approx(arrivals)


def _crowd(callers: int, most: int, cap: float, model: Model, times: int = 40) -> AdaptiveBatcher:
    """Let so many callers ask one after the other, each a moment after his answer."""
    batches = AdaptiveBatcher(model, most, cap)

    async def caller(number: int) -> None:
        for _ in range(times):
            await batches.run(np.ones((1, 1)))
            await asyncio.sleep(0.0002 + 0.00001 * number)

    async def all_of_them() -> None:
        await asyncio.gather(*(caller(number) for number in range(callers)))

    run(all_of_them())
    return batches


def test_a_crowd_is_computed_together() -> None:
    """Callers who ask again when answered are learnt: most batches hold all of them, not one and the rest."""
    model = Model(0.005, 0.0001)
    _crowd(16, 64, 0.002, model)
    sizes = [len(rows) for _, _, rows in model.runs]
    assert np.mean(sizes[10:]) > 12


def test_without_a_delay_batches_still_form() -> None:
    """Those who arrive while a batch is computed are the next one; the cap may be nothing."""
    model = Model(0.005, 0.0)
    _crowd(8, 64, 0.0, model)
    assert max(len(rows) for _, _, rows in model.runs) > 1


def test_those_who_left_are_waited_for_no_longer() -> None:
    """When a crowd has gone, the one who stays is soon computed at once again."""
    model = Model(0.001, 0.0)
    batches = _crowd(16, 64, 0.01, model)
    first = len(model.runs)

    async def alone() -> list[float]:
        held = []
        for _ in range(40):
            begun = asyncio.get_running_loop().time()
            await batches.run(np.ones((1, 1)))
            held.append(model.runs[-1][0] - begun)
        return held

    held = run(alone())
    assert len(model.runs) == first + 40
    assert held[-1] == 0.0


def test_a_model_that_answers_to_other_rows_is_asked_one_by_one() -> None:
    """A batch that comes back too short is nobody's answer; each is computed alone then."""

    async def short(rows: Any) -> Mapping[str, Any]:
        await asyncio.sleep(0.001)
        return {"twice": rows[:1, 0] * 2}

    batches = AdaptiveBatcher(short, 8, 0.01)
    found = run(asked(batches, [(0.0, [n]) for n in range(1, 6)]))
    assert [answer["twice"].tolist() for _, _, answer in found] == [[2 * n] for n in range(1, 6)]
    assert batches.retries >= 1


def test_rows_that_do_not_fit_together_are_computed_alone() -> None:
    """Requests of other widths in one batch are answered each, not failed together."""

    async def width(rows: Any) -> Mapping[str, Any]:
        await asyncio.sleep(0.001)
        return {"width": np.full(len(rows), rows.shape[1])}

    async def both() -> list[int]:
        batches = AdaptiveBatcher(width, 8, 0.01)
        answers = await asyncio.gather(*(batches.run(np.ones((1, n))) for n in (1, 2, 3, 2)))
        return [int(answer["width"][0]) for answer in answers]

    assert run(both()) == [1, 2, 3, 2]


def test_who_has_gone_is_not_computed() -> None:
    """A caller who gives up while he waits costs nothing, and the others get their own rows."""
    model = Model(0.01, 0.0)

    async def some_leave() -> list[float]:
        batches = AdaptiveBatcher(model, 8, 0.01)
        tasks = [asyncio.ensure_future(batches.run(np.full((1, 1), float(n)))) for n in range(5)]
        await asyncio.sleep(0.005)
        tasks[2].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return [answer["twice"][0] for answer in found if not isinstance(answer, BaseException)]

    assert run(some_leave()) == [0.0, 2.0, 6.0, 8.0]
    assert 2.0 not in [row for _, _, rows in model.runs for row in rows]


def test_who_can_not_be_answered_in_time_is_told_and_not_computed() -> None:
    """A deadline that passes while the batch before is computed is a 504; the others get their answer."""
    model = Model(1.0, 0.0)
    batches = AdaptiveBatcher(model, 8, 0.0)
    past = time.perf_counter() - 1

    async def three() -> list[Any]:
        rows = [np.array([[number]], np.float32) for number in (1, 2, 3)]
        calls = [batches.run(rows[0]), batches.run(rows[1], past), batches.run(rows[2])]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third = run(three())
    assert (first["twice"].tolist(), third["twice"].tolist()) == ([2], [6])
    assert isinstance(second, Invalid)
    assert second.status == 504
    assert [rows for *_, rows in model.runs] == [[1], [3]]


def test_batches_are_computed_beside_the_loop() -> None:
    """While a model computes, the loop goes on: that is when the next batch gathers."""
    import threading

    proceed = threading.Event()

    def predict(rows: Any) -> Mapping[str, Any]:
        assert proceed.wait(30)
        return {"n": np.full(len(rows), len(rows))}

    async def two_turns() -> tuple[Any, list[Any]]:
        apart = Apart(predict)
        batches = AdaptiveBatcher(apart, 8, 0.0)
        first = asyncio.ensure_future(batches.run(np.ones((1, 1))))
        await asyncio.sleep(0)
        later = [asyncio.ensure_future(batches.run(np.ones((1, 1)))) for _ in range(5)]
        await asyncio.sleep(0)
        proceed.set()
        found = await first, await asyncio.gather(*later)
        batches.close()
        return found

    first, later = asyncio.run(two_turns())
    assert int(first["n"][0]) == 1
    assert [int(answer["n"][0]) for answer in later] == [5] * 5


@pytest.mark.parametrize(("rows", "on"), [(0, False), (1, False), (2, True)])
def test_it_is_off_unless_settings_say_more_than_one_row(rows: int, on: bool) -> None:
    """Batches of one are none: nothing is put in between."""
    made = batcher(Batching(max_rows=rows), lambda given: {})
    assert (made is not None) is on
    if made is not None:
        made.close()


def test_batches_are_shown_as_a_histogram() -> None:
    """`tidegate_batch_rows` tells how many batches held up to 1, 2, 4, … rows."""
    from tidegate.serving.metrics import Registry

    registry = Registry("toy")
    batches = AdaptiveBatcher(Model(0.01, 0.0), 8, 0.0)
    batches.shown(registry.add)
    run(asked(batches, [(0.0, [1]), (0.001, [2]), (0.001, [3])]))
    text = registry.text()
    assert 'tidegate_batch_rows_bucket{service="toy",le="1"} 1' in text
    assert 'tidegate_batch_rows_bucket{service="toy",le="2"} 2' in text
    assert 'tidegate_batch_rows_sum{service="toy"} 3.0' in text
