"""Served copies at work: every request is counted as what it was, and what the kernel says is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.gates.endpoint import serve
from tests.toy_bento import toy_release
from tidegate.errors import NoData
from tidegate.machine import copies
from tidegate.machine.caller import Caller
from tidegate.machine.meter import Meter, cpu_seconds
from tidegate.machine.soak import soak

ROWS = [{"origin": "EWR", "distance": 1}, {"origin": "JFK", "distance": 2}]


def test_answers_are_counted_by_what_they_say() -> None:
    """2xx is an answer; another status and a closed connection are failures, and the first is kept."""

    def fault(
        n: int, body: bytes, status: int, answer: dict[str, object]
    ) -> tuple[int, dict[str, object]] | None:
        return None if n == 7 else (503 if n == 4 else status, answer)

    with serve(fault) as url, Caller(f"{url}/predict", ROWS) as caller:
        assert caller.post(10)
        assert (caller.sent, caller.failed, caller.reason) == (10, 2, "answered 503")


def test_rows_are_sent_in_turn() -> None:
    """Each as it is, over and over."""
    bodies: list[bytes] = []

    def fault(n: int, body: bytes, status: int, answer: dict[str, object]) -> tuple[int, dict[str, object]]:
        bodies.append(body)
        return status, answer

    with serve(fault) as url, Caller(f"{url}/predict", ROWS) as caller:
        caller.post(4)
    assert [b"EWR" in body for body in bodies] == [True, False, True, False]


def test_nobody_there_is_told_at_once() -> None:
    """A service that is gone costs one request, not a time-out for each."""
    with serve() as url:
        pass
    with Caller(f"{url}/predict", ROWS) as caller:
        assert not caller.post(1000)
        assert (caller.sent, caller.failed) == (1, 1)
        assert "nobody listens" in caller.reason


def test_no_row_is_no_data() -> None:
    """Nothing to send is not everything answered."""
    with pytest.raises(NoData):
        Caller("http://127.0.0.1:9/predict", [])


def test_children_count_with_their_parent() -> None:
    """What a process has others do for it, and what they did before they ended, is its own."""
    burn = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    parent = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-c", {burn!r}])
keep = "x = bytearray(b'x') * 50_000_000; print(flush=True); input()"
hold = subprocess.Popen([sys.executable, "-c", keep], stdin=subprocess.PIPE)
hold.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        memory, cpu = Meter(process.pid).read()
        for one in psutil.Process(process.pid).children():
            one.kill()
    assert memory.rss >= memory.uss > 50_000_000
    assert cpu > 0.2


def test_a_process_that_has_ended_has_no_readings() -> None:
    """Not zeros, from which a release would look thrifty."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        seen = psutil.Process(process.pid)
        meter = Meter(process.pid)
        assert not meter.ended()
        assert cpu_seconds(seen) >= 0
        process.kill()
        process.wait()
        assert meter.ended()
        for read in (meter.read, lambda: cpu_seconds(seen)):
            with pytest.raises(psutil.Error):
                read()


def test_two_copies_get_the_same_requests_in_turns(tmp_path: Path) -> None:
    """As many each, read at the same points; one that ends on the way gets no more, and the other goes on."""
    sound = toy_release(tmp_path, "sound")
    mortal = toy_release(tmp_path, "mortal", each="kept.append(0); len(kept) > 45 and sys.exit(9)")
    with copies.serve(tmp_path, sound) as one, copies.serve(tmp_path, mortal) as other:
        ours, theirs = soak([(one, ROWS), (other, ROWS)], requests=100, warmup=10, blocks=8)
    assert ours.done == [10, 22, 35, 47, 60, 72, 85, 97, 110]
    assert (ours.sent, ours.failed, ours.ended) == (110, 0, False)
    assert theirs.done == [10, 22, 35]
    assert theirs.ended
    assert len(theirs.costs) == 2
