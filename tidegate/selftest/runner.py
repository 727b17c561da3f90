"""Plants each fault of a gate in a room of its own and reads what the gate says of it.

First the gate must PASS where nothing is broken; a gate that fails everything would catch every fault, too.
What a model can't have (labels flipped, where labels are numbers) is left out and said so; so that this does
not hide what was never tried, a number of each gate's faults must be caught in any case.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from tidegate import gating, report
from tidegate.config import Home
from tidegate.core.verdict import Verdict
from tidegate.errors import ConfigError
from tidegate.selftest.room import Fault, NotApplicable, Room

CONTROL = "nothing broken"
TIMED = ("load", "resources", "cost")  # by which faults are told apart
TRIES = 3
LEAST = 0.6  # of a gate's faults that must be caught, whatever the model is for


@dataclass(frozen=True)
class Suite:
    """What there is to try on a gate.

    `control` is what it says where nothing is broken; `alone`, that its faults are about time, which other
    processes of ours would take from it.
    """

    gate: str
    faults: Sequence[Fault] = ()
    quick: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Room], None] = lambda room: None
    control: Verdict = Verdict.PASS
    alone: bool = False


@dataclass(frozen=True)
class Result:
    """What a gate said of a fault. `verdict` is None where it said nothing that could be read.

    `applies` is False where the model can't have the fault: nothing was tried, and `reason` says why.
    """

    gate: str
    fault: str
    verdict: Verdict | None
    expected: Verdict
    reason: str
    seconds: float = 0.0
    applies: bool = True

    @property
    def is_control(self) -> bool:
        """Whether nothing was broken."""
        return self.fault == CONTROL

    @property
    def as_expected(self) -> bool:
        """Whether the gate can be trusted with this: a fault is never passed, whatever was expected of it."""
        if not self.applies:
            return not self.is_control
        let_through = self.verdict is not None and not self.verdict.holds_back and not self.is_control
        return self.verdict is self.expected and not let_through

    @property
    def caught(self) -> bool:
        """Whether a fault was planted, and noticed."""
        return self.as_expected and self.applies and not self.is_control


def suite(root: Path, gate: str) -> Suite:
    """Return a gate's faults: of tidegate/selftest/, or of the gate's own script where it is a user's.

    Raises ConfigError for two of one name.
    """
    name = f"tidegate.selftest.{gate.replace('-', '_')}"
    if gate in gating.BUILTIN:
        if importlib.util.find_spec(name) is None:
            return Suite(gate)
        module = importlib.import_module(name)
    else:
        gating.load(root, gate)
        module = importlib.import_module(f"gates.{gate.replace('-', '_')}")
    faults = tuple(getattr(module, "FAULTS", ()))
    named = [CONTROL, *(fault.name for fault in faults)]
    twice = {name for name in named if named.count(name) > 1}
    if twice:
        raise ConfigError(f"gate `{gate}` has two faults called `{min(twice)}`", "Rename one.")
    return Suite(
        gate,
        faults,
        getattr(module, "QUICK", {}),
        getattr(module, "prepare", lambda room: None),
        getattr(module, "CONTROL", Verdict.PASS),
        getattr(module, "ALONE", gate in TIMED),
    )


def thin(suites: Sequence[Suite], results: Sequence[Result]) -> dict[str, str]:
    """Return gate → why too few of its faults were caught to show that it can say no; of built-in gates."""
    found = {}
    for one in suites:
        caught = [result for result in results if result.gate == one.gate and result.caught]
        least = math.ceil(LEAST * len(one.faults))
        if one.gate not in gating.BUILTIN:
            continue
        if len(caught) < least:
            found[one.gate] = f"{len(caught)} of {len(one.faults)} faults were caught, and {least} must be"
        elif one.faults and not any(result.verdict is Verdict.FAIL for result in caught):
            found[one.gate] = "no fault that was caught made it FAIL"
    return found


def run(source: Path, trial: Suite, model: str, folder: Path, home: Home) -> Iterator[Result]:
    """Run a gate's control, then each of its faults, in rooms under `folder`; the rooms go as they end."""
    shared: dict[str, Any] = {}
    numbers = count()
    with ExitStack() as lasting:

        def attempt(make: Callable[[Room], None], over: Mapping[str, Any]) -> Seen:
            root = folder / f"{trial.gate}-{next(numbers)}"
            try:
                room = Room.make(source, root, model, home=home, shared=shared, lasting=lasting)
                return _attempt(room, trial, make, over)
            finally:
                shutil.rmtree(root, ignore_errors=True)

        again = shared.clear  # what was measured for all rooms may be what there was too little of
        yield _settled(trial.gate, CONTROL, trial.control, partial(attempt, lambda room: None, {}), again)
        for fault in trial.faults:
            look = partial(attempt, fault.make, fault.settings)
            yield _settled(trial.gate, fault.name, fault.expected, look, again)


def _settled(
    gate: str, name: str, expected: Verdict, look: Callable[[], Seen], again: Callable[[], None]
) -> Result:
    """Look; where there is too little evidence, which is neither yes nor no, look again, a few times."""
    began = time.monotonic()
    seen = look()
    for _ in range(1, TRIES):
        if seen.verdict is not Verdict.INCONCLUSIVE or expected is Verdict.INCONCLUSIVE:
            break
        again()
        seen = look()
    took = round(time.monotonic() - began, 2)
    return Result(gate, name, seen.verdict, expected, seen.reason, took, seen.applies)


@dataclass(frozen=True)
class Seen:
    """A verdict and its reason; None and why, where there is no verdict."""

    verdict: Verdict | None
    reason: str
    applies: bool = True


def _attempt(room: Room, trial: Suite, make: Callable[[Room], None], over: Mapping[str, Any]) -> Seen:
    """Break a room and run the gate. A fault that can't be planted has no verdict: it proved nothing."""
    said = io.StringIO()
    with contextlib.closing(room), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if trial.quick:
                room.settings(trial.gate, trial.quick)
            trial.prepare(room)
            make(room)
        except NotApplicable as reason:
            return Seen(Verdict.NOT_APPLICABLE, str(reason), applies=False)
        except Exception as problem:
            return Seen(None, f"the fault could not be planted: {type(problem).__name__}: {problem}")
        try:
            code = room.run(trial.gate, over)
        except SystemExit as problem:
            return Seen(None, f"the gate ended by itself, with {problem.code}: {said.getvalue().strip()}")
        except Exception as problem:
            return Seen(None, f"the gate raised {type(problem).__name__}: {problem}")
        return _read(room, trial.gate, code)


def _read(room: Room, gate: str, code: int) -> Seen:
    """Return what the report says, if the exit code says the same."""
    path = gating.folder(room.root, room.model, gate) / f"{gate}.json"
    found = report.read_report(path)
    if not path.is_file():
        return Seen(None, f"the gate wrote no report, and exited with {code}")
    if found.exit_code != code:
        return Seen(None, f"the report says {found.verdict}, and the gate exited with {code}")
    deciding = [one.reason for one in found.findings if one.verdict is found.verdict]
    return Seen(found.verdict, deciding[0] if deciding else "")
