"""What people and recordings are told of what was decided and stored; no failure of theirs is the agent's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tidegate.core import recording
from tidegate.core.plan import Plan
from tidegate.core.state import ModelState, Note, Want
from tidegate.ports import Event, Notifier, Recorder

log = logging.getLogger(__name__)


def event(plane: str, model: str, note: Note, at: float) -> Event:
    """Return a note as an event."""
    return Event(at, plane, model, note.release, note.kind, note.text, note.data)


class Teller:
    """Hands events to the notifier and looks to the recorder, after they are stored."""

    def __init__(self, plane: str, notifier: Notifier, recorder: Recorder | None) -> None:
        self.plane, self.notifier, self.recorder = plane, notifier, recorder

    def events(self, model: str, state: ModelState, notes: Sequence[Note], now: float) -> list[Event]:
        """Return notes as events, which say where to read more."""
        if not notes:
            return []
        about: dict[str, Any] = {}
        if state.rollout is not None:
            about = {"environment": state.rollout.environment, "stable": state.rollout.stable}
            if self.recorder is not None:
                about["recording"] = recording.name(self.plane, model, state.rollout)
        return [event(self.plane, model, replace(n, data={**about, **n.data}), now) for n in notes]

    def tell(self, events: Sequence[Event]) -> None:
        """Log events and hand them on."""
        for told in events:
            log.info("%s %s", told.kind, told.text)
            try:
                self.notifier.notify(told)
            except Exception:
                log.exception("%s was not told", told.kind)

    def record(
        self,
        model: str,
        want: Want,
        before: ModelState,
        after: ModelState,
        notes: Sequence[Note],
        now: float,
    ) -> None:
        """Add what one decision did to the recording of its rollout."""
        if self.recorder is None or (before.rollout == after.rollout and not notes):
            return
        target = want.target(after.rollout.environment) if after.rollout else None
        plan = target.plan if target else Plan()
        try:
            made = recording.entries(self.plane, model, before, after, plan, notes, now)
            for name, lines in made.items():
                self.recorder.append(name, lines)
        except Exception:
            log.exception("a look at %s was not recorded", model)
