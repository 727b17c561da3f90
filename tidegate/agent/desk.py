"""The operators' desk: what people on the plane's machine ask of its agent, followed once and answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tidegate.core.rollout import request_rollback
from tidegate.core.state import ModelState, Want
from tidegate.errors import TidegateError
from tidegate.ports import Inbox

Answers = dict[str, dict[str, Any]]  # request → answer


class Desk:
    """Takes requests and gives answers. `hurry` makes the agent look at Git at once."""

    def __init__(self, plane: str, inbox: Inbox, hurry: Callable[[], None]) -> None:
        self.plane, self.inbox, self.hurry = plane, inbox, hurry
        self.problem = ""

    def take(
        self, given: Answers, models: dict[str, ModelState], want: Callable[[str], Want], now: float
    ) -> Answers:
        """Follow what is asked, by changing `models`, and return the answers to all that is open.

        `given` are the answers that were stored with what they did: a request whose answer could not be
        delivered, or whose agent was killed before, is answered again and never followed twice.
        """
        try:
            pending = self.inbox.pending(self.plane)
        except TidegateError as error:
            self.problem = str(error)
            return given
        self.problem = ""
        answers: Answers = {}
        for request in pending:
            key = str(request.id)
            if key in given:
                answers[key] = given[key]
            elif request.kind == "poke":
                self.hurry()
                answers[key] = {"accepted": True, "text": "looking at Git now"}
            elif request.kind == "rollback":
                answers[key] = _roll_back(request.payload, models, want, now)
            else:
                text = f"this agent does not know the request {request.kind}"
                answers[key] = {"accepted": False, "text": text}
        return answers

    def answer(self, answers: Answers) -> None:
        """Deliver answers that are stored; one that can't be delivered stays open."""
        for request, answer in answers.items():
            try:
                self.inbox.done(self.plane, int(request), answer)
            except TidegateError as error:
                self.problem = str(error)


def _roll_back(
    payload: Mapping[str, Any], models: dict[str, ModelState], want: Callable[[str], Want], now: float
) -> dict[str, Any]:
    model, environment = str(payload.get("model", "")), str(payload.get("environment", ""))
    before = models.get(model)
    if before is None:
        return {"accepted": False, "text": f"no model is called {model or '(none named)'} here"}
    by, reason = str(payload.get("by", "somebody")), str(payload.get("reason", ""))
    state, text = request_rollback(before, environment, by=by, reason=reason, now=now, want=want(model))
    models[model] = state
    answer = {"accepted": state is not before, "text": text}
    left = state.rollout.release if state is not before and state.rollout else ""
    return answer | ({"release": left} if left else {})
