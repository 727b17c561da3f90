"""Does the staging endpoint keep its word: what it publishes, what production promised, and refusals by name?

Of the OpenAPI document that the service publishes, the gate makes requests that are allowed, which must be
answered as promised, and requests that are not, which must be refused with a 4xx that names the field: wrong
types, missing and extra fields, NaN, huge numbers, odd texts, 1 MB bodies. No answer may be a 5xx, and none
may be missing, and each must hold what the model was declared to predict. The document must take what
production's takes, and answer what production's answers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from tidegate import gating
from tidegate.adapters import hypothesis
from tidegate.core import contract, gate, mutations, openapi
from tidegate.core.breaking import breaking
from tidegate.core.contract import Answer, Check
from tidegate.core.exhibits import Table
from tidegate.core.mutations import Case
from tidegate.core.verdict import Finding
from tidegate.endpoint import PREDICT, Endpoint, Silent
from tidegate.errors import NoData

Count = Annotated[int, msgspec.Meta(ge=1)]


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change to a good row: `field` (dots go into objects) gets `value`, or is left out by `drop`.

    `raw` is written into the body as it stands, for what JSON has no value for (NaN).
    """

    field: str
    value: Any = None
    drop: bool = False
    raw: str = ""

    def body(self, row: dict[str, Any]) -> bytes:
        """Return a row's body with the change."""
        path = self.field.split(".")
        return mutations.without(row, path) if self.drop else mutations.body(row, path, self.value, self.raw)

    def __str__(self) -> str:
        return (
            f"{self.field} left out" if self.drop else f"{self.field} = {self.raw or json.dumps(self.value)}"
        )


class ContractSettings(gating.Settings, frozen=True):
    """The `contract` section: `bad` rows must be refused by name, `tolerated` ones answered by rule."""

    rows: Count
    timeout: Annotated[float, msgspec.Meta(gt=0)]  # seconds for one answer
    allowed: Count  # requests drawn from the published schema
    seed: Annotated[int, msgspec.Meta(ge=0)]
    bad: Annotated[tuple[Change, ...], msgspec.Meta(min_length=1)]
    tolerated: tuple[Change, ...] = ()


def published(document: Any, release: str) -> Any:
    """Return a document, if there is one. Raises NoData."""
    if document is None:
        raise NoData(
            f"{release or 'the endpoint'} publishes no /openapi.json", "Package the model again: `dvc repro`."
        )
    return document


def made_up(schema: Any, rows: Sequence[Any], settings: ContractSettings) -> list[Case]:
    """Return the requests that are made of the published schema, hostile ones first."""
    drawn = hypothesis.rows(schema, settings.allowed, settings.seed)
    spoilt = mutations.cases(schema, [*rows, *drawn], contract.acceptance())
    fine = [
        Case("requests that the schema allows", "one of them", json.dumps(row).encode(), fine=True)
        for row in drawn
    ]
    return [*mutations.hostile(rows[0]), *spoilt, *fine]


def otherwise(endpoint: Endpoint, row: bytes) -> list[Finding]:
    """Ask by other methods, which must be refused, and by other content types, which may be answered."""
    methods = {
        method: endpoint.ask(PREDICT, row, method=method) for method in ("GET", "PUT", "DELETE", "PATCH")
    }
    types = {kind: endpoint.ask(PREDICT, row, kind=kind) for kind in ("text/plain", "application/xml", "")}
    return [contract.refused("other methods", methods), contract.survived("other content types", types)]


def configured(
    endpoint: Endpoint, row: dict[str, Any], settings: ContractSettings, check: Check
) -> list[Finding]:
    """Send the model's own bad and tolerated rows."""
    findings = []
    for change in settings.bad:
        answer = endpoint.ask(PREDICT, change.body(row))
        findings.append(gate.refusal(f"bad: {change}", answer.status, contract.blamed(answer), change.field))
    for change in settings.tolerated:
        problem = contract.answer_problem(endpoint.ask(PREDICT, change.body(row)), check)
        findings.append(gate.none_of(f"tolerated: {change}", int(bool(problem)), 1, "rows", problem))
    return findings


def promised(subject: gating.Subject[ContractSettings], document: Any) -> list[Finding]:
    """Compare the published document with that of production's release, served beside it."""
    name, release = "OpenAPI against production", subject.production()
    if release is None:
        return [gate.not_applicable(name, f"{name}: nothing runs in production yet")]
    with subject.serve(release) as copy, Endpoint(copy.url, subject.settings.timeout) as other:
        before = other.document()
    if before is None:
        return [gate.not_applicable(name, f"{name}: release {release.id} is older than /openapi.json")]
    return contract.promise(breaking(before, document), release.id)


@dataclass
class Seen:
    """What has been seen so far of a service that may stop answering at any moment."""

    findings: list[Finding] = field(default_factory=list)
    tried: list[tuple[Case, str]] = field(default_factory=list)
    good: list[Answer] = field(default_factory=list)


def ask_all(
    endpoint: Endpoint, rows: Sequence[Any], cases: Sequence[Case], settings: ContractSettings, check: Check
) -> Seen:
    """Send bad requests first, so that the good ones show a service that got over them."""
    seen = Seen()
    try:
        for case in cases:
            seen.tried.append((case, contract.case_problem(case, endpoint.ask(PREDICT, case.body), check)))
        seen.findings += configured(endpoint, rows[0], settings, check)
        seen.findings += otherwise(endpoint, json.dumps(rows[0]).encode())
        for row in rows:
            seen.good.append(endpoint.ask(PREDICT, json.dumps(row).encode()))
    except Silent as problem:
        seen.findings.append(contract.silent(str(problem)))
    return seen


def examples(subject: gating.Subject[ContractSettings]) -> list[Any]:
    """Return the model's own rows. Raises NoData when there is no list of them."""
    path = subject.built("model/examples.json")
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])[: subject.settings.rows]
    except msgspec.DecodeError as problem:
        raise NoData(f"examples.json is no list of rows: {problem}", "Run `dvc repro`.") from problem


def look(subject: gating.Subject[ContractSettings]) -> gating.Looked:
    """Read what the service publishes, hold it to that, and compare it with what production publishes."""
    settings = subject.settings
    rows = examples(subject)
    if not rows:
        raise NoData("examples.json holds no row", "Run `dvc repro`.")
    with Endpoint(subject.endpoint, settings.timeout) as endpoint:
        document = published(endpoint.document(), subject.release)
        try:
            check = contract.checker(openapi.answer_schema(document, PREDICT))
            cases = made_up(openapi.request_schema(document, PREDICT), rows, settings)
            kept = promised(subject, document)
        except openapi.Unreadable as problem:
            raise NoData(f"/openapi.json: {problem}", "Correct services/<model>/schema.py.") from problem
        seen = ask_all(endpoint, rows, cases, settings, check)
    problems = [text for one in seen.good if (text := contract.answer_problem(one, check))]
    first = problems[0] if problems else ""
    findings = [
        *kept,
        *contract.kinds(seen.tried),
        *seen.findings,
        gate.none_of("good rows after all that", len(problems), len(seen.good), "rows", first),
        gate.none_of("request id echoed", endpoint.unechoed, endpoint.answered, "answers"),
        contract.predicted(seen.good, subject.declared),
        contract.who(seen.good, subject.release),
    ]
    wrong = [(case.kind, case.change, problem) for case, problem in seen.tried if problem]
    measurements = {"requests": endpoint.asked, "answered": endpoint.answered, "good_rows": len(seen.good)}
    tables = [
        Table(
            "Requests that were not answered as they should be", ("tried", "with", "but"), tuple(wrong[:20])
        )
    ]
    return gating.Looked(findings, measurements, tables=tables if wrong else ())


GATE = gating.Gate(
    "contract",
    ContractSettings,
    look,
    needs="endpoint",
    inputs="The staging endpoint with its /openapi.json, production's Bento, and the rows of examples.json.",
    fix="Correct services/<model>/schema.py or service.py: callers can't follow a breaking change at once.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
