"""Requests of one turn of the loop, computed at once."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from tidegate.serving.turn import Turn, spread


def _row(value: float) -> Any:
    return np.array([[value]], dtype=np.float32)


class _Model:
    """Doubles; a row of -1 makes it fail, one of -2 has no answer."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, rows: Any) -> dict[str, Any]:
        self.asked.append(len(rows))
        if (rows == -1).any():
            raise ZeroDivisionError("a row of -1")
        doubled = np.where(rows[:, 0] == -2, np.nan, rows[:, 0] * 2)
        return {"twice": doubled, "big": doubled > 2}


async def _together(model: _Model, *values: float) -> list[Any]:
    turn = Turn(model)
    return await asyncio.gather(*(turn.run(_row(value)) for value in values), return_exceptions=True)


def test_what_is_asked_in_one_turn_is_computed_at_once() -> None:
    """One run of the model answers all, each its own row."""
    model = _Model()
    answers = asyncio.run(_together(model, 1.0, 2.0, 3.0))
    assert answers == [{"twice": 2.0 * n, "big": n > 1} for n in (1, 2, 3)]
    assert model.asked == [3]


def test_nobody_waits_for_who_has_not_come() -> None:
    """Requests one after the other are computed alone."""

    async def one_by_one() -> list[int]:
        model = _Model()
        turn = Turn(model)
        for value in (1.0, 2.0):
            await turn.run(_row(value))
        return model.asked

    assert asyncio.run(one_by_one()) == [1, 1]


@pytest.mark.parametrize(("bad", "error"), [(-1.0, ZeroDivisionError), (-2.0, ArithmeticError)])
def test_a_row_that_fails_fails_alone(bad: float, error: type[Exception]) -> None:
    """The others of its turn are answered."""
    first, second, third = asyncio.run(_together(_Model(), 1.0, bad, 3.0))
    assert (first["twice"], third["twice"]) == (2.0, 6.0)
    assert isinstance(second, error)


def test_rows_of_another_shape_harm_nobody() -> None:
    """What can't be laid together is computed one by one."""

    async def both() -> list[Any]:
        turn = Turn(_Model())
        return await asyncio.gather(turn.run(_row(1.0)), turn.run(np.array([[1.0, 2.0]])))

    assert [answer["twice"] for answer in asyncio.run(both())] == [2.0, 2.0]


def test_a_caller_who_went_takes_nobody_along() -> None:
    """A request that is cancelled while it waits leaves the others their answers."""

    async def leaving() -> Any:
        turn = Turn(_Model())
        gone, stays = (asyncio.ensure_future(turn.run(_row(n))) for n in (1.0, 2.0))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(leaving())["twice"] == 4.0


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0]])
def test_an_answer_of_another_length_is_a_failure(values: list[float]) -> None:
    """A model that does not answer row by row is never taken at its word."""
    with pytest.raises(ValueError, match="rows"):
        spread({"a": np.array(values)}, 2)
