"""The operators' desk: what people on the plane's machine ask of its agent, followed once and answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tidegate.core.asked import Ask, Room
from tidegate.core.asking import VERBS, ask
from tidegate.core.state import ModelState, Note, Seen, Want
from tidegate.errors import TidegateError
from tidegate.ports import Inbox, Request

Answers = dict[str, dict[str, Any]]  # request → answer


@dataclass(frozen=True)
class Known:
    """What an answer may depend on: what Git says of a model, what the plane shows of it, and what fits."""

    want: Callable[[str], Want]
    seen: Callable[[str], Seen]
    room: Room = field(default_factory=Room)


class Desk:
    """Takes requests and gives answers. `hurry` makes the agent look at Git at once.

    `told` are the notes of what the last call of `take` did, by model.
    """

    def __init__(self, plane: str, inbox: Inbox, hurry: Callable[[], None]) -> None:
        self.plane, self.inbox, self.hurry = plane, inbox, hurry
        self.problem = ""
        self.told: list[tuple[str, Note]] = []

    def take(self, given: Answers, models: dict[str, ModelState], known: Known, now: float) -> Answers:
        """Follow what is asked, by changing `models`, and return the answers to all that is open.

        `given` are the answers that were stored with what they did: a request whose answer could not be
        delivered, or whose agent was killed before, is answered again and never followed twice.
        """
        self.told = []
        try:
            pending = self.inbox.pending(self.plane)
        except TidegateError as error:
            self.problem = str(error)
            return given
        self.problem = ""
        answers: Answers = {}
        for request in pending:
            key = str(request.id)
            answers[key] = given[key] if key in given else self._follow(request, models, known, now)
        return answers

    def _follow(
        self, request: Request, models: dict[str, ModelState], known: Known, now: float
    ) -> dict[str, Any]:
        if request.kind == "poke":
            self.hurry()
            return {"accepted": True, "text": "looking at Git now"}
        if request.kind not in VERBS:
            return {"accepted": False, "text": f"this agent does not know the request {request.kind}"}
        payload: Mapping[str, Any] = request.payload
        model = str(payload.get("model", ""))
        before = models.get(model)
        if before is None:
            return {"accepted": False, "text": f"no model is called {model or '(none named)'} here"}
        by, reason = str(payload.get("by", "somebody")), " ".join(str(payload.get("reason", "")).split())
        release = str(payload.get("release", ""))
        environment, want, seen = str(payload.get("environment", "")), known.want(model), known.seen(model)
        asked = Ask(environment, by, reason, now, want, release, seen, known.room, model)
        models[model], text, notes = ask(request.kind, before, asked)
        self.told += [(model, note) for note in notes]
        accepted = models[model] is not before
        rollout = models[model].rollout
        named = release or (rollout.release if rollout else "")
        about = {"release": named} if accepted and named else {}
        return {"accepted": accepted, "text": text} | about

    def answer(self, answers: Answers) -> None:
        """Deliver answers that are stored; one that can't be delivered stays open."""
        for request, answer in answers.items():
            try:
                self.inbox.done(self.plane, int(request), answer)
            except TidegateError as error:
                self.problem = str(error)
