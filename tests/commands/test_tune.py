"""`tidegate tune` on a small model: real processes, real load, and only its own lines written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import tiny_model
from tests.planes import eventually
from tidegate import settings, tuning
from tidegate.core.tuning import Setting
from tidegate.machine import processes

ROOT = Path(__file__).parents[2]
TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
WRITTEN = "# mine\nthreads: 2   # a guess\nqueue: {maxWaiting: 99}\n"
SHORT = ("--seconds", "0.2", "--connections", "4", "--cores", "1", "--p99", "5000")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with flight-delay's service, a tiny model and settings that a person wrote."""
    root = tmp_path / "checkout"
    leave = shutil.ignore_patterns("__pycache__", "settings.yaml")
    for name in ("services", "models", "envs"):
        shutil.copytree(ROOT / name, root / name, ignore=leave)
    tiny_model(root / "build" / "flight-delay" / "model")
    place(root).write_text(WRITTEN)
    (tmp_path / "tmp").mkdir()
    return root


def place(checkout: Path) -> Path:
    """Return the file that is written."""
    return checkout / "services" / "flight_delay" / "settings.yaml"


def environment(checkout: Path) -> dict[str, str]:
    """Return an environment whose temporary files can be looked for."""
    return {**os.environ, "TMPDIR": str(checkout.parent / "tmp"), "TIDEGATE_HOME": str(checkout / "home")}


def ask(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [TIDEGATE, "tune", *arguments],
        cwd=checkout,
        env=environment(checkout),
        capture_output=True,
        text=True,
        timeout=240,
    )


def left(checkout: Path) -> list[Any]:
    """Return what a run left behind: processes and folders."""
    found: list[Any] = processes.carrying({"PYTHONPATH": str(checkout)})
    return found + list((checkout.parent / "tmp").glob("tidegate-*"))


def test_it_measures_tells_and_writes_its_own_lines(checkout: Path) -> None:
    """The file says what was chosen of what was tried; comments and other keys are as they were."""
    done = ask(checkout, "flight-delay", *SHORT, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    tried = [(row["workers"], row["threads"], row["max_rows"]) for row in told["tried"]]
    assert tried == [(1, 1, 0), (1, 1, 8)]
    for row in told["tried"]:
        (point,) = row["points"]
        assert (point["connections"], point["failed"]) == (4, 0)
        assert point["rate"] > 0
        assert 0 < point["p50"] <= point["p99"]
    chosen = told["chosen"]
    assert (chosen["workers"], chosen["threads"], chosen["max_rows"]) in tried
    assert told["changed"]["threads"] == {"from": 2, "to": 1}
    said = settings.load(checkout, "flight-delay")
    assert (said.threads, said.workers, said.batching.max_rows) == (1, 1, chosen["max_rows"])
    assert said.queue.max_waiting == 99
    text = place(checkout).read_text()
    assert text.startswith("# mine\nthreads: 1   # a guess\nqueue: {maxWaiting: 99}\n")
    assert left(checkout) == []


def test_a_dry_run_shows_the_curve_and_writes_nothing(checkout: Path) -> None:
    """A table, a plot, the choice, the file and the plane's replicas; the file stays as it was."""
    done = ask(checkout, "flight-delay", *SHORT, "--dry-run")
    assert done.returncode == 0, done.stderr
    shown = ("Requests/s (p99 in ms)", "requests/s by connections", "chosen    ", "would say", "replicas: 1")
    assert [part for part in shown if part not in done.stdout] == []
    assert "measuring 1 process, 1 thread, batches of 8 within 1 ms" in done.stderr
    assert place(checkout).read_text() == WRITTEN


def test_nothing_is_written_when_nothing_keeps_the_cap(checkout: Path) -> None:
    """Exit 1, with the lowest p99 that was seen."""
    done = ask(checkout, "flight-delay", *SHORT, "--p99", "0.001")
    assert done.returncode == 1
    assert "no setting keeps p99 ≤ 0.001 ms: the lowest p99 was" in done.stderr
    assert place(checkout).read_text() == WRITTEN


def test_ctrl_c_leaves_nothing_behind(checkout: Path) -> None:
    """Interrupted amid a measurement it exits 130; no process, no file and no half-written settings."""
    running = subprocess.Popen(
        [TIDEGATE, "tune", "flight-delay", "--seconds", "60", "--connections", "4"],
        cwd=checkout,
        env=environment(checkout),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stderr
        assert running.stderr.readline() == "measuring 1 process, 1 thread\n"  # its service is up by now
        assert processes.carrying({"PYTHONPATH": str(checkout)})
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
    finally:
        running.kill()
        running.communicate()
    eventually(lambda: left(checkout) == [], 30)
    assert place(checkout).read_text() == WRITTEN


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "nothing has no services/nothing/service.py"),
        (("flight-delay", "--connections", "many"), "--connections many is no list of numbers"),
        (("flight-delay", "--seconds", "0"), "--seconds must be more than 0, not 0"),
    ],
)
def test_what_can_not_be_measured_is_said(checkout: Path, arguments: tuple[str, ...], said: str) -> None:
    """Before anything is started."""
    done = ask(checkout, *arguments)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr


def test_an_untrained_model_and_a_service_that_does_not_start_are_told(checkout: Path) -> None:
    """The first names the command that trains it, the second what the service said."""
    schema = checkout / "services" / "flight_delay" / "schema.py"
    schema.write_text("raise RuntimeError('broken on purpose')\n")
    done = ask(checkout, "flight-delay", *SHORT)
    assert (done.returncode, "RuntimeError: broken on purpose" in done.stderr) == (1, True), done.stderr
    shutil.rmtree(checkout / "build")
    done = ask(checkout, "flight-delay", *SHORT)
    assert (done.returncode, "Train it: dvc repro" in done.stderr) == (1, True), done.stderr


def test_a_model_without_settings_gets_a_file(tmp_path: Path) -> None:
    """It begins with what it is, and says what was chosen; written again it stays the same."""
    (tmp_path / "services" / "toy_model").mkdir(parents=True)
    subject = tuning.Subject(tmp_path, "toy-model", (), "")
    changed = tuning.write(subject, Setting(workers=2, max_rows=32, max_delay_ms=1.0))
    text = settings.place(tmp_path, "toy-model").read_text()
    assert text.startswith("# How toy-model is served.")
    assert yaml.safe_load(text)["batching"] == {"maxDelayMs": 1.0, "maxRows": 32}
    assert changed == {"workers": (1, 2), "batching.maxRows": (0, 32), "batching.maxDelayMs": (2.0, 1.0)}
    again = tuning.Subject(tmp_path, "toy-model", (), text)
    assert tuning.write(again, Setting(workers=2, max_rows=32, max_delay_ms=1.0)) == {}
    assert settings.place(tmp_path, "toy-model").read_text() == text
