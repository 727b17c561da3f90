"""The agent's own time: it goes on evenly, whatever is done to this machine's clock, and never back.

What waits (pauses, deadlines, retries, the lease) is measured by it; only what people read, events and
commits, says what the clock says.
"""

from __future__ import annotations

from collections.abc import Collection

from tidegate.core.state import ModelState
from tidegate.ports import Clock


class Timing:
    """A Clock: seconds since the epoch as another one said at the start, and what has passed since."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = clock.now() - clock.steady()

    def now(self) -> float:
        """Return the agent's time."""
        return self.steady() + self._ahead

    def steady(self) -> float:
        """Return what nobody can set."""
        return self._clock.steady()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._clock.sleep(seconds)

    def go_on(self, states: Collection[ModelState]) -> None:
        """Begin where the last look was: a clock that was set back meanwhile would stop every pause."""
        known = [s.rollout for s in states if s.rollout] + [r for s in states for r in s.unwritten]
        latest = max((max(r.started, r.entered or 0.0, r.looked, r.ended or 0.0) for r in known), default=0.0)
        self._ahead += max(0.0, latest - self.now())
