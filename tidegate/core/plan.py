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
    """How long a step is held at least, and how many candidate requests it must see.

    An `indefinite` one lasts until a person says `tidegate resume`.
    """

    duration: Seconds = Seconds(0)
    min_requests: int = 0
    indefinite: bool = False

    def __post_init__(self) -> None:
        if self.min_requests < 0:
            raise ValueError("minRequests must not be negative")


class Step(_Spec, frozen=True):
    """One weight (percent of the model's requests) and what must happen there.

    With `gate: manual` the weight is given only after `tidegate approve`.
    """

    set_weight: int
    pause: Pause = Pause()
    gate: Literal["auto", "manual"] = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.set_weight <= 100:
            raise ValueError(f"setWeight must be from 0 to 100, not {self.set_weight}")


class Mirror(_Spec, frozen=True):
    """The share of requests that the candidate gets a copy of; its answers never reach a user."""

    percent: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise ValueError(f"percent must be from 1 to 100, not {self.percent}")


class Key(_Spec, frozen=True):
    """What of a request tells one user from another: a header, or a cookie."""

    header: str = ""
    cookie: str = ""

    def __post_init__(self) -> None:
        if bool(self.header) == bool(self.cookie):
            raise ValueError("name either a header or a cookie")


class Match(_Spec, frozen=True):
    """Requests that go to the candidate whatever its weight: those with this header or cookie.

    Without a `value` it is enough that it is there. They are not counted by any check.
    """

    header: str = ""
    cookie: str = ""
    value: str = ""

    def __post_init__(self) -> None:
        if bool(self.header) == bool(self.cookie):
            raise ValueError("name either a header or a cookie")


class AbTest(_Spec, frozen=True):
    """An experiment: users assigned for good, an outcome that arrives later, a planned size.

    `baseline` is the outcome's rate expected of stable and `minimumEffect` the difference (absolute) that
    is worth finding with probability `power`; the sample size follows. A unit whose outcome did not arrive
    within `window` counts as 0; without a window only outcomes that arrived count. After `horizon` the
    test is over whatever was found.
    """

    unit: Key
    outcome: str
    baseline: Ratio
    minimum_effect: Ratio
    better: Literal["higher", "lower"] = "higher"
    split: int = 50
    power: float = 0.8
    window: Seconds | None = None
    horizon: Seconds = Seconds(14 * 86400)

    def __post_init__(self) -> None:
        if not 0 < self.split < 100:
            raise ValueError(f"split must be from 1 to 99, not {self.split}")
        if not 0.5 <= self.power < 1:
            raise ValueError(f"power must be in [0.5, 1), not {self.power}")
        if not (0 < self.baseline < 1 and 0 < self.minimum_effect < 1):
            raise ValueError("baseline and minimumEffect must lie between 0% and 100%")


class Bandit(_Spec, frozen=True):
    """Thompson sampling on a delayed reward, over stable, the candidate and further `arms` (release ids).

    Each `interval` the weights follow the probability of being the best, none below `floor` percent, none
    moved by more than `maxChange` points. It is over when one arm is the best with `confidence`, or after
    `horizon`.
    """

    reward: str
    arms: tuple[str, ...] = ()
    floor: int = 5
    max_change: int = 20
    interval: Seconds = Seconds(60)
    window: Seconds | None = None
    horizon: Seconds = Seconds(7 * 86400)
    confidence: float = 0.95
    min_rewards: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.floor * (2 + len(self.arms)) <= 100:
            raise ValueError(f"floor {self.floor} is too much for {2 + len(self.arms)} arms")
        if not 0 < self.max_change <= 100:
            raise ValueError(f"maxChange must be from 1 to 100, not {self.max_change}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must be in (0.5, 1), not {self.confidence}")
        if len(set(self.arms)) != len(self.arms):
            raise ValueError("each arm must be named once")


class AgainstStable(_Spec, frozen=True):
    """How much worse than stable is still accepted: 25% means 1.25 times."""

    tolerance: Ratio

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ValueError("tolerance must not be negative")


Metric = Literal[
    "error-rate",
    "latency",
    "prediction-drift",
    "missing-features",
    "sample-ratio",
    "disagreement",
    "score-difference",
    "outcome",
    "prometheus",
]


class Query(_Spec, frozen=True):
    """A ratio from Prometheus: two PromQL expressions of counters, `{{release}}` and `{{model}}` filled in.

    Both are read as they stand, never as a rate: what is judged are the counts that came between two looks.
    """

    events: str
    total: str


class FailureLimit(_Spec, frozen=True):
    """A plain limit beside the evidence: more than `count` windows over the check's limit fail it."""

    count: int
    window: Seconds = Seconds(60)


class Check(_Spec, frozen=True):
    """One objective: an absolute limit and, if `againstStable` is given, one relative to stable.

    | metric | what is counted | limit |
    | --- | --- | --- |
    | error-rate | requests that ended in a 5xx | share |
    | latency | answers slower than `limit`, at `quantile` | milliseconds |
    | prediction-drift | distance of the mean score from stable's (`distribution`: largest gap) | score |
    | missing-features | predictions with a feature missing | share |
    | sample-ratio | the candidate's share of requests against its weight; needs no limit | – |
    | disagreement | mirrored pairs that decide otherwise | share |
    | score-difference | mirrored pairs whose scores differ by more than `difference` | share |
    | outcome | `outcome`s that arrived as 1 (as 0 where higher is `better`) | share |
    | prometheus | `query` | share |
    """

    name: str
    metric: Metric
    limit: Limit | None = None
    quantile: float = 0.99
    against_stable: AgainstStable | None = None
    dry_run: bool = False
    distribution: Ratio | None = None
    difference: float | None = None
    outcome: str = ""
    better: Literal["higher", "lower"] = "lower"
    query: Query | None = None
    failure_limit: FailureLimit | None = None

    def __post_init__(self) -> None:
        if not 0.5 <= self.quantile < 1:
            raise ValueError(f"quantile must be in [0.5, 1), not {self.quantile}")
        limit = self.limit
        if self.metric == "latency" and not (isinstance(limit, Milliseconds) and limit > 0):
            raise ValueError("a latency's limit is written like 200ms")
        if self.metric == "sample-ratio":
            if limit is not None:
                raise ValueError("a sample-ratio needs no limit: it is the weight")
        elif self.metric != "latency" and not (isinstance(limit, Ratio) and 0 < limit < 1):
            what = "an error rate" if self.metric == "error-rate" else f"the limit of {self.metric}"
            tail = "'s limit is written like 1%" if self.metric == "error-rate" else " is written like 1%"
            raise ValueError(f"{what}{tail}, above 0% and below 100%")
        _applicable(self)

    @property
    def ceiling(self) -> float:
        """The limit as a number; 0 where there is none."""
        return float(self.limit or 0)

    @property
    def slow_share(self) -> float:
        """The share of answers that may be slower than a latency's limit: 1% at p99."""
        return round(1 - self.quantile, 12)


_OWN_OF_METRIC: dict[str, tuple[str, ...]] = {
    "distribution": ("prediction-drift",),
    "difference": ("score-difference",),
    "outcome": ("outcome",),
    "query": ("prometheus",),
    "failure_limit": ("error-rate", "latency", "missing-features", "outcome", "prometheus"),
    "against_stable": ("error-rate", "latency", "missing-features", "outcome", "prometheus"),
}
_NEEDED_BY_METRIC = {"score-difference": "difference", "outcome": "outcome", "prometheus": "query"}


def _applicable(check: Check) -> None:
    """Raise ValueError for a setting that means nothing beside this metric, or one that it lacks."""
    for name, metrics in _OWN_OF_METRIC.items():
        if getattr(check, name) not in (None, "") and check.metric not in metrics:
            raise ValueError(
                f"{_camel(name)} means nothing to {check.metric}; it belongs to {', '.join(metrics)}"
            )
    needed = _NEEDED_BY_METRIC.get(check.metric)
    if needed and getattr(check, needed) in (None, ""):
        raise ValueError(f"{check.metric} needs `{needed}`")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


Strategy = Literal["canary", "blueGreen", "shadow", "abTest", "bandit"]


class Plan(_Spec, frozen=True):
    """How one model's release is rolled out in one environment.

    `sequence` is several strategies one after the other, each laid over what is said beside it.
    """

    strategy: Strategy = "canary"
    alpha: float = 0.01
    steps: tuple[Step, ...] = ()
    step_weight: int | None = None
    max_weight: int | None = None
    mirror: Mirror | None = None
    pause: Pause | None = None
    auto_promotion: bool = False
    baseline: bool = False
    session_affinity: Key | None = None
    match: tuple[Match, ...] = ()
    ab_test: AbTest | None = None
    bandit: Bandit | None = None
    sequence: tuple[Plan, ...] = ()
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
        _fits(self)

    @property
    def stages(self) -> tuple[Plan, ...]:
        """The strategies that a rollout goes through, each a plan of its own."""
        return self.sequence or (self,)


# Which strategies a setting means something to; one that does not apply is an error, never ignored.
_OWN_OF_STRATEGY: dict[str, tuple[str, ...]] = {
    "steps": ("canary", "blueGreen"),
    "step_weight": ("canary",),
    "max_weight": ("canary",),
    "mirror": ("blueGreen", "shadow"),
    "auto_promotion": ("blueGreen",),
    "baseline": ("canary",),
    "session_affinity": ("canary", "blueGreen"),
    "ab_test": ("abTest",),
    "bandit": ("bandit",),
}
_NEEDED_BY_STRATEGY = {"shadow": "mirror", "abTest": "ab_test", "bandit": "bandit"}


def _fits(plan: Plan) -> None:
    """Raise ValueError for settings that this strategy does not know or lacks, or that contradict."""
    if plan.sequence:
        if any(stage.sequence for stage in plan.sequence):
            raise ValueError("a sequence holds strategies, not further sequences")
        return
    for name, strategies in _OWN_OF_STRATEGY.items():
        if getattr(plan, name) not in (None, (), False) and plan.strategy not in strategies:
            text = f"{_camel(name)} means nothing to strategy {plan.strategy}"
            raise ValueError(f"{text}; it belongs to {' and '.join(strategies)}")
    needed = _NEEDED_BY_STRATEGY.get(plan.strategy)
    if needed and getattr(plan, needed) is None:
        raise ValueError(f"strategy {plan.strategy} needs `{_camel(needed)}`")
    if plan.step_weight is not None and (plan.steps or not 0 < plan.step_weight <= 100):
        raise ValueError("stepWeight is a percentage, and takes the place of `steps`")
    if plan.step_weight is not None and plan.max_weight is None:
        raise ValueError("stepWeight needs `maxWeight`: where to stop")
    generated = (
        plan.step_weight is not None or plan.mirror is not None or plan.strategy in ("abTest", "bandit")
    )
    if plan.pause is not None and not generated:
        raise ValueError("pause beside `steps` means nothing: each step has its own")
    most = max((step.set_weight for step in plan.steps), default=0)
    if plan.max_weight is not None and (not 0 < plan.max_weight <= 100 or most > plan.max_weight):
        raise ValueError(f"no setWeight may be above maxWeight ({plan.max_weight})")
    if plan.baseline and any(50 < step.set_weight < 100 for step in plan.steps):
        raise ValueError("a baseline takes as much as the candidate: no setWeight between 50 and 100")
    metrics = {check.metric for check in plan.checks}
    if plan.strategy in ("canary", "abTest", "bandit") and metrics & {"disagreement", "score-difference"}:
        raise ValueError(
            "disagreement and score-difference compare mirrored requests: use shadow or blueGreen"
        )
