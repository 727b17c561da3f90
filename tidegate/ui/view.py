"""A status document as the values that the terminal and the pages draw. Pure; what is missing is left out.

Documents come from agents of several ages and may lack any key, so reading them is tolerant here, once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tidegate.ui.words import (
    duration,
    items_of,
    mapping_of,
    mappings_of,
    number_of,
    percent_of,
    short,
    text_of,
)

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
    return tuple(_plane(raw, now) for raw in mappings_of(document.get("planes")))


def _plane(raw: Mapping[str, Any], now: float) -> PlaneView:
    name = text_of(raw.get("plane"))
    found: dict[str, list[LineView]] = {}
    for model, lines in mapping_of(raw.get("models")).items():
        for environment, line in mapping_of(lines).items():
            made = _line(name, text_of(environment), text_of(model), mapping_of(line), now)
            found.setdefault(made.environment, []).append(made)
    order = sorted(found, key=lambda e: (ENVIRONMENTS.index(e) if e in ENVIRONMENTS else 9, e))
    events = [
        EventView(
            number_of(e.get("at")) or 0.0, *(text_of(e.get(k)) for k in ("kind", "model", "release", "text"))
        )
        for e in mappings_of(raw.get("events"))
    ]
    return PlaneView(
        name,
        text_of(raw.get("url")),
        text_of(raw.get("commit"))[:7],
        raw.get("agent") == "running",
        tuple((e, tuple(sorted(found[e], key=lambda line: (not line.live, line.model)))) for e in order),
        tuple(text_of(p) for p in items_of(raw.get("problems"))),
        tuple(events),
    )


def _line(plane: str, environment: str, model: str, raw: Mapping[str, Any], now: float) -> LineView:
    phase, step = text_of(raw.get("phase")).strip("-") or "nothing", number_of(raw.get("step"))
    live = phase in UNDER_WAY and raw.get("seen") is not None
    steps = _steps(raw, step, phase) if live else ()
    reason, waits, verb = text_of(raw.get("reason")), "", ""
    if reason.startswith("pause ") and number_of(raw.get("pause_until")) is not None:
        reason = ""  # told as the time that is left
    if live and phase == "Paused":
        verb = text_of(raw.get("waits"))
        waits = text_of(raw.get("paused")) or reason or f"for {verb or 'a person'}"
        verb = verb if verb in ("approve", "resume") else "approve" if "approv" in waits else "resume"
    return LineView(
        plane,
        environment,
        model,
        text_of(raw.get("release")),
        phase,
        _TONES.get(phase, "none"),
        "" if reason in waits else reason,
        _shares(raw, environment, live),
        steps,
        _progress(raw, step, steps) if live else "",
        _facts(raw, now) if live else (),
        waits,
        _offers(phase, environment, verb, live),
        tuple(_check(each) for each in mappings_of(raw.get("findings"))),
        text_of(raw.get("recording")),
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
    release, weight = text_of(raw.get("release")), percent_of(raw.get("weight"))
    if not release:
        return ()
    if not live:
        role = "rolled back" if raw.get("phase") == "RolledBack" else "stable"
        return (ShareView(role, release, weight),)
    mirror = number_of(mapping_of(raw.get("mirror")).get("percent", raw.get("mirror")))
    note = f"copies of {mirror:g}%, answers dropped" if mirror else ""
    arms = [_arm(arm) for arm in _arms(raw.get("arms"))]
    stable, taken = text_of(raw.get("stable")), weight + sum(arm.weight for arm in arms)
    rest = [ShareView("stable", stable, max(0, 100 - taken))] if stable else []
    return (ShareView("candidate", release, weight, note), *arms, *rest)


def _arms(raw: Any) -> list[Mapping[str, Any]]:
    if isinstance(raw, Mapping):
        return [{"release": release, "weight": weight} for release, weight in raw.items()]
    return mappings_of(raw)


def _arm(raw: Mapping[str, Any]) -> ShareView:
    release, out = text_of(raw.get("release")), text_of(raw.get("out"))
    role = "baseline" if release.endswith("-baseline") else "arm"
    return ShareView(role, release, percent_of(raw.get("weight")), f"out: {out}" if out else "")


def _steps(raw: Mapping[str, Any], at: float | None, phase: str) -> tuple[StepView, ...]:
    found: list[StepView] = []
    for number, step in enumerate(items_of(raw.get("steps"))):
        done = at is not None and (number < at or phase == "Verified")
        state: Literal["done", "now", "next"] = "done" if done else "now" if number == at else "next"
        found.append(StepView(_step_text(step), state))
    return tuple(found)


def _step_text(step: Any) -> str:
    if isinstance(step, Mapping):
        weight, mirror = number_of(step.get("weight", step.get("setWeight"))), number_of(step.get("mirror"))
        strategy = text_of(step.get("strategy"))
        word = {"abTest": "A/B ", "bandit": "bandit "}.get(strategy, "")
        text = f"mirror {mirror:g}%" if mirror and not weight else f"{word}{weight or 0:g}%"
        return f"{text} by hand" if step.get("manual") or step.get("gate") == "manual" else text
    number = number_of(step)
    return f"{number:g}%" if number is not None else text_of(step)


def _progress(raw: Mapping[str, Any], step: float | None, steps: Sequence[StepView]) -> str:
    told = [text_of(raw.get("strategy"))]
    if step is not None and step < 0:
        told.append("before its first step")
    elif step is not None:
        told.append(f"step {step + 1:g} of {len(steps)}" if steps else f"step {step + 1:g}")
    return ", ".join(part for part in told if part)


def _facts(raw: Mapping[str, Any], now: float) -> tuple[str, ...]:
    """Return what there is to know of a rollout under way, in short words."""
    seen, alpha = number_of(raw.get("seen")), number_of(raw.get("alpha"))
    pause, deadline = number_of(raw.get("pause_until")), number_of(raw.get("deadline"))
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
    log_evidence, threshold = number_of(raw.get("log_evidence")), number_of(raw.get("threshold"))
    fraction = None
    applicable = raw.get("applicable", True) and raw.get("verdict") != "ERROR"
    if log_evidence is not None and threshold is not None and threshold > 1 and applicable:
        fraction = min(1.0, max(0.0, log_evidence / math.log(threshold)))
    told = f"{short(log_evidence)}/{threshold:g}" if log_evidence is not None and threshold else ""
    return CheckView(
        text_of(raw.get("name")),
        text_of(raw.get("verdict")),
        text_of(raw.get("observed_text")),
        text_of(raw.get("limit_text")),
        text_of(raw.get("reason")),
        fraction,
        told if fraction is not None else "",
        bool(raw.get("dry_run")),
        bool(raw.get("against")),
    )
