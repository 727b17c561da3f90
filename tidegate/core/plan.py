"""What `rollout.yaml` says, as values: steps, checks and budgets of one model's rollout."""

from __future__ import annotations

from typing import Literal

import msgspec


class Seconds(float):
    """A duration; written `30s`, `5m`, `2h` or `1d`."""


class Limit(float):
    """What a check holds its metric to: a Ratio or Milliseconds, by how it is written."""


class Ratio(Limit):
    """A share of one; written `1%` or `0.01`."""


class Milliseconds(Limit):
    """A latency; written `200ms` or `1.5s`."""


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Base: immutable, camelCase on paper, unknown keys refused."""


class Pause(_Spec, frozen=True):
    """How long a step is held at least, and how many candidate requests it must see."""

    duration: Seconds = Seconds(0)
    min_requests: int = 0


class Step(_Spec, frozen=True):
    """One weight (percent of the model's requests) and what must happen there."""

    set_weight: int
    pause: Pause = Pause()

    def __post_init__(self) -> None:
        if not 0 < self.set_weight <= 100:
            raise ValueError(f"setWeight must be from 1 to 100, not {self.set_weight}")
        if self.pause.min_requests < 0:
            raise ValueError("minRequests must not be negative")


class AgainstStable(_Spec, frozen=True):
    """How much worse than stable is still accepted: 25% means 1.25 times."""

    tolerance: Ratio

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ValueError("tolerance must not be negative")


class Check(_Spec, frozen=True):
    """One objective: an absolute limit and, if `againstStable` is given, one relative to stable.

    `limit` is a ratio for `error-rate` and milliseconds at `quantile` for `latency`.
    """

    name: str
    metric: Literal["error-rate", "latency"]
    limit: Limit
    quantile: float = 0.99
    against_stable: AgainstStable | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.quantile < 1:
            raise ValueError(f"quantile must be in [0.5, 1), not {self.quantile}")
        if self.metric == "latency" and not (isinstance(self.limit, Milliseconds) and self.limit > 0):
            raise ValueError("a latency's limit is written like 200ms")
        if self.metric == "error-rate" and not (isinstance(self.limit, Ratio) and 0 < self.limit < 1):
            raise ValueError("an error rate's limit is written like 1%, above 0% and below 100%")

    @property
    def slow_share(self) -> float:
        """The share of answers that may be slower than a latency's limit: 1% at p99."""
        return round(1 - self.quantile, 12)


class Plan(_Spec, frozen=True):
    """How one model's release is rolled out in one environment."""

    strategy: Literal["canary"] = "canary"
    alpha: float = 0.01
    steps: tuple[Step, ...] = ()
    checks: tuple[Check, ...] = ()
    interval: Seconds = Seconds(1)
    initial_delay: Seconds = Seconds(0)
    progress_deadline: Seconds = Seconds(7200)
    scale_down_delay: Seconds = Seconds(600)
    required_soak_time: Seconds = Seconds(0)
    consecutive_error_limit: int = 30
    on_inconclusive: Literal["rollback", "promote", "hold"] = "rollback"
    on_no_data: Literal["hold", "rollback"] = "hold"

    def __post_init__(self) -> None:
        weights = [step.set_weight for step in self.steps]
        if weights != sorted(set(weights)):
            raise ValueError(f"steps must rise, each setWeight above the one before, not {weights}")
        if not 0 < self.alpha <= 0.5:
            raise ValueError(f"alpha must be in (0, 0.5], not {self.alpha}")
        names = [check.name for check in self.checks]
        if len(set(names)) != len(names):
            raise ValueError(f"each check needs a name of its own, not {names}")
        if self.interval <= 0:
            raise ValueError("interval must be positive")
