"""Copies of releases: ready when they say so, gone with whoever asked for them, whatever ended that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from tests.toy_bento import toy_release
from tidegate.core.release import ReleaseRecord
from tidegate.errors import PlatformError, ReleaseNotFound
from tidegate.machine import copies
from tidegate.machine.processes import gone

ROOT = Path(__file__).parents[2]


def children() -> set[int]:
    """What this process has started and not yet ended."""
    return {one.pid for one in psutil.Process().children(recursive=True)}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder for Bentos."""
    return tmp_path / "bentoml"


def test_a_copy_answers_within_its_block_and_is_gone_after_it(store: Path) -> None:
    """It is ready when the block begins, is one process, and leaves none behind, nor a folder of counters."""
    before = children()
    with copies.serve(store, toy_release(store, "1")) as copy:
        assert httpx.post(f"{copy.url}/predict", json={"x": 1}).status_code == 200
        assert copy.ready_after > 0
        assert psutil.pid_exists(copy.pid)
        (store / "metrics" / copy.url.rpartition(":")[2]).mkdir(parents=True)  # as tidegate/serve.py does
    assert not psutil.pid_exists(copy.pid)
    assert children() == before
    assert list((store / "metrics").iterdir()) == []


@pytest.mark.parametrize("problem", [ValueError("odd"), KeyboardInterrupt(), SystemExit(3)])
def test_a_copy_ends_with_its_block_whatever_ends_that(store: Path, problem: BaseException) -> None:
    """An exception, Ctrl-C or an exit in the block goes on as it is, and the copy is gone by then."""
    before = children()
    with pytest.raises(type(problem)), copies.serve(store, toy_release(store, "1")) as copy:
        raise problem
    assert not psutil.pid_exists(copy.pid)
    assert children() == before


def test_what_does_not_end_when_asked_is_killed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that ignores SIGTERM does not stay."""
    monkeypatch.setattr(copies, "GRACE", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with copies.serve(store, toy_release(store, "1", start=deaf)) as copy:
        pass
    assert not psutil.pid_exists(copy.pid)


def test_two_copies_of_one_release_stand_beside_each_other(store: Path) -> None:
    """Each has a port of its own."""
    record = toy_release(store, "1")
    with copies.serve(store, record) as one, copies.serve(store, record) as other:
        assert one.url != other.url
        assert (
            httpx.get(f"{one.url}/readyz").status_code == httpx.get(f"{other.url}/readyz").status_code == 200
        )


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ("raise RuntimeError('no model here')", "ended with 1: RuntimeError: no model here"),
        ("print('I can not', flush=True); sys.exit(3)", "ended with 3: I can not"),
        ("import os; os._exit(0)", "ended with 0: it said nothing"),
    ],
)
def test_a_copy_that_does_not_start_says_why(store: Path, start: str, says: str) -> None:
    """The error has what the process said last, or the exception that it ended by, and nothing stays."""
    before = children()
    with pytest.raises(PlatformError) as caught, copies.serve(store, toy_release(store, "1", start=start)):
        raise AssertionError("the block must not be entered")
    assert says in str(caught.value)
    assert children() == before


def test_a_copy_that_is_never_ready_is_given_up(store: Path) -> None:
    """After `patience` seconds it is an error, and the process is gone."""
    before = children()
    hangs = toy_release(store, "1", start="print('loading', flush=True); await asyncio.sleep(60)")
    with (
        pytest.raises(PlatformError, match="not ready in time: loading"),
        copies.serve(store, hangs, patience=0.6),
    ):
        raise AssertionError("the block must not be entered")
    assert children() == before


def test_a_bento_that_is_not_the_recorded_one_is_not_started(store: Path) -> None:
    """A changed or missing Bento is refused before any process starts."""
    record = toy_release(store, "1")
    other = msgspec.structs.replace(
        record, bento=msgspec.structs.replace(record.bento, digest="sha256:other")
    )
    lost = msgspec.structs.replace(record, bento=msgspec.structs.replace(record.bento, tag="toy:gone"))
    for wrong in (other, lost):
        with pytest.raises(ReleaseNotFound), copies.serve(store, wrong):
            raise AssertionError("the block must not be entered")


GATE = """
import sys, msgspec
from pathlib import Path
from tidegate.core.release import ReleaseRecord
from tidegate.machine import copies
record = msgspec.json.decode(sys.argv[2], type=ReleaseRecord)
with copies.serve(Path(sys.argv[1]), record) as copy:
    print(copy.pid, flush=True)
    sys.stdin.read()
"""


def _holder(store: Path, record: ReleaseRecord) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Start a process that serves a copy and waits; return it and the copy."""
    command = [sys.executable, "-c", GATE, str(store), msgspec.json.encode(record).decode()]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    return holder, psutil.Process(int(holder.stdout.readline()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_gate_leaves_no_copy(store: Path, number: int) -> None:
    """SIGTERM and SIGKILL run no `finally` of the gate's, and its copy ends all the same, as by Ctrl-C."""
    holder, copy = _holder(store, toy_release(store, "1"))
    with holder:
        folder = Path(copy.cwd())
        started = [copy, *psutil.Process(holder.pid).children()]
        os.kill(holder.pid, number)
        holder.wait(20)
    assert gone(started, 25)
    assert not folder.exists()
