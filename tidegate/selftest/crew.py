"""All gates' faults: a worker process a gate, several at once, and a result for each fault in any case."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tidegate import gating
from tidegate.config import Home
from tidegate.errors import Fatal, NoData
from tidegate.selftest import runner
from tidegate.selftest.runner import Result, Suite
from tidegate.selftest.worker import Line, Task

PATIENCE = 180.0  # seconds for one fault
GRACE = 20.0  # seconds to stop in
Tell = Callable[[Result], None]


@dataclass
class Crew:
    """What is tried where; `tell` hears of each result as it arrives, from any thread."""

    root: Path
    home: Home
    model: str
    jobs: int = 1
    patience: float = PATIENCE
    tell: Tell = lambda result: None
    _workers: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, suites: Sequence[Suite]) -> list[Result]:
        """Try all suites and return their results in order.

        Those that time things run by themselves, after the others. Raises NoData where nothing is built.
        """
        self._built()
        with tempfile.TemporaryDirectory(prefix="tidegate-selftest-") as folder:
            found: dict[str, list[Result]] = {}
            together = [one for one in suites if not one.alone]
            with self._stopped_at_the_end(), ThreadPoolExecutor(max(self.jobs, 1)) as pool:
                # Most faults first: the longest must not be what everybody waits for at the end.
                queue = sorted(together, key=lambda one: -len(one.faults))
                waiting = {pool.submit(self._try, one, Path(folder)): one for one in queue}
                try:
                    for future, one in waiting.items():
                        found[one.gate] = future.result()
                    for one in suites:
                        if one.alone:
                            found[one.gate] = self._try(one, Path(folder))
                except BaseException:
                    self._stop()
                    raise
            return [result for one in suites for result in found[one.gate]]

    def _built(self) -> None:
        needed = [f"data/{self.model}/{split}.parquet" for split in ("train", "holdout")]
        needed += [f"build/{self.model}/{name}" for name in ("model", "predictions.parquet", "release.yaml")]
        missing = [name for name in needed if not (self.root / name).exists()]
        if missing:
            raise NoData(
                f"faults are made of what the pipeline makes, and {missing[0]} is not here",
                "Run `dvc repro` first.",
            )

    def _try(self, one: Suite, folder: Path) -> list[Result]:
        """Return the control's result and one for each fault; None is the verdict of what was not reached."""
        expected = {runner.CONTROL: one.control, **{fault.name: fault.expected for fault in one.faults}}
        found: dict[str, Result] = {}
        ended = "was stopped"
        log = folder / f"{one.gate}.log"
        with self._worker(one.gate, folder, log) as worker:
            for line in _lines(worker, self.patience):
                if line.fault not in expected:
                    raise Fatal(f"the faults of {one.gate} changed while they were tried", "Try again.")
                wanted = expected[line.fault]
                result = Result(
                    one.gate, line.fault, line.verdict, wanted, line.reason, line.seconds, line.applies
                )
                found[line.fault] = result
                self.tell(result)
            ended = _ended(worker, self.patience, log)
        for name in expected:
            if name not in found:
                found[name] = Result(one.gate, name, None, expected[name], f"not tried: {ended}")
                self.tell(found[name])
        return [found[name] for name in expected]

    @contextmanager
    def _worker(self, gate: str, folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        task = Task(str(self.root), str(self.home.root), str(folder), gate, self.model)
        # Rooms have stores of their own: what names this checkout's must not reach the gates in them.
        environment = {name: value for name, value in os.environ.items() if name != "TIDEGATE_HOME"}
        environment["PYTHONPATH"] = str(self.root)
        with log.open("wb") as said:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tidegate.selftest.worker", msgspec.json.encode(task).decode()],
                cwd=self.root,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,  # Ctrl-C reaches it through us, once
            )
        self._workers.add(worker)
        if self._stopping.is_set():
            worker.terminate()
        try:
            yield worker
        finally:
            _end(worker)
            self._workers.discard(worker)

    @contextmanager
    def _stopped_at_the_end(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for worker in list(self._workers):
            worker.terminate()


def _lines(worker: subprocess.Popen[bytes], patience: float) -> Iterator[Line]:
    """Yield results until the worker ends, or says nothing for so long that it never will."""
    assert worker.stdout is not None
    held = b""
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        while selector.select(patience):
            read = os.read(worker.stdout.fileno(), 65536)
            if not read:
                return
            *whole, held = (held + read).split(b"\n")
            yield from (msgspec.json.decode(line, type=Line) for line in whole)


def _ended(worker: subprocess.Popen[bytes], patience: float, log: Path) -> str:
    """Return how a worker ended, in words; one that still runs is hung."""
    try:
        code = worker.wait(GRACE)
    except subprocess.TimeoutExpired:
        return f"nothing was said for {patience:g} s"
    said = log.read_text(errors="replace").strip().splitlines()
    return f"the worker ended with {code}" + (f": {said[-1]}" if said else "")


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Stop a worker and what it started, also where it hangs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.terminate()
        worker.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)  # its session: served copies, if it could not stop them
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            pipe.close()


def bare(suites: Sequence[Suite]) -> list[str]:
    """Return the gates of ours without a fault: nothing shows that they can fail. A user's may be so."""
    return [one.gate for one in suites if not one.faults and one.gate in gating.BUILTIN]


def counted(results: Sequence[Result]) -> str:
    """Return how many faults were caught, and how many the model can't have, in words."""
    faults = [one for one in results if not one.is_control]
    tried = [one for one in faults if one.applies]
    caught = sum(one.caught for one in tried)
    gates = len({one.gate for one in results})
    text = f"{caught} of {len(tried)} faults caught by {gates} {'gate' if gates == 1 else 'gates'}"
    left = len(faults) - len(tried)
    return text + (f"; {left} not applicable to this model" if left else "")
