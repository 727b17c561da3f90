"""What `rollout.yaml` says, as values: steps, checks and budgets of one model's rollout."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from tidegate.core.keys import key_fault


class Seconds(float):
    """A duration; written `30s`, `5m`, `2h` or `1d`."""


class Limit(float):
    """What a check holds its metric to: a Ratio or Milliseconds, by how it is written."""


class Ratio(Limit):
    """A share of one; written `1%` or `0.01`."""


class Milliseconds(Limit):
    """A latency; written `200ms` or `1.5s`."""


def _doc(text: str) -> msgspec.Meta:
    """Document a field: it is what `tidegate schema rollout` says of it."""
    return msgspec.Meta(description=text)


def _default(value: object) -> Any:
    """Give a field a default that JSON has no form of; the schema shows it as it is written."""
    return msgspec.field(default_factory=lambda: value)


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Base: immutable, camelCase on paper, unknown keys refused."""


class Pause(_Spec, frozen=True):
    """What must happen at a step before the next."""

    duration: Annotated[Seconds, _doc("How long the step is held at least.")] = _default(Seconds(0))
    min_requests: Annotated[int, _doc("Requests that the candidate must have seen there.")] = 0
    indefinite: Annotated[bool, _doc("Held until a person says `tidegate resume`.")] = False

    def __post_init__(self) -> None:
        if self.min_requests < 0:
            raise ValueError("minRequests must not be negative")


class Step(_Spec, frozen=True):
    """One weight (percent of the model's requests) and what must happen there."""

    set_weight: Annotated[int, _doc("Percent of the requests that the candidate gets.")]
    pause: Annotated[Pause, _doc("What must happen before the next step.")] = _default(Pause())
    gate: Annotated[
        Literal["auto", "manual"], _doc("`manual`: the weight is given only after `tidegate approve`.")
    ] = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.set_weight <= 100:
            raise ValueError(f"setWeight must be from 0 to 100, not {self.set_weight}")


class Mirror(_Spec, frozen=True):
    """The share of requests that the candidate gets a copy of; its answers never reach a user."""

    percent: Annotated[int, _doc("Percent of the requests that the candidate gets a copy of.")] = 100

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise ValueError(f"percent must be from 1 to 100, not {self.percent}")


class Key(_Spec, frozen=True):
    """What of a request tells one user from another: a header, or a cookie."""

    header: Annotated[str, _doc("The header that holds it.")] = ""
    cookie: Annotated[str, _doc("The cookie that holds it.")] = ""

    def __post_init__(self) -> None:
        if fault := key_fault(self.header, self.cookie):
            raise ValueError(fault)


class Match(_Spec, frozen=True):
    """Requests that go to the candidate whatever its weight: those with this header or cookie.

    Without a `value` it is enough that it is there. They are not counted by any check.
    """

    header: Annotated[str, _doc("A header that the request must have.")] = ""
    cookie: Annotated[str, _doc("A cookie that the request must have.")] = ""
    value: Annotated[str, _doc("What it must say; empty: anything.")] = ""

    def __post_init__(self) -> None:
        if fault := key_fault(self.header, self.cookie, self.value):
            raise ValueError(fault)


class AbTest(_Spec, frozen=True):
    """An experiment: users assigned for good, an outcome that arrives later, a planned size."""

    unit: Annotated[Key, _doc("Who is assigned, for good: a user, by a header or a cookie.")]
    outcome: Annotated[str, _doc("The outcome's name, as `tidegate outcome --name` says it.")]
    baseline: Annotated[
        Ratio, _doc("The outcome's rate that is expected of stable; the planned size follows from it.")
    ]
    minimum_effect: Annotated[Ratio, _doc("The difference, absolute, that is worth finding.")]
    better: Annotated[
        Literal["higher", "lower"], _doc("Whether a higher or a lower rate is the better one.")
    ] = "higher"
    split: Annotated[int, _doc("Percent of the units that the candidate gets.")] = 50
    power: Annotated[
        float, _doc("The chance of finding a difference of minimumEffect at the planned size.")
    ] = 0.8
    window: Annotated[
        Seconds | None,
        _doc(
            "How long an outcome may take; then a missing one is 0. Without it only those that arrived count."
        ),
    ] = None
    horizon: Annotated[Seconds, _doc("The test is over after this, whatever was found.")] = _default(
        Seconds(14 * 86400)
    )

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

    reward: Annotated[str, _doc("The reward's name: an outcome of 0 or 1.")]
    arms: Annotated[tuple[str, ...], _doc("Further releases (ids) beside stable and the candidate.")] = ()
    floor: Annotated[int, _doc("Percent that each arm keeps at least.")] = 5
    max_change: Annotated[int, _doc("Points that a weight may move in one interval.")] = 20
    interval: Annotated[Seconds, _doc("How often the weights are computed anew.")] = _default(Seconds(60))
    window: Annotated[Seconds | None, _doc("How long a reward may take; then a missing one counts as 0.")] = (
        None
    )
    horizon: Annotated[Seconds, _doc("It is over after this, whatever was found.")] = _default(
        Seconds(7 * 86400)
    )
    confidence: Annotated[float, _doc("The probability of being the best that ends it.")] = 0.95
    min_rewards: Annotated[int, _doc("Rewards that each arm must have before it may end.")] = 100
    seed: Annotated[int, _doc("Seed of the draws.")] = 0

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

    tolerance: Annotated[Ratio, _doc("How much worse than stable is still accepted: 25% means 1.25 times.")]

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

    events: Annotated[str, _doc("PromQL of the counter of events.")]
    total: Annotated[str, _doc("PromQL of the counter of trials.")]


class FailureLimit(_Spec, frozen=True):
    """A plain limit beside the evidence: more than `count` windows over the check's limit fail it."""

    count: Annotated[int, _doc("So many windows over the limit are accepted.")]
    window: Annotated[Seconds, _doc("The length of one window.")] = _default(Seconds(60))

    def __post_init__(self) -> None:
        if self.count < 0 or not self.window > 0:
            raise ValueError("failureLimit needs a count of 0 or more, and a window")


class Check(_Spec, frozen=True):
    """One objective: an absolute limit and, if `againstStable` is given, one relative to stable.

    | metric | what is counted | limit |
    | --- | --- | --- |
    | error-rate | requests that ended in a 5xx or a 429 | share |
    | latency | answers slower than `limit`, at `quantile` | milliseconds |
    | prediction-drift | how far the mean score moved (`distribution`: largest gap) | share of its range |
    | missing-features | predictions with a feature missing | share |
    | sample-ratio | the candidate's share of requests against its weight; needs no limit | – |
    | disagreement | mirrored pairs whose decision is another | share |
    | score-difference | mirrored pairs whose scores differ by more than `difference` | share |
    | outcome | `outcome`s that arrived as 1 (as 0 where higher is `better`) | share |
    | prometheus | `query` | share |

    With `burst` the absolute part counts each stretch of that length as one: events that come together
    for up to so long are no more evidence than one rate.
    """

    name: Annotated[str, _doc("What it is called wherever it is shown; each its own.")]
    metric: Annotated[Metric, _doc("What is counted; the table in docs/checks.md says what and how.")]
    limit: Annotated[
        Limit | None,
        _doc(
            "What it is held to: a share such as 1%, for latency a time such as 200ms; none for sample-ratio."
        ),
    ] = None
    quantile: Annotated[float, _doc("Of latency: the share of answers that must be faster.")] = 0.99
    against_stable: Annotated[
        AgainstStable | None, _doc("A second limit, relative to stable or to its fresh copy.")
    ] = None
    dry_run: Annotated[bool, _doc("Shown, and decides nothing.")] = False
    distribution: Annotated[
        Ratio | None, _doc("Of prediction-drift: the largest gap between both cumulative distributions.")
    ] = None
    difference: Annotated[float | None, _doc("Of score-difference: what two scores may differ by.")] = None
    outcome: Annotated[str, _doc("The outcome's name.")] = ""
    better: Annotated[
        Literal["higher", "lower"], _doc("Of outcome: with `higher`, the limit is the least rate.")
    ] = "lower"
    query: Annotated[Query | None, _doc("Of prometheus: what to ask.")] = None
    failure_limit: Annotated[FailureLimit | None, _doc("A plain limit beside the evidence.")] = None
    burst: Annotated[
        Seconds | None, _doc("How long events may come together: each stretch of it counts as one.")
    ] = None

    def __post_init__(self) -> None:
        if not 0.5 <= self.quantile < 1:
            raise ValueError(f"quantile must be in [0.5, 1), not {self.quantile}")
        if self.burst is not None and self.burst <= 0:
            raise ValueError(f"burst must be positive, not {self.burst:g}s")
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
    "burst": ("error-rate", "latency", "missing-features", "outcome", "prometheus"),
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

    strategy: Annotated[Strategy, _doc("How traffic moves: canary, blueGreen, shadow, abTest or bandit.")] = (
        "canary"
    )
    alpha: Annotated[
        float, _doc("The chance that a healthy release is ever rolled back, over all checks and looks.")
    ] = 0.01
    steps: Annotated[
        tuple[Step, ...], _doc("The weights of a canary, or of a gradual blue-green switch.")
    ] = ()
    step_weight: Annotated[
        int | None, _doc("Instead of steps: so many points at a time, up to maxWeight.")
    ] = None
    max_weight: Annotated[int | None, _doc("The most that a canary gets.")] = None
    mirror: Annotated[
        Mirror | None, _doc("The copy of requests in a shadow, or in the test phase of blue-green.")
    ] = None
    pause: Annotated[
        Pause | None, _doc("The pause of the mirrored phase, of each stepWeight, or of an experiment.")
    ] = None
    auto_promotion: Annotated[bool, _doc("The blue-green switch needs no `tidegate approve`.")] = False
    baseline: Annotated[bool, _doc("Compare with a fresh copy of stable at the candidate's weight.")] = False
    session_affinity: Annotated[Key | None, _doc("What keeps a caller on one side.")] = None
    match: Annotated[
        tuple[Match, ...], _doc("Requests that go to the candidate before it has any weight, uncounted.")
    ] = ()
    ab_test: Annotated[AbTest | None, _doc("The experiment of strategy abTest.")] = None
    bandit: Annotated[Bandit | None, _doc("The arms and the reward of strategy bandit.")] = None
    sequence: Annotated[
        tuple[Plan, ...],
        _doc("Several strategies one after the other, each laid over what is said beside this."),
    ] = ()
    checks: Annotated[tuple[Check, ...], _doc("The objectives.")] = ()
    interval: Annotated[Seconds, _doc("Time between two looks.")] = _default(Seconds(1))
    initial_delay: Annotated[Seconds, _doc("Requests of so long after the first weight are not counted.")] = (
        _default(Seconds(0))
    )
    progress_deadline: Annotated[
        Seconds,
        _doc("After so long without an end, onInconclusive decides. Waiting for a person does not count."),
    ] = _default(Seconds(7200))
    scale_down_delay: Annotated[Seconds, _doc("How long the release before stays warm.")] = _default(
        Seconds(600)
    )
    required_soak_time: Annotated[
        Seconds, _doc("How long a promoted release is watched before it is Healthy.")
    ] = _default(Seconds(0))
    consecutive_error_limit: Annotated[int, _doc("Looks in a row that may fail before onNoData decides.")] = (
        30
    )
    on_inconclusive: Annotated[
        Literal["rollback", "promote", "hold"], _doc("What happens at the deadline when nothing is proven.")
    ] = "rollback"
    on_no_data: Annotated[Literal["hold", "rollback"], _doc("What happens when nothing can be measured.")] = (
        "hold"
    )

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


PAIRED = frozenset({"disagreement", "score-difference"})  # counted while requests are mirrored, and only then

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


def _fits_sequence(plan: Plan) -> None:
    if any(stage.sequence for stage in plan.sequence):
        raise ValueError("a sequence holds strategies, not further sequences")
    beside = [name for name in _OWN_OF_STRATEGY if getattr(plan, name) not in (None, (), False)]
    if beside or plan.strategy != "canary":
        named = _camel(beside[0]) if beside else "strategy"
        raise ValueError(f"{named} belongs into an item of the sequence, not beside it")


def _fits(plan: Plan) -> None:
    """Raise ValueError for settings that this strategy does not know or lacks, or that contradict."""
    if plan.sequence:
        _fits_sequence(plan)
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
    compared = sorted({check.metric for check in plan.checks} & PAIRED)
    if compared and plan.mirror is None:
        text = f"{' and '.join(compared)} compare mirrored requests"
        raise ValueError(f"{text}: use shadow, or blueGreen with `mirror`")
