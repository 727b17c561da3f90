"""What an answer of a service has to be, by its schema, and what its answers to many requests come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.core import gate, openapi
from tidegate.core.breaking import Break
from tidegate.core.mutations import Case
from tidegate.core.task import Declaration
from tidegate.core.verdict import Finding, Verdict

Check = Callable[[Any], str]  # a value → what is wrong with it, or nothing
PREDICTED = "predictions as declared"
SUM = 1e-3  # by which all classes' probabilities may miss 1: in half precision they do


@dataclass(frozen=True)
class Answer:
    """What came back: status 0 is no answer at all; `body` is None where it was no JSON."""

    status: int
    body: Any = None
    echoed: bool = False


def checker(schema: Mapping[str, Any]) -> Check:
    """Return a function that says where a value breaks a schema (without references), or nothing.

    Numbers must be finite besides: JSON Schema has no word for it.
    """
    import jsonschema  # type: ignore[import-untyped]

    made = jsonschema.Draft202012Validator(
        openapi.python_patterns(schema), format_checker=jsonschema.FormatChecker()
    )

    def check(value: Any) -> str:
        odd = not_finite(value)
        if odd:
            return f"`{odd}` is not finite"
        error = next(iter(made.iter_errors(value)), None)
        if error is None:
            return ""
        return f"`{'.'.join(map(str, error.absolute_path)) or 'body'}`: {error.message[:120]}"

    return check


def acceptance() -> Callable[[Any, Any], bool]:
    """Return a function that tells whether a schema (without references) accepts a value."""
    made: dict[int, tuple[Any, Check]] = {}

    def accepts(schema: Any, value: Any) -> bool:
        known = made.get(id(schema))
        if known is None:
            known = made[id(schema)] = (schema, checker(schema))
        return not known[1](value)

    return accepts


def not_finite(value: Any, name: str = "body") -> str:
    """Return the name of the first number of a JSON value that is NaN or infinite, or nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return name
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next((found for key, one in inner if (found := not_finite(one, str(key)))), "")


def answer_problem(answer: Answer, check: Check) -> str:
    """Return what is wrong with the answer to a good row, or nothing: 200, an object, and as promised."""
    if answer.status != 200:
        return f"status {answer.status}, wanted 200" if answer.status else "no answer"
    if not isinstance(answer.body, dict) or not answer.body:
        return "no JSON object with something in it"
    return check(answer.body)


def case_problem(case: Case, answer: Answer, check: Check) -> str:
    """Return what is wrong with the answer to a request that was made up, or nothing."""
    if case.fine:
        return answer_problem(answer, check)
    if answer.status == 0:
        return "no answer"
    if answer.status not in gate.REFUSALS:
        return f"status {answer.status}, wanted 4xx" + (f" for `{case.field}`" if case.field else "")
    named = blamed(answer)
    inside = isinstance(named, str) and named.startswith((f"{case.field}.", f"{case.field}["))
    if case.field and named != case.field and not inside:
        return f"refused for `{named}`, wanted `{case.field}`"
    return "" if named else "refused without naming a field"


def blamed(answer: Answer) -> object:
    """Return the field that a refusal names, or None."""
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    return error.get("field") if isinstance(error, dict) else None


def refused(name: str, answers: Mapping[str, Answer]) -> Finding:
    """Return whether each of some requests was refused with a 4xx, whatever it names."""
    wrong = [f"{what}: status {one.status}" for what, one in answers.items() if one.status // 100 != 4]
    return gate.none_of(name, len(wrong), len(answers), "requests", wrong[0] if wrong else "")


def survived(name: str, answers: Mapping[str, Answer]) -> Finding:
    """Return whether each of some requests was answered or refused, and none failed."""
    wrong = [
        f"{what}: status {one.status}" for what, one in answers.items() if one.status // 100 not in (2, 4)
    ]
    return gate.none_of(name, len(wrong), len(answers), "requests", wrong[0] if wrong else "")


def silent(reason: str) -> Finding:
    """Return that a service stopped answering."""
    return Finding(
        "answers to the end", Verdict.FAIL, reason, "an answer", f"the service went silent: {reason}"
    )


def who(answers: Sequence[Answer], release: str) -> Finding:
    """Return whether the release that was asked for gave each answer; any one, where none was asked for."""
    found = sorted(
        {str(a.body["release"]) for a in answers if isinstance(a.body, dict) and "release" in a.body}
    )
    if release:
        return gate.expected("release that answers", found, [release], "releases")
    return gate.within("releases that answer", len(found), 1, 1)


def predicted(answers: Sequence[Answer], declared: Declaration) -> Finding:
    """Return whether each answer holds what the model was declared to predict; see `prediction_problem`."""
    wrong = [text for one in answers if (text := prediction_problem(one.body, declared))]
    return gate.none_of(PREDICTED, len(wrong), len(answers), "answers", wrong[0] if wrong else "")


def prediction_problem(body: Any, declared: Declaration) -> str:
    """Return what is wrong with the prediction in an answer, or nothing.

    Each declared field is a finite number; a probability lies from 0 to 1, and those of all classes sum to 1.
    """
    total = 0.0
    for name in declared.columns:
        value = body.get(name) if isinstance(body, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return f"`{name}` is {value!r}, no number"
        if declared.task == "classification" and not 0 <= value <= 1:
            return f"`{name}` is {value!r}, no probability"
        total += value
    if declared.classes and abs(total - 1) > SUM:
        return f"the probabilities of {', '.join(declared.classes)} sum to {total:.4g}"
    return ""


def kinds(tried: Sequence[tuple[Case, str]]) -> list[Finding]:
    """Return one finding for each kind of request that was tried; nothing tried is ERROR."""
    if not tried:
        return [gate.error("requests from the schema", "no request could be made of the schema")]
    found = []
    for kind in dict.fromkeys(case.kind for case, _ in tried):
        mine = [(case, problem) for case, problem in tried if case.kind == kind]
        wrong = [f"{case.change}: {problem}" for case, problem in mine if problem]
        found.append(gate.none_of(kind, len(wrong), len(mine), "requests", wrong[0] if wrong else ""))
    return found


def promise(broken: Sequence[Break], release: str) -> list[Finding]:
    """Return a finding for each promise of production's release that is broken, or that all are kept."""
    name = "OpenAPI against production"
    if not broken:
        text = f"{name}: whatever release {release} took is taken, and whatever it answered is answered"
        return [Finding(name, Verdict.PASS, 0.0, 0.0, text)]
    return [
        Finding(
            f"{name}: {one.pointer}",
            Verdict.FAIL,
            one.what,
            "no breaking change",
            f"{one.pointer}: {one.what}",
        )
        for one in broken
    ]
