"""What the load gate must not pass: a service that is slow, failing, silent, or that nobody asked."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tidegate import bentos, wiring
from tidegate.core.release import ReleaseRecord
from tidegate.core.verdict import Verdict
from tidegate.machine import copies
from tidegate.selftest.frames import raw_column
from tidegate.selftest.front import Ask, Asked, Reply, Twist, front
from tidegate.selftest.room import Fault, Room

QUICK: dict[str, Any] = {
    "rows": 50,
    "rate": 100,
    "warmup": 0.1,
    "duration": 0.8,
    "looks": 3,
    "min_requests": 50,
    "climb": {"step": 0.2, "top": 100},
    # Wide, since the runs are short; the faults are wider.
    "turns": {
        "duration": 1,
        "warmup": 0.1,
        "min_answers": 20,
        "margins": {"p50": 0.4, "p95": 4.0, "throughput": 0.5},
    },
}

SERVING = "src/tidegate/serving/app.py"  # which every Bento brings along, whatever its model is
LIVE = "live"

# Runs a statement before each answer; `kept` is a list that lives as long as the service does.
BEFORE = """

def _before(method, kept=[]):
    def call(self, *given, **named):
        {statement}
        return method(self, *given, **named)
    return call

Predictions._respond = _before(Predictions._respond)
"""


def prepare(room: Room) -> None:
    """Serve the packaged release as in staging; another build of the same runs in production."""
    candidate = room.bento("candidate")
    room.candidate(candidate)
    room.in_production(room.bento("champion"))
    room.endpoint = _staged(room, candidate.id)


def _staged(room: Room, release: str) -> str:
    """Return the address of a healthy copy, which all rooms share and which answers as this release."""
    if "endpoint" not in room.shared:
        store = wiring.bentos_path(wiring.platform(room.source, "staging"), room.home)
        named = {"TIDEGATE_RELEASE": release}
        copy = room.lasting.enter_context(copies.serve(store, room.original, extra=named))
        room.shared["endpoint"] = copy.url
    return str(room.shared["endpoint"])


def each_answer(statement: str) -> Callable[[Path], None]:
    """Return what makes a Bento run a statement before each of its answers."""

    def edit(bento: Path) -> None:
        with (bento / SERVING).open("a") as file:
            file.write(textwrap.dedent(BEFORE).format(statement=statement))

    return edit


def slower(room: Room, seconds: float, theirs: float = 0.01) -> None:
    """Let the candidate sleep so long before each answer, and production's release so long as `theirs`."""
    _challenge(room, room.bento("slower", each_answer(f"time.sleep({seconds})")))
    room.in_production(room.bento("quicker", each_answer(f"time.sleep({theirs})")))


def _challenge(room: Room, record: ReleaseRecord) -> None:
    """Make a release the candidate, and let it answer at the endpoint."""
    room.candidate(record)
    room.staged(record)


def _alone(make: Callable[[Room], None]) -> Callable[[Room], None]:
    """Plant a fault that needs no production: nothing is compared, which saves two starts."""

    def alone(room: Room) -> None:
        room.in_production(None)
        make(room)

    return alone


def _behind(twist: Twist) -> Callable[[Room], None]:
    def make(room: Room) -> None:
        room.endpoint = room.closing.enter_context(front(room.endpoint, twist))

    return _alone(make)


def _failing(every: int) -> Twist:
    def twist(asked: Asked, ask: Ask) -> Reply | None:
        reply = ask(asked)
        return reply.with_json({"error": "spoilt"}, status=500) if asked.number % every == 0 else reply

    return twist


def _late(seconds: float, every: int = 1) -> Twist:
    def twist(asked: Asked, ask: Ask) -> Reply | None:
        if asked.number % every == 0:
            time.sleep(seconds)
        return ask(asked)

    return twist


def _hang_up(asked: Asked, ask: Ask) -> Reply | None:
    return None


def _rows(change: Callable[[Any], Any]) -> Callable[[Room], None]:
    return _alone(lambda room: room.write(LIVE, change(room.frame(LIVE))))


@_alone
def _no_column(room: Room) -> None:
    room.write(LIVE, room.frame(LIVE).drop(columns=raw_column(room)))


@_alone
def _no_rows_at_all(room: Room) -> None:
    room.edit(f"data/{room.model}/{LIVE}.parquet").unlink()


@_alone
def _half_a_file(room: Room) -> None:
    path = room.edit(f"data/{room.model}/{LIVE}.parquet")
    path.write_bytes(path.read_bytes()[:-100])


@_alone
def _nobody_there(room: Room) -> None:
    room.endpoint = "http://127.0.0.1:9"


@_alone
def _another_release(room: Room) -> None:
    """Ask for a release that is not the one at the endpoint."""
    room.candidate(room.bento("another"))


@_alone
def _no_release(room: Room) -> None:
    room.edit(f"build/{room.model}/release.yaml").unlink()


def _production_gone(room: Room) -> None:
    """Name a release whose Bento is not here."""
    real = room.original
    tag = f"{real.bento.tag.partition(':')[0]}:gone"
    room.in_production(msgspec.structs.replace(real, bento=msgspec.structs.replace(real.bento, tag=tag)))


def _production_unrecorded(room: Room) -> None:
    for path in (room.root / "envs" / "releases" / room.model).glob("*.yaml"):
        path.unlink()


def _changed_after(room: Room) -> None:
    """Change a file of the candidate's Bento once its digest is recorded."""
    record = room.bento("touched")
    room.candidate(record)
    with (bentos.bento_path(room.store, record.bento.tag) / SERVING).open("a") as file:
        file.write("\n# one more line\n")


def _failing_copy(room: Room) -> None:
    """Make a candidate that answers its warm-up, and then fails one request in fifty."""
    fail = "kept.append(0); given = given if len(kept) < 250 or len(kept) % 50 else (b'', *given[1:])"
    _challenge(room, room.bento("failing", each_answer(fail)))


def _failing_production(room: Room) -> None:
    fail = "kept.append(0); given = given if len(kept) < 250 or len(kept) % 50 else (b'', *given[1:])"
    room.in_production(room.bento("broken", each_answer(fail)))


def _broken(room: Room) -> None:
    room.candidate(room.bento("dead", each_answer("raise RuntimeError('no answer')")))


@_alone
def _as_it_is(room: Room) -> None:
    """Break nothing: the fault is in the settings."""


def _fault(name: str, expected: Verdict, make: Callable[[Room], None], **settings: Any) -> Fault:
    return Fault("load", name, expected, make, settings)


FAULTS: tuple[Fault, ...] = (
    _fault("zero requests", Verdict.ERROR, _as_it_is, rate=0.01),
    _fault(
        "one request", Verdict.INCONCLUSIVE, _as_it_is, rate=1, users=1, duration=1, looks=1, climb={"top": 1}
    ),
    _fault("3% of responses failing", Verdict.FAIL, _behind(_failing(33)), rate=200, climb={"top": 200}),
    _fault("every response failing", Verdict.FAIL, _behind(_failing(1)), climb={"step": 0.1}),
    _fault("connections closed without an answer", Verdict.ERROR, _behind(_hang_up)),
    _fault("no answer at all", Verdict.ERROR, _behind(_late(4.0))),
    _fault(
        "one answer in five hangs", Verdict.FAIL, _behind(_late(4.0, every=5)), duration=2, min_requests=5
    ),
    _fault("median beyond its objective", Verdict.FAIL, _behind(_late(0.03)), p50=20, min_requests=20),
    _fault("one answer in ten late", Verdict.FAIL, _behind(_late(0.06, every=10)), p95=50),
    _fault("endpoint down", Verdict.ERROR, _nobody_there),
    _fault("empty stream", Verdict.ERROR, _rows(lambda frame: frame.iloc[:0])),
    _fault("stream missing", Verdict.ERROR, _no_rows_at_all),
    _fault("truncated stream", Verdict.ERROR, _half_a_file),
    _fault("missing column", Verdict.ERROR, _no_column),
    _fault(
        "twice as slow as production", Verdict.FAIL, lambda room: slower(room, 0.02), turns={"duration": 2}
    ),
    _fault("a copy that fails one request in fifty", Verdict.FAIL, _failing_copy),
    _fault("production's copy fails", Verdict.ERROR, _failing_production),
    _fault("a candidate that does not start", Verdict.ERROR, _broken),
    _fault("a Bento that is not the recorded one", Verdict.ERROR, _changed_after),
    _fault("production's Bento missing", Verdict.ERROR, _production_gone),
    _fault("production's record missing", Verdict.ERROR, _production_unrecorded),
    _fault(
        "too few answers in turns",
        Verdict.INCONCLUSIVE,
        lambda room: None,
        looks=1,
        turns={"min_answers": 10**6},
    ),
    _fault("another release at the endpoint", Verdict.FAIL, _another_release),
    _fault("no release", Verdict.ERROR, _no_release),
    _fault("wrong threshold key", Verdict.ERROR, _as_it_is, p59=100),
    _fault("negative threshold", Verdict.ERROR, _as_it_is, p95=-300),
    _fault("a threshold that is no number", Verdict.ERROR, _as_it_is, p99=float("nan")),
)
