"""Slow work beside the ticks: one of a name at a time, errors handed over, retries that wait longer."""

from __future__ import annotations

import threading
import time

import pytest

from tidegate.agent.jobs import BackOff, Done, InlineJobs, Jobs, ThreadJobs
from tidegate.errors import Unreachable


def wait_for(jobs: Jobs) -> list[Done]:
    """Return what finishes next; fails after 10 s."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        done = jobs.collect()
        if done:
            return done
        time.sleep(0.005)
    raise AssertionError("nothing finished")


@pytest.fixture(params=[InlineJobs, ThreadJobs])
def jobs(request: pytest.FixtureRequest) -> Jobs:
    """Both kinds keep the same promises."""
    made: Jobs = request.param()
    return made


def test_a_result_is_collected_once(jobs: Jobs) -> None:
    """What a job returned is handed over with its key, one time."""
    assert jobs.submit("a", lambda: 42)
    assert wait_for(jobs) == [Done("a", 42)]
    assert jobs.collect() == []


def test_an_error_of_ours_is_handed_over(jobs: Jobs) -> None:
    """A TidegateError is a result like another."""
    error = Unreachable("gone")

    def fail() -> None:
        raise error

    jobs.submit("a", fail)
    assert wait_for(jobs) == [Done("a", error=error)]


def test_one_of_a_name_at_a_time(jobs: Jobs) -> None:
    """Until it is collected a second one of the same name is not begun; another name is."""
    ran: list[str] = []
    assert jobs.submit("a", lambda: ran.append("first"))
    assert not jobs.submit("a", lambda: ran.append("second"))
    assert jobs.submit("b", lambda: ran.append("other"))
    got = {done.key for done in wait_for(jobs)}
    while got != {"a", "b"}:
        got |= {done.key for done in wait_for(jobs)}
    assert sorted(ran) == ["first", "other"]
    assert jobs.submit("a", lambda: None)


def test_a_slow_job_holds_up_neither_the_tick_nor_another_job() -> None:
    """While one waits, submit and collect return at once and other work is done."""
    jobs, release = ThreadJobs(), threading.Event()
    jobs.submit("slow", lambda: release.wait(10))
    jobs.submit("quick", lambda: 1)
    assert wait_for(jobs) == [Done("quick", 1)]
    assert jobs.collect() == []
    release.set()
    assert wait_for(jobs) == [Done("slow", True)]


def test_an_error_that_is_not_ours_is_handed_over_with_its_traceback_logged(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in a job ends neither the agent nor in silence."""
    jobs.submit("a", lambda: 1 / 0)
    (done,) = wait_for(jobs)
    assert "ZeroDivisionError" in str(done.error)
    assert "Traceback" in caplog.text


def test_back_off_doubles_up_to_its_longest_and_ends_with_success() -> None:
    """1, 2, 4 s and so on; other names don't wait; done or forgotten begins anew."""
    later, now, waits = BackOff(), 0.0, []
    for _ in range(5):
        later.failed("a", now, 10.0)
        start = now
        while not later.ready("a", now):
            now += 0.5
        waits.append(now - start)
    assert waits == [1, 2, 4, 8, 10]
    later.failed("a", now, 10.0)
    assert later.ready("b", now)
    later.done("a")
    assert later.ready("a", now)
    later.failed("a", now, 10.0)
    later.keep(["b"])
    assert later.ready("a", now)
