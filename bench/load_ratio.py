"""The load gate's ratio, while a core burns: a release against itself, and one that sleeps a fifth longer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import yaml

from bench.registry import CannotRun, Goal, Measured, entries
from tidegate import stream, turns
from tidegate.adapters import locust
from tidegate.core.release import ReleaseRecord
from tidegate.core.verdict import worst
from tidegate.errors import TidegateError
from tidegate.machine import copies
from tidegate.selftest.load import each_answer
from tidegate.selftest.room import Room

MODEL = "flight-delay"
RUNS = 20
SLEEPS = 0.010, 0.012  # seconds


@contextmanager
def burner() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@entries(
    load_ratio_same=("of 20 runs", Goal(at_least=RUNS)),
    load_ratio_slower=("of 20 runs", Goal(at_least=RUNS)),
)
def load_ratio() -> Mapping[str, Measured]:
    """Fresh copies for each run: two processes of one release are part of what must not be told apart."""
    root = Path.cwd()
    try:
        with tempfile.TemporaryDirectory() as folder, burner():
            room = Room.make(root, Path(folder) / "room", MODEL)
            healthy = room.bento("same"), room.bento("itself")
            slept = [room.bento(f"sleeps-{s}", each_answer(f"time.sleep({s})")) for s in SLEEPS]
            same = _runs(room, "the same release against itself", *healthy)
            slower = _runs(room, "one that sleeps 20% longer", slept[1], slept[0])
    except TidegateError as problem:
        raise CannotRun(str(problem)) from problem
    note = f"{RUNS} runs each, a process burns a core; every ratio is printed above"
    return {
        "load-ratio-same": Measured(same.count("PASS"), note=note),
        "load-ratio-slower": Measured(slower.count("FAIL"), note=note),
    }


def _runs(room: Room, what: str, candidate: ReleaseRecord, production: ReleaseRecord) -> list[str]:
    """Compare two releases as the load gate does, print what came of it, and return the verdicts."""
    settings = yaml.safe_load((room.root / "params.yaml").read_text())["gates"]["load"]
    limits = msgspec.convert(settings["turns"], turns.Turns)
    live = room.root / "data" / room.model / "live.parquet"
    rows = stream.requests(room.model.replace("-", "_"), live, rows=settings["rows"], seed=settings["seed"])
    verdicts = []
    for number in range(1, RUNS + 1):
        with ExitStack() as stack:
            one, other = (stack.enter_context(copies.serve(room.store, r)) for r in (candidate, production))
            sender = stack.enter_context(locust.generator(rows))
            chosen = {name: settings[name] for name in ("looks", "error_rate", "seed")}
            found = turns.take(sender, limits, one, other, **chosen)
        verdicts.append(str(worst(finding.verdict for finding in found.findings)))
        _tell(f"{what}, run {number}: {verdicts[-1]}", found)
    return verdicts


def _tell(head: str, found: turns.Beside) -> None:
    told = []
    for name in turns.COMPARED:
        ratio = found.measured["ratios"][name]
        middle = ratio["candidate"] / ratio["production"]
        told.append(f"{name} ×{middle:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})")
    words = ", ".join(dict.fromkeys(comparison.word for comparison in found.comparisons))
    answers = found.measured["answers"]["candidate"]
    print(f"  {head} ({words}); {'; '.join(told)}; {answers:,} answers", file=sys.stderr, flush=True)
