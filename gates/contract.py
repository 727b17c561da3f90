"""Does the staging endpoint keep its word? Good rows are answered, bad ones refused by the field's name."""

from __future__ import annotations

import copy
import json
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from tidegate import gating
from tidegate.core import gate
from tidegate.errors import NoData, Unreachable


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change to a good row: `field` (dots go into objects) gets `value`, or is left out by `drop`.

    `raw` is written into the body as it stands, for what JSON has no value for (NaN).
    """

    field: str
    value: Any = None
    drop: bool = False
    raw: str = ""


class ContractSettings(gating.Settings, frozen=True):
    """The `contract` section: `bad` rows must be refused by name, `tolerated` ones answered by rule."""

    rows: int = 50
    timeout: float = 10.0  # seconds for one answer
    bad: tuple[Case, ...] = ()
    tolerated: tuple[Case, ...] = ()


_RAW = "a place that `raw` takes"

# What no model can take for a row; whose fault it is, the service may say as it likes.
BODIES = {
    "an empty body": b"",
    "half an object": b'{"a": ',
    "a list": b"[]",
    "null": b"null",
    "not UTF-8": b'"\xff"',
}


@dataclass(frozen=True)
class Answer:
    """Status 0 is no answer at all."""

    status: int
    body: Any
    echoed: bool


def body_of(row: dict[str, Any], case: Case) -> bytes:
    """Return a row's body with one case's change."""
    result = copy.deepcopy(row)
    *outer, last = case.field.split(".")
    place = result
    for name in outer:
        place[name] = place.get(name) or {}
        place = place[name]
    if case.drop:
        place.pop(last, None)
    else:
        place[last] = _RAW if case.raw else case.value
    return json.dumps(result).replace(json.dumps(_RAW), case.raw).encode()


def describe(case: Case) -> str:
    """Return what a case does, for a person."""
    return f"{case.field} left out" if case.drop else f"{case.field} = {case.raw or json.dumps(case.value)}"


class Caller:
    """Sends bodies with a request id of their own."""

    def __init__(self, endpoint: str, timeout: float) -> None:
        self._url = f"{endpoint}/predict"
        self._client = httpx.Client(timeout=timeout)
        self.answers: list[Answer] = []

    def __call__(self, body: bytes) -> Answer:
        mine = f"contract-{uuid.uuid4().hex}"
        headers = {"content-type": "application/json", "x-request-id": mine}
        try:
            response = self._client.post(self._url, content=body, headers=headers)
        except httpx.HTTPError:
            answer = Answer(0, None, False)
        else:
            try:
                content = response.json()
            except ValueError:
                content = None
            inside = content.get("request_id") if isinstance(content, dict) else None
            echoed = {response.headers.get("x-request-id"), inside} == {mine}
            answer = Answer(response.status_code, content, echoed)
        self.answers.append(answer)
        return answer


def refusals(call: Caller, row: dict[str, Any], cases: tuple[Case, ...]) -> Iterator[Any]:
    """Send each bad body and row, and yield whether it was refused as it should be."""
    for name, body in BODIES.items():
        yield gate.refusal(f"bad: {name}", call(body).status, None, "")
    for case in cases:
        answer = call(body_of(row, case))
        error = answer.body.get("error") if isinstance(answer.body, dict) else None
        named = error.get("field") if isinstance(error, dict) else None
        yield gate.refusal(f"bad: {describe(case)}", answer.status, named, case.field)


def look(subject: gating.Subject[ContractSettings]) -> gating.Looked:
    """Send bad rows first, so that the good ones show a service that got over them."""
    settings = subject.settings
    rows = json.loads(subject.built("model/examples.json").read_text())[: settings.rows]
    if not rows:
        raise NoData("examples.json holds no row", "Run `dvc repro`.")
    call = Caller(subject.endpoint, settings.timeout)
    findings = list(refusals(call, rows[0], settings.bad))
    if not settings.bad:
        findings.append(gate.error("bad rows", "no `bad` case is configured: list some in params.yaml"))
    for case in settings.tolerated:
        answer = call(body_of(rows[0], case))
        problem = gate.answer_problem(answer.status, answer.body)
        findings.append(
            gate.none_of(f"tolerated: {describe(case)}", len([problem] * bool(problem)), 1, "rows")
        )
    good = [call(json.dumps(row).encode()) for row in rows]
    problems = [problem for a in good if (problem := gate.answer_problem(a.status, a.body))]
    findings.append(gate.none_of("good rows", len(problems), len(good), "rows"))
    if not any(answer.status for answer in call.answers):
        raise Unreachable(
            f"{subject.endpoint} did not answer once", "Is the plane up? See `tidegate status`."
        )
    unechoed = sum(not answer.echoed for answer in call.answers)
    findings.append(gate.none_of("request id echoed", unechoed, len(call.answers), "answers"))
    releases = sorted(
        {str(a.body["release"]) for a in good if isinstance(a.body, dict) and "release" in a.body}
    )
    if subject.release:
        findings.append(gate.expected("release that answers", releases, [subject.release], "releases"))
    else:
        findings.append(gate.within("releases that answer", len(releases), 1, 1))
    measurements = {"rows": len(good), "bad_cases": len(settings.bad) + len(BODIES), "releases": releases}
    return gating.Looked(findings, {**measurements, "problems": problems[:5]})


GATE = gating.Gate(
    "contract",
    ContractSettings,
    look,
    needs="endpoint",
    inputs="The staging endpoint, and the request rows of the model's examples.json.",
    fix="Correct services/<model>/schema.py or service.py.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
