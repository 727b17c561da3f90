"""What the contract gate must not pass: services that take what they should refuse, break a promise, die."""

from __future__ import annotations

import json
import time
from itertools import count
from typing import Any

import msgspec

from tidegate.core import contract, mutations, openapi
from tidegate.core.release import BentoRef
from tidegate.core.verdict import Verdict
from tidegate.endpoint import PREDICT, Endpoint
from tidegate.selftest.front import Ask, Asked, Reply
from tidegate.selftest.room import Fault, NotApplicable, Room, as_it_is
from tidegate.selftest.staged import Make, answers, behind, fields, gone, healthy, service

FAIL, ERROR = Verdict.FAIL, Verdict.ERROR
QUICK: dict[str, Any] = {"rows": 5, "allowed": 25, "timeout": 5}


def prepare(room: Room) -> None:
    """A healthy release in staging; nothing in production."""
    healthy(room)
    room.in_production(None)


# ---------------------------------------------------------------- what is heard
def _if(where: bytes, status: int) -> Make:
    """Return a fault: requests that hold some bytes get a status."""
    return answers(
        lambda asked, reply: reply.with_json({}, status) if where in asked.body else reply, "/predict"
    )


def _accepts(refused: str) -> Make:
    """Return a fault: what is refused for a reason is answered, as the request before it was."""
    good: list[Reply] = []

    def change(asked: Asked, reply: Reply) -> Reply:
        if reply.status == 200:
            good[:] = [reply]
        elif reply.status == 422 and good and refused in reply.json["error"]["reason"]:
            inside = good[0].json | {"request_id": reply.json["request_id"]}
            return Reply(200, reply.headers, json.dumps(inside).encode())
        return reply

    def make(room: Room) -> None:
        good.clear()
        answers(change, "/predict")(room)

    return make


def _blames(field: Any) -> Make:
    def change(asked: Asked, reply: Reply) -> Reply:
        if reply.status not in (400, 413, 422):
            return reply
        return reply.with_json(reply.json | {"error": {"field": field, "reason": "no"}})

    return answers(change, "/predict")


def _hangs(asked: Asked, ask: Ask) -> Reply | None:
    if len(asked.body) < 900_000:
        return ask(asked)
    time.sleep(3)
    return None


def _dies(room: Room) -> None:
    """The first text from right to left is the last thing that the service reads."""
    dead: list[bool] = []

    def twist(asked: Asked, ask: Ask) -> Reply | None:
        if b"\\u202e" in asked.body:
            dead.append(True)
        return None if dead else ask(asked)

    behind(twist)(room)


def _some_fail() -> Make:
    numbers = count(1)
    return answers(lambda asked, reply: reply if next(numbers) % 33 else reply.with_json({}, 500), "/predict")


def _publishes(content: bytes, status: int = 200) -> Make:
    return answers(lambda asked, reply: Reply(status, reply.headers, content), "/openapi.json")


def _lacks(room: Room) -> None:
    name = room.declared.columns[0]

    def change(asked: Asked, reply: Reply) -> Reply:
        if reply.status != 200:
            return reply
        return reply.with_json({key: value for key, value in reply.json.items() if key != name})

    answers(change, "/predict")(room)


def _predicts(value: Any) -> Make:
    """Return a fault: what the model predicts is answered as another value."""
    return lambda room: fields("/predict", **{room.declared.columns[0]: value})(room)


def _beyond(room: Room) -> None:
    if room.declared.task != "classification":
        raise NotApplicable("a number that is no probability has no range to be out of")
    _predicts(2)(room)


def _turns() -> Make:
    """Return a fault: two releases take turns at answering."""
    numbers = count()
    return fields(release=lambda value: value if next(numbers) % 2 else "0" * 12)


# ---------------------------------------------------------------- what is served
# Each defines anew what a request or an answer is; see staged.SPOILT.
REQUIRES = """
def shapes(request, response):
    fields, first = [], True
    for one in msgspec.structs.fields(request):
        needed = one.required or first and not one.required
        first = first and one.required
        fields.append((one.name, one.type) if needed else (one.name, one.type, one.default))
    return msgspec.defstruct(request.__name__, fields, forbid_unknown_fields=True, kw_only=True), response
"""
ANY_FIELD = """
def shapes(request, response):
    fields = [
        (one.name, one.type) if one.required else (one.name, one.type, one.default)
        for one in msgspec.structs.fields(request)
    ]
    return msgspec.defstruct(request.__name__, fields, kw_only=True), response
"""
ONE_LESS = """
LAST = []

def shapes(request, response):
    *fields, last = [(one.name, one.type) for one in msgspec.structs.fields(response)]
    LAST[:] = [last[0]]
    return request, msgspec.defstruct(response.__name__, fields, kw_only=True)

def answer(columns, rows):
    return {name: column for name, column in columns.items() if name != LAST[0]}
"""
ASCII_ONLY = """
def features(rows, request, names):
    for value in msgspec.structs.asdict(request).values() if request is not None else ():
        if isinstance(value, str):
            value.encode("ascii")
    return rows
"""


def _places(room: Room) -> list[mutations.Place]:
    """Return the fields of a request, as the healthy service publishes them."""
    with Endpoint(room.shared["healthy"], 10.0) as endpoint:
        return list(mutations.places(openapi.request_schema(endpoint.document(), PREDICT)))


def _ascii_only(room: Room) -> None:
    accepts = contract.acceptance()
    if not any(
        len(one.path) == 1 and accepts(one.schema, mutations.TEXTS["an emoji"]) for one in _places(room)
    ):
        raise NotApplicable("no field of a request takes a text of any letters")
    service(ASCII_ONLY)(room)


def _required_now(room: Room) -> None:
    if all(one.required for one in _places(room) if len(one.path) == 1):
        raise NotApplicable("each field of a request is required already")
    _beside_original(REQUIRES)(room)


def _beside_original(code: str) -> Make:
    """Return a fault: production runs the release that is packaged, and the candidate another service."""

    def make(room: Room) -> None:
        record = room.bento("champion")
        room.in_production(record)
        service(code)(room)

    return make


def _no_null(room: Room) -> None:
    """Let the release that runs in production publish less than it does there."""
    accepts = contract.acceptance()
    if not any(accepts(one.schema, None) for one in _places(room)):
        raise NotApplicable("no field of a request may be null")

    def change(asked: Asked, reply: Reply) -> Reply:
        return reply.with_json(json.loads(reply.body.replace(b'{"type": "null"}', b'{"type": "boolean"}')))

    room.in_production(room.bento("champion"))
    answers(change, "/openapi.json")(room)


def _production_gone(room: Room) -> None:
    """Name a release whose Bento is not here."""
    record = room.original
    tag = record.bento.tag.partition(":")[0]
    room.in_production(msgspec.structs.replace(record, bento=BentoRef(f"{tag}:gone", record.bento.digest)))


def _no_examples(text: str) -> Make:
    def make(room: Room) -> None:
        (room.edit(f"build/{room.model}/model") / "examples.json").write_text(text)

    return make


def _no_file(room: Room) -> None:
    (room.edit(f"build/{room.model}/model") / "examples.json").unlink()


FAULTS = (
    Fault("contract", "NaN in a request is a 500", FAIL, _if(b"NaN", 500)),
    Fault("contract", "a missing field is answered", FAIL, _accepts("is required")),
    Fault("contract", "an extra field is answered", FAIL, _accepts("not a known field")),
    Fault("contract", "refusals name no field", FAIL, _blames(None)),
    Fault("contract", "refusals name another field", FAIL, _blames("somewhere")),
    Fault("contract", "hangs on 1 MB", FAIL, behind(_hangs), {"timeout": 0.5}),
    Fault("contract", "dies of a text from right to left", FAIL, _dies),
    Fault("contract", "3% of responses failing", FAIL, _some_fail()),
    Fault("contract", "NaN in an answer", FAIL, _predicts(float("nan"))),
    Fault("contract", "an answer out of its range", FAIL, _beyond),
    Fault("contract", "no prediction that was declared", FAIL, lambda room: room.declare(prediction="gone")),
    Fault("contract", "an answer's field is missing", FAIL, _lacks),
    Fault("contract", "the request id is lost", FAIL, fields(request_id="another")),
    Fault("contract", "another release answers", FAIL, fields(release="0" * 12)),
    Fault("contract", "two releases take turns", FAIL, _turns()),
    Fault("contract", "nobody answers", ERROR, gone),
    Fault("contract", "nothing is published", ERROR, _publishes(b"{}", 404)),
    Fault("contract", "truncated JSON is published", ERROR, _publishes(b'{"openapi": "3.1.0", "paths": {')),
    Fault("contract", "no path is published", ERROR, _publishes(b'{"openapi": "3.1.0", "paths": {}}')),
    Fault("contract", "empty list of bad rows", ERROR, as_it_is, {"bad": []}),
    Fault("contract", "no request drawn", ERROR, as_it_is, {"allowed": 0}),
    Fault("contract", "no good row sent", ERROR, as_it_is, {"rows": 0}),
    Fault("contract", "wrong threshold key", ERROR, as_it_is, {"timout": 1}),
    Fault("contract", "empty examples", ERROR, _no_examples("[]")),
    Fault("contract", "truncated examples", ERROR, _no_examples('[{"a": ')),
    Fault("contract", "missing examples", ERROR, _no_file),
    Fault("contract", "production's Bento is missing", ERROR, _production_gone),
    Fault("contract", "a field is required now", FAIL, _required_now),
    Fault("contract", "null is forbidden now", FAIL, _no_null),
    Fault("contract", "an answer's field is removed", FAIL, _beside_original(ONE_LESS)),
    Fault("contract", "unknown fields are accepted", FAIL, service(ANY_FIELD)),
    Fault("contract", "a letter beyond ASCII is a crash", FAIL, _ascii_only),
)
