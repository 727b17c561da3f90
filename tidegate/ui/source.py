"""What the pages show and ask for, of one checkout. All of it may wait: each request has a thread."""

from __future__ import annotations

import getpass
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate import outcomes, planes, plumbing, promotion, shelf, wiring
from tidegate.adapters.outcomes import FILE as OUTCOMES
from tidegate.adapters.outcomes import SqliteOutcomes
from tidegate.adapters.sqlite import SqliteInbox, read_events
from tidegate.agent.locks import agent_runs
from tidegate.core import recording
from tidegate.core.history import Entry, entries
from tidegate.core.recording import Recording
from tidegate.errors import ConfigError, NoData, PlatformError, Refused, TidegateError, Unreachable
from tidegate.ui import spark
from tidegate.ui.seen import as_dict, snapshot, state_path

VERBS = ("approve", "pause", "resume", "abort", "rollback")
ANSWER = 10.0  # seconds for an agent to follow: it looks each second
SPARK, MOST_SPARKS = 3.0, 100  # seconds for which a small picture is new enough; how many are kept
FETCHED = 30.0  # seconds for which what was fetched from the remote is new enough


@dataclass(frozen=True)
class Answer:
    """What an agent said to a request; `accepted` is None while it has not answered."""

    accepted: bool | None
    text: str


class Source:
    """Reads a checkout and its home, and leaves requests for agents."""

    def __init__(self, checkout: Path) -> None:
        self.checkout, self.home = checkout, wiring.home(checkout)
        spec = wiring.platform(checkout, "production").repository
        self._origin = promotion.Origin(checkout, spec.remote, spec.branch)
        self._inbox = SqliteInbox(state_path(checkout))
        self._outcomes = SqliteOutcomes(self.home.root / OUTCOMES)
        self._recorder = wiring.recorder(self.home)
        self._fetching, self._fetched = threading.Lock(), -FETCHED
        self._sparking = threading.Lock()
        self._sparks: dict[str, tuple[float, str]] = {}

    # ------------------------------------------------------------ what runs
    def snapshot(self) -> dict[str, Any]:
        """Return what every plane does now."""
        return snapshot(self.checkout)

    def events(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest events of all planes, newest first."""
        path = state_path(self.checkout)
        found = [
            {**as_dict(event), "plane": plane}
            for plane in planes.names(self.checkout)
            for event in read_events(path, plane, limit)
        ]
        return sorted(found, key=lambda event: -float(event["at"]))[:limit]

    def ask(self, verb: str, plane: str, environment: str, model: str, reason: str) -> Answer:
        """Leave a request for a plane's agent and wait for its answer. Raises Refused, PlatformError."""
        if verb not in VERBS:
            raise Refused(f"nobody can be asked to {verb!r:.40}", f"Ask for one of: {', '.join(VERBS)}.")
        if plane not in planes.names(self.checkout):
            raise Refused(f"no plane is called {plane!r:.40}", "Look at what runs: tidegate status")
        if not agent_runs(self.home.plane(plane)):
            raise PlatformError(f"no agent runs plane {plane} on this machine", "Start it: tidegate up")
        payload = {"environment": environment, "model": model, "reason": reason, "by": getpass.getuser()}
        request = self._inbox.send(plane, verb, payload)
        end = time.monotonic() + ANSWER
        while time.monotonic() < end:
            said = self._inbox.result(request)
            if said is not None:
                return Answer(bool(said.get("accepted")), str(said.get("text", "")))
            time.sleep(0.1)
        return Answer(None, f"asked, but the agent has not answered within {ANSWER:.0f} s; it goes on")

    def accept(self, document: object, check: bool = True) -> outcomes.Kept:
        """Keep outcomes; returns what became of them. Raises ConfigError for one that is wrong.

        Without `check` the log of predictions is not asked whether it knows their requests: it takes a while.
        """
        spec = wiring.platform(self.checkout, "production")
        there = check and wiring.predictions_path(spec, self.home).is_dir()
        log = wiring.predictions(spec, self.home) if there else None
        return outcomes.accept(self._outcomes, document, log, float(spec.predictions.retain))

    # ------------------------------------------------------------ what was
    def recordings(self) -> list[str]:
        """Return the names of all recordings, newest first."""
        return list(self._recorder.list())

    def recording(self, name: str) -> Recording:
        """Return a recording. Raises NoData; ConfigError for one that is damaged."""
        try:
            return recording.parse(self._recorder.read(name))
        except recording.NotARecording as error:
            raise ConfigError(
                str(error), "Look at the file under recordings/ in the home.", where=name
            ) from error

    def spark(self, name: str) -> str:
        """Return the small picture of a recording, a few seconds old at most; nothing where there is none."""
        with self._sparking:
            at, drawn = self._sparks.get(name, (-SPARK, ""))
            if time.monotonic() - at < SPARK:
                return drawn
            try:
                drawn = spark.svg(self.recording(name))
            except TidegateError:
                drawn = ""
            kept = list(self._sparks.items())[-MOST_SPARKS:]
            self._sparks = {**dict(kept), name: (time.monotonic(), drawn)}
            return drawn

    def history(self, environment: str) -> tuple[list[Entry], str]:
        """Return what ran when, newest first, and what is to be said of it: an unreachable remote."""
        from tidegate.adapters.git import log_releases

        note = self._fetch()
        revisions = log_releases(
            self.checkout, environment, remote=self._origin.remote, branch=self._origin.branch
        )
        return entries(environment, revisions)[::-1], note

    def _fetch(self) -> str:
        from tidegate.adapters.git import refresh

        with self._fetching:
            if time.monotonic() - self._fetched < FETCHED:
                return ""
            try:
                refresh(self.checkout, self._origin.remote, self._origin.branch)
            except Unreachable as error:
                return str(error)
            self._fetched = time.monotonic()
            return ""

    def reports(self) -> Mapping[tuple[str, str], str]:
        """Return (model, name) → commit of each page kept in Git. Raises Unreachable."""
        return shelf.listed(self._origin)

    def report(self, commit: str) -> str:
        """Return a kept page as HTML, by a commit that `reports` names. Raises NoData."""
        known = {known: name for (_, name), known in self.reports().items()}
        if commit not in known:
            raise NoData("no page is kept at this commit", "Choose one of the list of reports.")
        if plumbing.resolve(self.checkout, commit) is None:
            shelf.find(self._origin, known[commit])  # it fetches
        return shelf.drawn(self._origin, commit, "report.html")

    def close(self) -> None:
        """Close the files."""
        self._inbox.close()
        self._outcomes.close()
