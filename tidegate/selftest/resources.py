"""What the resources gate must not pass: leaks, burners, slow starts, bloat, and services that end."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tidegate import bentos
from tidegate.core.release import ReleaseRecord
from tidegate.core.verdict import Verdict
from tidegate.selftest.room import Fault, Room, as_it_is

QUICK: dict[str, Any] = {"requests": 1600, "warmup": 200, "min_requests": 800, "starts": 1}

SERVING = "src/tidegate/serving/app.py"  # which every Bento brings along, whatever its model is

# Runs a statement before each call of a method; `kept` is a list that lives as long as the service does.
BEFORE = """

def _before(method, kept=[]):
    def call(self, *given, **named):
        {statement}
        return method(self, *given, **named)
    return call

{name} = _before({name})
"""

# Spoils one path of 33, the warm-up's left out: a service that fails that does not start.
FAIL_SOME = (
    "kept.append(0); given = (b'' if len(kept) > 250 and len(kept) % 33 == 0 else given[0], *given[1:])"
)


def prepare(room: Room) -> None:
    """Make the packaged release the candidate; nothing is in production."""
    room.candidate(room.bento("healthy"))
    room.in_production(None)


def _before(name: str, statement: str) -> Callable[[Path], None]:
    """Return what makes a Bento run a statement before each call of a method of its serving shell."""

    def edit(bento: Path) -> None:
        with (bento / SERVING).open("a") as file:
            file.write(textwrap.dedent(BEFORE).format(name=name, statement=statement))

    return edit


def _each_request(statement: str) -> Callable[[Path], None]:
    return _before("Predictions._respond", statement)


def _candidate(version: str, edit: Callable[[Path], None]) -> Callable[[Room], None]:
    def make(room: Room) -> None:
        room.candidate(room.bento(version, edit))

    return make


def _beside_production(version: str, edit: Callable[[Path], None]) -> Callable[[Room], None]:
    """Plant it in the candidate, and put the healthy release into production."""

    def make(room: Room) -> None:
        room.in_production(room.bento("stable"))
        room.candidate(room.bento(version, edit))

    return make


def _bloat(bento: Path) -> None:
    (bento / "src" / "corpus.bin").write_bytes(bytes(range(256)) * 120_000)  # 30 MB


def _break_start(bento: Path) -> None:
    _before("ModelService.__call__", "raise RuntimeError('no start')")(bento)


def _no_examples(bento: Path) -> None:
    (bento / bentos.SOURCE / bentos.MODEL / "examples.json").write_text("[]")


def _changed_after(room: Room) -> None:
    """Change a file of the Bento once its digest is recorded."""
    record = room.bento("touched")
    room.candidate(record)
    with (bentos.bento_path(room.store, record.bento.tag) / SERVING).open("a") as file:
        file.write("\n# one more line\n")


def _named(room: Room, version: str) -> ReleaseRecord:
    """Return the record of a release whose Bento is not here."""
    real = room.original
    tag = f"{real.bento.tag.partition(':')[0]}:{version}"
    return msgspec.structs.replace(real, bento=msgspec.structs.replace(real.bento, tag=tag))


def _production_gone(room: Room) -> None:
    room.in_production(_named(room, "gone"))


def _no_release(room: Room) -> None:
    (room.root / "build" / room.model / "release.yaml").unlink()


def _fault(name: str, expected: Verdict, make: Callable[[Room], None], **settings: Any) -> Fault:
    return Fault("resources", name, expected, make, settings)


FAULTS: tuple[Fault, ...] = (
    _fault(
        "memory leak, 20 kB of every request",
        Verdict.FAIL,
        _candidate("leak", _each_request("kept.append(bytearray(b'x') * 20_000)")),
    ),
    _fault(
        "memory leak in one request of fifty",
        Verdict.FAIL,
        _candidate("rare", _each_request("kept.append(bytearray(b'x') * (len(kept) % 50 == 0) * 500_000)")),
    ),
    _fault(
        "memory taken at once, and much of it",
        Verdict.FAIL,
        _candidate("hog", _each_request("kept or kept.append(bytearray(b'x') * 400_000_000)")),
        memory=400,
    ),
    _fault(
        "twice the CPU of production",
        Verdict.FAIL,
        _beside_production("burn", _each_request("sum(range(15_000))")),
    ),
    _fault(
        "more CPU a prediction than allowed",
        Verdict.FAIL,
        _candidate("burn-alone", _each_request("sum(range(100_000))")),
        requests=800,
        min_requests=400,
    ),
    _fault(
        "slow start",
        Verdict.FAIL,
        _candidate("slow", _before("ModelService.__call__", "import time; time.sleep(2.0)")),
        start_up=2.0,
    ),
    _fault("a start that fails", Verdict.ERROR, _candidate("broken", _break_start)),
    _fault("bloated Bento", Verdict.FAIL, _candidate("bloat", _bloat), bento_size=20),
    _fault("a Bento 20 times production's", Verdict.FAIL, _beside_production("twice", _bloat)),
    _fault(
        "service ends under load",
        Verdict.FAIL,
        _candidate("mortal", _each_request("kept.append(0); len(kept) > 600 and __import__('os')._exit(9)")),
    ),
    _fault(
        "3% of responses failing",
        Verdict.FAIL,
        _candidate("failing", _each_request(FAIL_SOME)),
    ),
    _fault("one request", Verdict.INCONCLUSIVE, as_it_is, requests=1, warmup=1),
    _fault("zero requests", Verdict.ERROR, as_it_is, requests=0),
    _fault("the model's rows taken out of the Bento", Verdict.ERROR, _candidate("rowless", _no_examples)),
    _fault("a Bento that is not the recorded one", Verdict.ERROR, _changed_after),
    _fault("no Bento", Verdict.ERROR, lambda room: room.candidate(_named(room, "gone"))),
    _fault("production's Bento missing", Verdict.ERROR, _production_gone),
    _fault("no release", Verdict.ERROR, _no_release),
    _fault("wrong threshold key", Verdict.ERROR, as_it_is, laek=50),
    _fault("negative threshold", Verdict.ERROR, as_it_is, leak=-1),
    _fault("a threshold that is no number", Verdict.ERROR, as_it_is, memory="plenty"),
)
