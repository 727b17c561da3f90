"""The selftest can say no itself: what proves nothing, passes, hangs or dies is never counted as caught."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tidegate import config, errors, report
from tidegate.core import gate
from tidegate.core.verdict import Verdict
from tidegate.machine import processes
from tidegate.selftest import crew, runner

# A gate of a checkout's own: the number in value.txt is at most 3.
GATE = '''\
"""Is the value small enough? (A gate of a test.)"""

import os, subprocess, sys, time

from tidegate import gating
from tidegate.core import gate
from tidegate.core.verdict import Verdict
from tidegate.selftest.room import Fault, NotApplicable


class SpeedSettings(gating.Settings, frozen=True):
    """The `speed` section."""

    limit: float = 3


def look(subject):
    """Compare the value with its limit."""
    said = subject.data("train").read_text()
    if said == "die":
        os._exit(7)
    if said == "hang":
        subprocess.Popen(["sleep", "600"])
        time.sleep(600)
    if said == "exit":
        sys.exit(0)
    return gating.Looked([gate.at_most("value", float(said), subject.settings.limit)])


GATE = gating.Gate("speed", SpeedSettings, look, needs="files", inputs="Train.", fix="None.")


def put(text):
    """Return a fault that writes a text into train."""
    return lambda room: room.edit(f"data/{room.model}/train.parquet").write_text(text) and None


def broken(room):
    """A fault that can't be planted."""
    raise ValueError("no such column")


def elsewhere(room):
    """A fault that the model can't have."""
    raise NotApplicable("it has no wheels")


FAULTS = (FAULTS_HERE)
'''
TOO_MUCH = 'Fault("speed", "too much", Verdict.FAIL, put("4")),'


def layout(root: Path, faults: str, value: str = "1") -> Path:
    """Write a checkout in which everything has been built that faults are made of."""
    for folder in ("gates", "envs", "data/tiny", "build/tiny"):
        (root / folder).mkdir(parents=True)
    (root / "tidegate").symlink_to(Path(errors.__file__).parent)
    (root / "params.yaml").write_text("models: {tiny: {}}\ngates: {speed: {}}\n")
    for name in ("dvc.yaml", "pyproject.toml", "build/tiny/model", "build/tiny/release.yaml"):
        (root / name).write_text("")
    for name in ("build/tiny/predictions.parquet", "data/tiny/holdout.parquet", "data/tiny/train.parquet"):
        (root / name).write_text(value)
    (root / "gates" / "speed.py").write_text(GATE.replace("FAULTS_HERE", faults))
    return root


def ask(root: Path, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run `tidegate gate selftest --json`; its exit code, list and stderr."""
    command = [sys.executable, "-m", "tidegate", "gate", "selftest", "--json", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout or "[]"), done.stderr


def test_a_fault_that_is_noticed(tmp_path: Path) -> None:
    """Each fault is one entry with its verdict, what was expected and the gate's reason; exit 0."""
    code, found, _ = ask(layout(tmp_path, TOO_MUCH))
    assert code == 0
    assert found == [
        {
            "gate": "speed",
            "fault": "too much",
            "verdict": "FAIL",
            "expected": "FAIL",
            "reason": "value 4 > limit 3",
            "applies": True,
        }
    ]


def test_nothing_of_the_checkout_is_changed(tmp_path: Path) -> None:
    """Faults are planted in copies: files and reports of the checkout stay as they are."""
    root = layout(tmp_path, TOO_MUCH)
    before = {path: path.read_text() for path in root.rglob("*.parquet")}
    ask(root)
    assert {path: path.read_text() for path in root.rglob("*.parquet")} == before
    assert not (root / "build" / "tiny" / "gates").exists()


@pytest.mark.parametrize(
    ("faults", "verdict", "reason"),
    [
        ('Fault("speed", "none", Verdict.FAIL, put("2")),', "PASS", "value 2"),
        ('Fault("speed", "none", Verdict.PASS, put("2")),', "PASS", "value 2"),
        ('Fault("speed", "other", Verdict.ERROR, put("4")),', "FAIL", "value 4"),
        ('Fault("speed", "unplanted", Verdict.ERROR, broken),', None, "could not be planted: ValueError"),
        ('Fault("speed", "quits", Verdict.ERROR, put("exit")),', None, "ended by itself, with 0"),
    ],
)
def test_what_is_not_noticed(tmp_path: Path, faults: str, verdict: str | None, reason: str) -> None:
    """A PASS, even an expected one, another verdict, and a fault that could not be planted are exit 1."""
    code, (found,), _ = ask(layout(tmp_path, faults))
    assert (code, found["verdict"]) == (1, verdict)
    assert reason in found["reason"]


def test_what_a_model_can_not_have_is_told(tmp_path: Path) -> None:
    """It is neither caught nor missed: nothing was tried, the reason says why, and it is not counted."""
    faults = f'{TOO_MUCH} Fault("speed", "a flat tyre", Verdict.FAIL, elsewhere),'
    root = layout(tmp_path, faults)
    code, (_, found), _ = ask(root)
    assert code == 0
    assert found == {
        "gate": "speed",
        "fault": "a flat tyre",
        "verdict": "NOT_APPLICABLE",
        "expected": "FAIL",
        "reason": "it has no wheels",
        "applies": False,
    }
    command = [sys.executable, "-m", "tidegate", "gate", "selftest"]
    shown = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert "1 of 1 faults caught by 1 gate; 1 not applicable to this model" in shown
    assert "it has no wheels" in shown


def result(gate: str, verdict: Verdict, applies: bool = True) -> runner.Result:
    """One fault's result, as expected."""
    return runner.Result(gate, f"fault of {verdict}", verdict, verdict, "", applies=applies)


@pytest.mark.parametrize(
    ("results", "why"),
    [
        ([Verdict.FAIL] * 3, ""),
        ([Verdict.FAIL] * 2 + [None], ""),
        ([Verdict.FAIL] + [None] * 2, "1 of 3 faults were caught, and 2 must be"),
        ([None] * 3, "0 of 3 faults were caught"),
        ([Verdict.ERROR] * 3, "no fault that was caught made it FAIL"),
    ],
)
def test_enough_must_be_caught_whatever_the_model_is(results: list[Verdict | None], why: str) -> None:
    """What is left out may not hide that a gate was hardly tried; a user's own gate is not held to that."""
    gates = {"data": why, "mine": ""}
    for gate_name, expected in gates.items():
        suite = runner.Suite(gate_name, tuple(range(len(results))))  # type: ignore[arg-type]
        found = [
            result(gate_name, one) if one else result(gate_name, Verdict.NOT_APPLICABLE, applies=False)
            for one in results
        ]
        assert expected in runner.thin([suite], found).get(gate_name, "")
        assert bool(expected) is bool(runner.thin([suite], found))


def test_a_gate_that_does_not_apply_to_a_planted_fault_has_missed_it() -> None:
    """Only the one who plants may say that a fault can't be; a gate that says it let the fault through."""
    for verdict in (Verdict.NOT_APPLICABLE, Verdict.PASS):
        found = runner.Result("data", "a fault", verdict, verdict, "")
        assert not found.as_expected
        assert not found.caught
    assert not runner.Result(
        "data", runner.CONTROL, Verdict.NOT_APPLICABLE, Verdict.PASS, "", 0, False
    ).caught


def test_a_gate_that_fails_everything_proves_nothing(tmp_path: Path) -> None:
    """Where nothing is broken a gate must pass, else what it says of faults is worth nothing."""
    code, found, _ = ask(layout(tmp_path, TOO_MUCH, value="9"))
    assert code == 1
    assert [(one["fault"], one["verdict"], one["expected"]) for one in found] == [
        (runner.CONTROL, "FAIL", "PASS"),
        ("too much", "FAIL", "FAIL"),
    ]


@pytest.mark.parametrize(("tries", "wanted", "got"), [(2, "PASS", "PASS"), (9, "PASS", "INCONCLUSIVE")])
def test_too_little_evidence_is_looked_at_again(tries: int, wanted: str, got: str) -> None:
    """A few times, with nothing kept of the time before; what stays INCONCLUSIVE is not as expected."""
    seen: list[str] = []
    kept = {"measured": 1}

    def look() -> runner.Seen:
        seen.append("" if kept else "anew")
        return runner.Seen(Verdict.INCONCLUSIVE if len(seen) < tries else Verdict.PASS, "")

    found = runner._settled("speed", runner.CONTROL, Verdict(wanted), look, kept.clear)
    assert (found.verdict, found.as_expected) == (got, got == wanted)
    assert seen == ["", *["anew"] * (len(seen) - 1)]
    assert len(seen) == min(tries, runner.TRIES)


def test_a_gate_that_dies(tmp_path: Path) -> None:
    """What its worker did not get to has no verdict, and says how it ended."""
    faults = f'Fault("speed", "dies", Verdict.ERROR, put("die")), {TOO_MUCH}'
    code, found, _ = ask(layout(tmp_path, faults))
    assert code == 1
    assert [(one["verdict"], one["reason"]) for one in found] == [
        (None, "not tried: the worker ended with 7"),
        (None, "not tried: the worker ended with 7"),
    ]


def test_a_gate_that_hangs(tmp_path: Path) -> None:
    """It is given up after its time, with what it started, and has no verdict."""
    root = layout(tmp_path, 'Fault("speed", "hangs", Verdict.ERROR, put("hang")),')
    team = crew.Crew(root, config.Home(root / ".tidegate"), "tiny", patience=6)
    before = sleepers()
    found = team.run([runner.Suite("speed", runner.suite(root, "speed").faults)])
    assert [one.verdict for one in found] == [Verdict.PASS, None]
    assert "nothing was said for 6 s" in found[1].reason
    assert soon(lambda: sleepers() == before)  # a killed process takes a moment


def sleepers() -> set[int]:
    """The processes that a hanging gate starts; one that nobody has reaped has no command any more."""
    found = psutil.process_iter(["cmdline"])
    return {one.pid for one in found if one.info["cmdline"] == ["sleep", "600"]}


def soon(holds: Callable[[], bool]) -> bool:
    """Wait until something holds; False if it does not within 10 s."""
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither a process nor a room; it exits with 130."""
    root = layout(tmp_path / "clone", 'Fault("speed", "hangs", Verdict.ERROR, put("hang")),')
    (tmp_path / "tmp").mkdir()
    before = sleepers()
    process = subprocess.Popen(
        [sys.executable, "-m", "tidegate", "gate", "selftest"],
        cwd=root,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 60
    while sleepers() == before and time.monotonic() < deadline:
        time.sleep(0.05)
    mine = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(mine) >= 2
    assert processes.gone(mine, 5)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_nothing_to_make_faults_of(tmp_path: Path) -> None:
    """Without the pipeline's results it could not run: exit 3, and what to do."""
    root = layout(tmp_path, TOO_MUCH)
    (root / "data" / "tiny" / "train.parquet").unlink()
    code, found, said = ask(root)
    assert (code, found) == (3, [])
    assert "data/tiny/train.parquet is not here. Run `dvc repro` first." in said


def test_two_faults_of_one_name(tmp_path: Path) -> None:
    """The second would stand for the first: refused."""
    code, _, said = ask(layout(tmp_path, TOO_MUCH * 2))
    assert code == 3
    assert "two faults called `too much`" in said


def test_a_built_in_gate_without_faults(tmp_path: Path) -> None:
    """Nothing shows that it can fail, so the selftest does not pass."""
    root = layout(tmp_path, "")
    assert ask(root)[0] == 0  # a user's own may come without
    suites = [runner.Suite("data"), runner.Suite("mine")]
    assert crew.bare(suites) == ["data"]


def test_report_and_exit_code_must_agree(tmp_path: Path) -> None:
    """A gate that says one thing and exits with another has no verdict."""

    class Place:
        """A room, as far as reading needs one."""

        root, model = tmp_path, "tiny"

    said = report.Report("data", "tiny", (gate.at_most("x", 2, 1),))
    report.write(said, tmp_path / "build" / "tiny" / "gates")
    assert runner._read(Place(), "data", 1).verdict is Verdict.FAIL
    assert runner._read(Place(), "data", 0).verdict is None
