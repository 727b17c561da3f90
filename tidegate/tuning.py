"""Measures how a model is best served on this machine: real service processes, really loaded.

Each setting is tried by processes of the checkout's own service, told by TIDEGATE_SETTINGS to read a file of
ours. The simplest setting's process stays up all the while and is measured before and after each other one.
What is chosen of the numbers is decided by `core.tuning`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tidegate import settings
from tidegate.core.settings_file import set_values
from tidegate.core.tuning import (
    SIMPLEST,
    Choice,
    Point,
    Setting,
    Sweep,
    Trial,
    batches,
    choose,
    grid,
    written,
)
from tidegate.errors import NoData, PlatformError
from tidegate.files import write_atomic
from tidegate.machine import copies, crowd
from tidegate.machine.processes import free_ports
from tidegate.serving.settings import VARIABLE

PATIENCE = 60.0  # seconds to ready
WARM_UP = 0.5  # seconds before what counts
BASELINES = 3  # sweeps of the simplest setting at least: their spread is the noise
_HINT = "Look at the service's code and at build/, then try again."


@dataclass(frozen=True)
class Plan:
    """What is measured: p99's cap in milliseconds, numbers of connections, seconds each, cores at most."""

    cap: float = 15.0
    connections: tuple[int, ...] = (8, 32, 64)
    seconds: float = 2.0
    cores: int = 1


@dataclass(frozen=True)
class Subject:
    """A model's service in a checkout, with the rows that it brings along as examples."""

    checkout: Path
    model: str
    rows: tuple[Any, ...]
    text: str  # of its settings.yaml

    @classmethod
    def find(cls, checkout: Path, model: str) -> Subject:
        """Return a model's; raises NoData when it was not trained here, ConfigError for bad settings."""
        folder = checkout / "build" / model / "model"
        service = settings.place(checkout, model).with_name("service.py")
        if not service.is_file():
            raise NoData(f"{model} has no {service.relative_to(checkout)}", "Name another model.")
        try:
            rows = json.loads((folder / "examples.json").read_text())
        except (OSError, ValueError) as error:
            raise NoData(f"no model in {folder.relative_to(checkout)}", "Train it: dvc repro") from error
        settings.load(checkout, model)
        path = settings.place(checkout, model)
        return cls(checkout, model, tuple(rows), path.read_text() if path.is_file() else "")

    @property
    def module(self) -> str:
        """Return the module that has its service."""
        return f"services.{self.model.replace('-', '_')}.service"


Say = Callable[[str], None]


def tune(subject: Subject, plan: Plan, say: Say = lambda text: None) -> Choice:
    """Measure processes and threads, then batches on the better of them, and return what to serve with.

    `say` is told what is measured next. Nothing is left running, whatever ends it. Raises PlatformError when
    a service does not start or stops answering.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-tune-") as folder:
        runner = _Runner(subject, plan, Path(folder), say)
        with runner.serve(SIMPLEST) as ports:
            runner.baseline(ports)
            for setting in grid(plan.cores):
                runner.trial(setting, ports)
            so_far = choose(runner.sweeps, runner.trials, plan.cap).setting or SIMPLEST
            for setting in batches(so_far, max(plan.connections)):
                runner.trial(setting, ports)
            while len(runner.sweeps) < BASELINES:
                runner.baseline(ports)
        return choose(runner.sweeps, runner.trials, plan.cap)


def steps(plan: Plan) -> int:
    """Return how many sweeps a run has, about: what comes last depends on what is found."""
    tried = len(grid(plan.cores)) + len(batches(SIMPLEST, max(plan.connections)))
    return max(BASELINES, 1 + tried) + tried


class _Runner:
    """Starts services and sweeps them; `sweeps` are the simplest setting's, in turn."""

    def __init__(self, subject: Subject, plan: Plan, folder: Path, say: Say) -> None:
        self.subject, self.plan, self.folder, self.say = subject, plan, folder, say
        self.sweeps: list[Sweep] = []
        self.trials: list[Trial] = []

    @contextlib.contextmanager
    def serve(self, setting: Setting) -> Iterator[tuple[int, ...]]:
        """Run a setting's processes, and give their ports."""
        file = self.folder / f"{setting.workers}-{setting.threads}-{setting.max_rows}.yaml"
        # The same few rows come again and again: a cache would be all that is measured.
        file.write_text(set_values(self.subject.text, {**written(setting), "cache.entries": 0}))
        home = self.folder / "bentoml"
        environment = {
            "BENTOML_HOME": str(home),
            "BENTOML_DO_NOT_TRACK": "True",
            "OTEL_SDK_DISABLED": "true",
            "PYTHONPATH": str(self.subject.checkout),
            "PYTHONDONTWRITEBYTECODE": "1",
            VARIABLE: str(file),
        }
        ports = free_ports(setting.workers)
        with contextlib.ExitStack() as stack:
            started = []
            for port in ports:
                command = [
                    sys.executable,
                    "-P",
                    "-m",
                    "tidegate.serve",
                    self.subject.module,
                    "--port",
                    str(port),
                ]
                started.append(stack.enter_context(copies.launched(command, environment, port)))
            for one in started:
                one.wait(PATIENCE, f"{self.subject.model} served by {setting}", _HINT)
            yield ports

    def baseline(self, ports: Sequence[int]) -> Sweep:
        """Measure the simplest setting once more."""
        self.say(str(SIMPLEST))
        self.sweeps.append(self.sweep(SIMPLEST, ports))
        return self.sweeps[-1]

    def trial(self, setting: Setting, ports: Sequence[int]) -> None:
        """Measure a setting between two sweeps of the simplest, at `ports`."""
        self.say(str(setting))
        with self.serve(setting) as own:
            found = self.sweep(setting, own)
        before = self.sweeps[-1]
        self.trials.append(Trial(found, before, self.baseline(ports)))

    def sweep(self, setting: Setting, ports: Sequence[int]) -> Sweep:
        """Press the services at each number of connections."""
        return Sweep(setting, tuple(self.point(ports, count) for count in self.plan.connections))

    def point(self, ports: Sequence[int], connections: int) -> Point:
        """Press the services at one number of connections; raises PlatformError when they don't answer."""
        counted = _batches(ports)
        try:
            found = crowd.press(
                ports,
                self.subject.rows,
                connections=connections,
                seconds=self.plan.seconds,
                warm_up=WARM_UP,
            )
        except (OSError, TimeoutError) as error:
            raise PlatformError(
                f"{self.subject.model} stopped answering under load ({error})", _HINT
            ) from error
        rows, times = (now - before for now, before in zip(_batches(ports), counted, strict=True))
        batch = rows / times if times else 0.0
        return Point(connections, found.rate, found.quantile(0.5), found.quantile(0.99), found.failed, batch)


_BATCHED = re.compile(r"^tidegate_(?:batch|turn)_rows_(sum|count)\{[^}]*\} ([0-9.e+]+)$", re.M)


def _batches(ports: Sequence[int]) -> tuple[float, float]:
    """Return how many rows were computed in batches so far, and in how many; zeros where nobody counts."""
    rows = times = 0.0
    for port in ports:
        try:
            page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5.0).text
        except httpx.HTTPError:
            continue
        for kind, value in _BATCHED.findall(page):
            rows, times = (rows + float(value), times) if kind == "sum" else (rows, times + float(value))
    return rows, times


# ---------------------------------------------------------------- writing
def write(subject: Subject, setting: Setting, *, dry: bool = False) -> dict[str, tuple[Any, Any]]:
    """Write a choice into the model's settings.yaml; returns what changes, key → (before, after).

    Everything else in the file stays. With `dry` nothing is written.
    """
    path = settings.place(subject.checkout, subject.model)
    text = set_values(subject.text or settings.ABOUT.format(model=subject.model), written(setting))
    where = os.path.relpath(path, subject.checkout)
    before, after = settings.read(subject.text, where), settings.read(text, where)
    if not dry and text != subject.text:
        write_atomic(path, text)
    pairs = {
        "threads": (before.threads, after.threads),
        "workers": (before.workers, after.workers),
        "batching.maxRows": (before.batching.max_rows, after.batching.max_rows),
        "batching.maxDelayMs": (before.batching.max_delay_ms, after.batching.max_delay_ms),
    }
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
