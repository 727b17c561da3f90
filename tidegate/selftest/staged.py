"""What the rooms of `contract` and `parity` share: a healthy copy that all ask, and changed services."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tidegate import wiring
from tidegate.files import digest_folder
from tidegate.machine import copies
from tidegate.selftest.front import Ask, Asked, Reply, Twist, front
from tidegate.selftest.room import Room

Make = Callable[[Room], None]
NOWHERE = "http://127.0.0.1:9"  # the port of `discard`, which nobody serves
MODEL, MANIFEST = "src/model", "src/artifact.json"


def healthy(room: Room) -> None:
    """Let the packaged release answer at the room's endpoint; one copy serves all rooms."""
    if "healthy" not in room.shared:
        store = wiring.bentos_path(wiring.platform(room.source, "staging"), room.home)
        room.shared["healthy"] = room.lasting.enter_context(copies.serve(store, room.original)).url
    room.endpoint = room.shared["healthy"]
    room.candidate(room.original)


def behind(twist: Twist) -> Make:
    """Return a fault: the service is sound, and what is heard of it is not."""

    def make(room: Room) -> None:
        room.endpoint = room.closing.enter_context(front(room.endpoint, twist))

    return make


def answers(change: Callable[[Asked, Reply], Reply | None], path: str = "") -> Make:
    """Return a fault that changes the real answers (of one path); None is none."""

    def twist(asked: Asked, ask: Ask) -> Reply | None:
        reply = ask(asked)
        return change(asked, reply) if path in asked.path else reply

    return behind(twist)


def fields(path: str = "/predict", **changes: Any) -> Make:
    """Return a fault that writes other values into each answer of 200; a function gets the value."""

    def change(asked: Asked, reply: Reply) -> Reply:
        if reply.status != 200 or not isinstance(reply.json, dict):
            return reply
        made = {
            name: value(reply.json.get(name)) if callable(value) else value for name, value in changes.items()
        }
        return reply.with_json({**reply.json, **made})

    return answers(change, path)


def gone(room: Room) -> None:
    """Let nobody listen at the endpoint."""
    room.endpoint = NOWHERE


# Goes to the end of the shell that every Bento brings along, so that no fault knows a model's own code.
# A fault defines `shapes`, `features` or `answer` anew, between the defaults and their use. `features` gets
# the rows [n, F] of one request, or of many in columns, whose request is None: both are spoilt alike, since a
# service that sees two things in one example does not start.
SPOILT = """

import numpy as np

shapes = lambda request, response: (request, response)
features = lambda rows, request, names: rows
answer = lambda columns, rows: columns

{code}

def _shaped(real):
    def init(self, service, rest):
        inner = service.inner
        inner.request, inner.response = shapes(inner.request, inner.response)
        real(self, service, rest)
    return init

def _instance(real):
    def call(self):
        made = real(self)
        compute, predict, names = made.features, made.predict, list(made.feature_names)
        made.features = lambda request: features(compute(request), request, names)
        of_columns = getattr(made, "features_of_columns", None)
        if of_columns is not None:
            made.features_of_columns = lambda columns: features(of_columns(columns), None, names)
        made.predict = lambda rows: answer(dict(predict(rows)), rows)
        return made
    return call

Predictions.__init__ = _shaped(Predictions.__init__)
ModelService.__call__ = _instance(ModelService.__call__)
"""


def service(code: str) -> Make:
    """Return a fault: a Bento answers whose shell defines `shapes`, `features` or `answer` by `code`."""

    def edit(copy: Path) -> None:
        with (copy / "src/tidegate/serving/app.py").open("a") as shell:
            shell.write(SPOILT.replace("{code}", textwrap.dedent(code)))

    return bento(edit)


def bento(edit: Callable[[Path], None]) -> Make:
    """Return a fault: a Bento that was changed, signed anew and released, answers at the endpoint."""

    def make(room: Room) -> None:
        signed: list[str] = []

        def sign(copy: Path) -> None:
            edit(copy)
            signed.append(digest_folder(copy / MODEL))
            manifest = json.loads((copy / MANIFEST).read_text())
            (copy / MANIFEST).write_text(json.dumps({**manifest, "digest": signed[0]}))

        record = msgspec.structs.replace(room.bento("faulty", sign), artifact=signed[0])
        room.candidate(record)
        room.staged(record)

    return make
