"""An event as a message for people: what happened, the numbers that decided, and what to do next. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Tone = Literal["good", "bad", "warn", "info"]
MOST = 1500  # characters of what an event says; a process's last words may be long
ENVIRONMENTS = ("staging", "canary", "production")


@dataclass(frozen=True)
class Message:
    """A title of one line, a body of a few, and the same numbers as `fields` for a machine."""

    title: str
    body: str
    tone: Tone = "info"
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kind:
    """How one kind of event is told: in the title, what was done about it, and the command that goes on."""

    title: str
    tone: Tone
    done: str
    next: str


_STATUS = "tidegate status"
KINDS = {
    "breach": _Kind(
        "{release} breached its objectives",
        "bad",
        "its weight goes to 0 at once, requests go to {stable}",
        "tidegate status --watch",
    ),
    "rolled-back": _Kind(
        "{release} was rolled back", "bad", "requests go to {stable}, and Git says so too", "{explain}"
    ),
    "reverted": _Kind("Git says what runs again", "info", "the line was put back by a commit", "{history}"),
    "weight-zero": _Kind("{release} has weight 0", "warn", "the router confirmed it", _STATUS),
    "verified": _Kind(
        "{release} is verified", "good", "every step passed; it keeps its weight", "tidegate pr list"
    ),
    "healthy": _Kind("{release} is healthy", "good", "it is what {environment} runs", "{history}"),
    "gave-up": _Kind(
        "could not go back from {release}", "bad", "it serves meanwhile; a person has to act", _STATUS
    ),
    "problem": _Kind("a problem", "warn", "it is tried again; traffic stays where it was", _STATUS),
    "aborted": _Kind(
        "{release} is being taken back", "warn", "a person asked; its weight goes to 0", _STATUS
    ),
    "resumed": _Kind("{release} goes on", "info", "a person said so", _STATUS),
    "approved": _Kind("{release} may go on", "good", "a person said so", _STATUS),
    "dropped": _Kind("{release} makes way", "info", "Git asks for another release", _STATUS),
    "removed": _Kind("{release} is taken away", "warn", "Git names no release any more", _STATUS),
    "experiment": _Kind("news of an experiment with {release}", "info", "", _STATUS),
    "mirror": _Kind("{release} gets another share of copies", "info", "the router is told", _STATUS),
    "paused": _Kind("{release} waits for a person", "warn", "its weight is held", "{resume}"),
    "weight": _Kind("{release} changes its weight", "info", "the router is told", _STATUS),
    "stage": _Kind("{release} goes on to its next strategy", "info", "its evidence begins anew", _STATUS),
    "arm-out": _Kind("{release} leaves the experiment", "warn", "the others go on without it", _STATUS),
    "drift": _Kind("the router was changed by hand", "warn", "it is put right", _STATUS),
    "adopted": _Kind("{release} was found serving", "warn", "nothing is remembered of it", _STATUS),
    "load": _Kind("{release} is being loaded", "info", "it is started, without traffic", "tidegate releases"),
    "loaded": _Kind("{release} is loaded", "good", "it is kept up without traffic", "tidegate releases"),
    "unloaded": _Kind("{release} is unloaded", "info", "its processes are stopped", "tidegate releases"),
    "switched": _Kind("{release} took over", "warn", "a person asked, and Git says so too", "{history}"),
    "started": _Kind("a rollout of {release} begins", "info", "its workload is started", _STATUS),
}
_OTHER = _Kind("{kind}", "info", "", _STATUS)


def message(kind: str, plane: str, model: str, release: str, text: str, data: Mapping[str, Any]) -> Message:
    """Return the message of one event (the fields of ports.Event); what is not known is left out."""
    told, known = KINDS.get(kind, _OTHER), _known(kind, plane, model, release, text, data)
    title = _fill(told.title, known)
    where = "/".join(part for part in (known["environment"] or plane, model) if part)
    numbers = _numbers(data)
    lines = [
        ("release", " of ".join(part for part in (release, model) if part)),
        ("plane", plane),
        *numbers,
        ("done", _fill(told.done, known)),
        ("next", _fill(told.next, known)),
    ]
    said = [(name, one_line(value)) for name, value in lines if value]
    body = "\n".join([lines_of(text)[:MOST], "", *(f"{name:<9} {value}" for name, value in said)]).strip()
    fields = {"kind": kind, "plane": plane, "model": model, "environment": known["environment"], **dict(said)}
    fields["release"] = release
    return Message(one_line(f"{where}: {title}" if where else title), body, told.tone, _named(fields))


def _known(
    kind: str, plane: str, model: str, release: str, text: str, data: Mapping[str, Any]
) -> dict[str, str]:
    """Return what titles, deeds and commands are filled in with; most texts begin with their environment."""
    begins = text.partition(":")[0]
    named = str(data.get("environment") or (begins if begins in ENVIRONMENTS else ""))
    environment = named or (plane if plane in ENVIRONMENTS else "")
    history = f"tidegate history --env {environment}" if environment else _STATUS
    recording = str(data.get("recording") or "")
    waits = "approve" if "approve" in f"{data.get('waits', '')} {text}" else "resume"
    return {
        "kind": kind,
        "release": release or "a release",
        "stable": str(data.get("stable") or "the release before it"),
        "environment": environment,
        "history": history,
        "explain": f"tidegate explain {recording}" if recording else history,
        "resume": f"tidegate {waits} {environment} {model}" if environment and model else _STATUS,
    }


def _fill(template: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], ""), template)


def _numbers(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, number) of what decided: the failed check's, or those that the event names itself."""
    finding = _deciding(data.get("findings"))
    observed = data.get("observed") or finding.get("observed_text")
    limit = data.get("limit") or finding.get("limit_text")
    check = finding.get("name") if finding else None
    evidence = ""
    if finding and isinstance(finding.get("evidence"), int | float):
        evidence = f"{finding['evidence']:.3g} of {finding.get('threshold') or 0:.3g} that decide"
    weight = data.get("weight")
    checks = "" if finding else "; ".join(_checks(data.get("findings")))
    found = [
        ("verdict", data.get("verdict")),
        ("check", check),
        ("observed", observed),
        ("limit", limit),
        ("evidence", evidence),
        ("checks", checks),
        ("weight", f"{weight}%" if isinstance(weight, int | float) else weight),
        ("by", data.get("by")),
        ("commit", data.get("commit")),
    ]
    return [(name, str(value)) for name, value in found if value not in (None, "", "–")]


def _deciding(findings: Any) -> Mapping[str, Any]:
    """Return the finding that decided: the first that failed and is no dry run; else none."""
    failed = [each for each in _blocking(findings) if each.get("verdict") == "FAIL"]
    return failed[0] if failed else {}


def _blocking(findings: Any) -> list[Mapping[str, Any]]:
    known = findings if isinstance(findings, Sequence) and not isinstance(findings, str) else ()
    return [each for each in known if isinstance(each, Mapping) and not each.get("dry_run")]


def _checks(findings: Any) -> list[str]:
    """Return each check that was judged, with both numbers."""
    told = [(e.get("name"), e.get("observed_text"), e.get("limit_text")) for e in _blocking(findings)]
    return [f"{name} {seen}, limit {limit}" for name, seen, limit in told if seen not in (None, "", "–")]


def _named(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}


def lines_of(text: str) -> str:
    """Return text without control characters but for line ends: what a process said may hold any."""
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else " " for c in text
    )


def one_line(text: str) -> str:
    """Return text as one line of printable characters."""
    return " ".join(lines_of(text).split())
