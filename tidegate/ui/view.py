"""A status document as the values that the terminal and the pages draw. Pure; what is missing is left out.

Documents come from agents of several ages and may lack any key, so reading them is tolerant here, once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tidegate.core.telling import one_line

Tone = Literal["good", "bad", "warn", "live", "none"]
_TONES: dict[str, Tone] = {
    "Healthy": "good",
    "Verified": "good",
    "Progressing": "live",
    "Pending": "warn",
    "Paused": "warn",
    "RollingBack": "bad",
    "RolledBack": "bad",
    "Degraded": "bad",
}
UNDER_WAY = ("Pending", "Progressing", "Paused", "Verified", "RollingBack")
ENVIRONMENTS = ("staging", "canary", "production")


@dataclass(frozen=True)
class CheckView:
    """One check at the last look. `fraction` is the way to its threshold on a log scale, from 0 to 1."""

    name: str
    verdict: str
    observed: str
    limit: str
    reason: str
    fraction: float | None
    evidence: str  # e.g. `11/400`
    dry_run: bool = False
    against: bool = False

    @property
    def rate(self) -> str:
        """What was observed, without what the limit says too: `0.2%` of `0.2% over 200 ms`."""
        mine, over, theirs = self.observed.partition(" over ")
        return mine if over and self.limit.endswith(f"{over}{theirs}") else self.observed

    @property
    def told(self) -> bool:
        """True when the numbers say it all; else the reason has to."""
        return self.observed not in ("", "–") and self.fraction is not None


@dataclass(frozen=True)
class StepView:
    """One leg of a rollout, as a word, and where the rollout is: `done`, `now` or `next`."""

    text: str
    state: Literal["done", "now", "next"]


@dataclass(frozen=True)
class ShareView:
    """What a release gets: its role, and its percent of the requests (None: of copies only)."""

    role: str
    release: str
    weight: int
    note: str = ""


@dataclass(frozen=True)
class LineView:
    """One model in one environment."""

    plane: str
    environment: str
    model: str
    release: str
    phase: str
    tone: Tone
    reason: str
    shares: tuple[ShareView, ...]
    steps: tuple[StepView, ...]
    progress: str  # e.g. `canary, step 2 of 3`
    facts: tuple[str, ...]
    waits: str
    offers: tuple[str, ...]  # verbs that an operator may ask for now, the one that goes on first
    checks: tuple[CheckView, ...]
    recording: str
    live: bool

    @property
    def command(self) -> str:
        """The command that goes on, where a person is waited for; else nothing."""
        verb = self.offers[0] if self.waits and self.offers else ""
        return f"tidegate {verb} {self.environment} {self.model}" if verb else ""


@dataclass(frozen=True)
class EventView:
    """Something that happened."""

    at: float
    kind: str
    model: str
    release: str
    text: str


@dataclass(frozen=True)
class PlaneView:
    """One plane: where it answers, whether its agent runs, its lines by environment, problems and events."""

    name: str
    url: str
    commit: str
    agent: bool
    environments: tuple[tuple[str, tuple[LineView, ...]], ...]
    problems: tuple[str, ...]
    events: tuple[EventView, ...]

    @property
    def lines(self) -> tuple[LineView, ...]:
        """All lines."""
        return tuple(line for _, lines in self.environments for line in lines)


def planes(document: Mapping[str, Any], now: float) -> tuple[PlaneView, ...]:
    """Return the planes of a `seen.snapshot` document; `now` in seconds since the epoch."""
    return tuple(_plane(raw, now) for raw in _mappings(document.get("planes")))


def _plane(raw: Mapping[str, Any], now: float) -> PlaneView:
    name = _text(raw.get("plane"))
    found: dict[str, list[LineView]] = {}
    for model, lines in _mapping(raw.get("models")).items():
        for environment, line in _mapping(lines).items():
            made = _line(name, _text(environment), _text(model), _mapping(line), now)
            found.setdefault(made.environment, []).append(made)
    order = sorted(found, key=lambda e: (ENVIRONMENTS.index(e) if e in ENVIRONMENTS else 9, e))
    events = [
        EventView(
            _number(e.get("at")) or 0.0, *(_text(e.get(k)) for k in ("kind", "model", "release", "text"))
        )
        for e in _mappings(raw.get("events"))
    ]
    return PlaneView(
        name,
        _text(raw.get("url")),
        _text(raw.get("commit"))[:7],
        raw.get("agent") == "running",
        tuple((e, tuple(sorted(found[e], key=lambda line: (not line.live, line.model)))) for e in order),
        tuple(_text(p) for p in _items(raw.get("problems"))),
        tuple(events),
    )


def _line(plane: str, environment: str, model: str, raw: Mapping[str, Any], now: float) -> LineView:
    phase, step = _text(raw.get("phase")).strip("-") or "nothing", _number(raw.get("step"))
    live = phase in UNDER_WAY and raw.get("seen") is not None
    steps = _steps(raw, step, phase) if live else ()
    reason, waits, verb = _text(raw.get("reason")), "", ""
    if reason.startswith("pause ") and _number(raw.get("pause_until")) is not None:
        reason = ""  # told as the time that is left
    if live and phase == "Paused":
        verb = _text(raw.get("waits"))
        waits = _text(raw.get("paused")) or reason or f"for {verb or 'a person'}"
        verb = verb if verb in ("approve", "resume") else "approve" if "approv" in waits else "resume"
    return LineView(
        plane,
        environment,
        model,
        _text(raw.get("release")),
        phase,
        _TONES.get(phase, "none"),
        "" if reason in waits else reason,
        _shares(raw, environment, live),
        steps,
        _progress(raw, step, steps) if live else "",
        _facts(raw, now) if live else (),
        waits,
        _offers(phase, environment, verb, live),
        tuple(_check(each) for each in _mappings(raw.get("findings"))),
        _text(raw.get("recording")),
        live,
    )


def _offers(phase: str, environment: str, verb: str, live: bool) -> tuple[str, ...]:
    """Return what an operator may ask for; `verb` is what a paused rollout waits for."""
    if not live:
        return ("rollback",) if phase in ("Healthy", "Degraded") and environment != "canary" else ()
    if phase == "Paused":
        return (verb, "abort")
    return {"RollingBack": (), "Verified": ("rollback",)}.get(phase, ("pause", "abort"))


# ---------------------------------------------------------------- releases and steps
def _shares(raw: Mapping[str, Any], environment: str, live: bool) -> tuple[ShareView, ...]:
    release, weight = _text(raw.get("release")), _percent(raw.get("weight"))
    if not release:
        return ()
    if not live:
        role = "rolled back" if raw.get("phase") == "RolledBack" else "stable"
        return (ShareView(role, release, weight),)
    mirror = _number(_mapping(raw.get("mirror")).get("percent", raw.get("mirror")))
    note = f"copies of {mirror:g}%, answers dropped" if mirror else ""
    arms = [_arm(arm) for arm in _arms(raw.get("arms"))]
    stable, taken = _text(raw.get("stable")), weight + sum(arm.weight for arm in arms)
    rest = [ShareView("stable", stable, max(0, 100 - taken))] if stable else []
    return (ShareView("candidate", release, weight, note), *arms, *rest)


def _arms(raw: Any) -> list[Mapping[str, Any]]:
    if isinstance(raw, Mapping):
        return [{"release": release, "weight": weight} for release, weight in raw.items()]
    return _mappings(raw)


def _arm(raw: Mapping[str, Any]) -> ShareView:
    release, out = _text(raw.get("release")), _text(raw.get("out"))
    role = "baseline" if release.endswith("-baseline") else "arm"
    return ShareView(role, release, _percent(raw.get("weight")), f"out: {out}" if out else "")


def _steps(raw: Mapping[str, Any], at: float | None, phase: str) -> tuple[StepView, ...]:
    found: list[StepView] = []
    for number, step in enumerate(_items(raw.get("steps"))):
        done = at is not None and (number < at or phase == "Verified")
        state: Literal["done", "now", "next"] = "done" if done else "now" if number == at else "next"
        found.append(StepView(_step_text(step), state))
    return tuple(found)


def _step_text(step: Any) -> str:
    if isinstance(step, Mapping):
        weight, mirror = _number(step.get("weight", step.get("setWeight"))), _number(step.get("mirror"))
        strategy = _text(step.get("strategy"))
        word = {"abTest": "A/B ", "bandit": "bandit "}.get(strategy, "")
        text = f"mirror {mirror:g}%" if mirror and not weight else f"{word}{weight or 0:g}%"
        return f"{text} by hand" if step.get("manual") or step.get("gate") == "manual" else text
    number = _number(step)
    return f"{number:g}%" if number is not None else _text(step)


def _progress(raw: Mapping[str, Any], step: float | None, steps: Sequence[StepView]) -> str:
    told = [_text(raw.get("strategy"))]
    if step is not None and step < 0:
        told.append("before its first step")
    elif step is not None:
        told.append(f"step {step + 1:g} of {len(steps)}" if steps else f"step {step + 1:g}")
    return ", ".join(part for part in told if part)


def _facts(raw: Mapping[str, Any], now: float) -> tuple[str, ...]:
    """Return what there is to know of a rollout under way, in short words."""
    seen, alpha = _number(raw.get("seen")), _number(raw.get("alpha"))
    pause, deadline = _number(raw.get("pause_until")), _number(raw.get("deadline"))
    facts = []
    if pause is not None and raw.get("phase") == "Progressing":
        facts.append(f"pause: {duration(pause - now)} left" if pause > now else "pause over")
    if seen is not None:
        facts.append(f"{seen:g} requests")
    if deadline is not None and raw.get("phase") in ("Pending", "Progressing"):
        late = deadline <= now
        facts.append(
            f"deadline {duration(now - deadline)} ago" if late else f"deadline in {duration(deadline - now)}"
        )
    if alpha is not None:
        facts.append(f"alpha {alpha:g}")
    return tuple(facts)


# ---------------------------------------------------------------- checks
def _check(raw: Mapping[str, Any]) -> CheckView:
    log_evidence, threshold = _number(raw.get("log_evidence")), _number(raw.get("threshold"))
    fraction = None
    applicable = raw.get("applicable", True) and raw.get("verdict") != "ERROR"
    if log_evidence is not None and threshold is not None and threshold > 1 and applicable:
        fraction = min(1.0, max(0.0, log_evidence / math.log(threshold)))
    told = f"{short(log_evidence)}/{threshold:g}" if log_evidence is not None and threshold else ""
    return CheckView(
        _text(raw.get("name")),
        _text(raw.get("verdict")),
        _text(raw.get("observed_text")),
        _text(raw.get("limit_text")),
        _text(raw.get("reason")),
        fraction,
        told if fraction is not None else "",
        bool(raw.get("dry_run")),
        bool(raw.get("against")),
    )


def short(log_evidence: float) -> str:
    """Return evidence in a few characters, from its natural logarithm: `0.02`, `11`, `1.4e5`, `1e300`."""
    tens = log_evidence / math.log(10)
    if tens >= 4:
        power = math.floor(tens)
        return f"{10 ** (tens - power):.1f}e{power}" if power < 100 else f"1e{min(power, 9999)}"
    value = math.exp(max(-13.8, log_evidence))
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}" if value >= 0.01 else "<0.01"


def duration(seconds: float) -> str:
    """Return a time span in at most two units: `12s`, `3m 12s`, `1h 02m`, `2d 3h`."""
    left = max(0, math.ceil(min(seconds, 1e9)))
    if left < 60:
        return f"{left}s"
    if left < 3600:
        return f"{left // 60}m {left % 60:02}s"
    if left < 86400:
        return f"{left // 3600}h {left % 3600 // 60:02}m"
    return f"{left // 86400}d {left % 86400 // 3600}h"


# ---------------------------------------------------------------- reading
def _mapping(raw: Any) -> Mapping[str, Any]:
    return raw if isinstance(raw, Mapping) else {}


def _items(raw: Any) -> Sequence[Any]:
    return raw if isinstance(raw, list | tuple) else ()


def _mappings(raw: Any) -> list[Mapping[str, Any]]:
    return [each for each in _items(raw) if isinstance(each, Mapping)]


def _text(raw: Any) -> str:
    return "" if raw is None else one_line(str(raw))


def _number(raw: Any) -> float | None:
    known = isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw)
    return raw if known else None


def _percent(raw: Any) -> int:
    return round(min(100.0, max(0.0, _number(raw) or 0.0)))


def join(parts: Iterable[str]) -> str:
    """Return what there is, side by side."""
    return " · ".join(part for part in parts if part)
