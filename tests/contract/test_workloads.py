"""What every Workloads keeps to; and what the processes under supervisord survive."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from tests.images import containers_at, image_release, usable
from tests.planes import Load, Plane, eventually, plane_up, tiny_command, tiny_record, tiny_servers
from tests.recorders import recorder
from tidegate import planes
from tidegate.adapters.supervisor import SupervisorWorkloads
from tidegate.core.release import ReleaseRecord, copy_of
from tidegate.errors import PlatformError, ReleaseNotFound, Unreachable
from tidegate.machine.placements import Placed, Placements, programs
from tidegate.machine.processes import is_free
from tidegate.machine.supervisord import Supervisord
from tidegate.machine.targets import Targets
from tidegate.ports import ReplicaState, Route, Workloads
from tidegate.testing import FakeWorkloads

ONE, TWO = tiny_record(1), tiny_record(2)


@dataclass(frozen=True)
class Subject:
    """Workloads where two releases can run, and where none can be found."""

    workloads: Workloads
    empty: Workloads
    one: ReleaseRecord = ONE
    two: ReleaseRecord = TWO


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with plane_up(tmp_path_factory.mktemp("workloads")) as started:
        yield started


@pytest.fixture
def real(plane: Plane) -> Iterator[SupervisorWorkloads]:
    workloads = plane.workloads()
    yield workloads
    for found in workloads.list():
        workloads.stop(found.model, found.release)


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[Subject]:
    """Containers of podman; for GPUs no image of theirs was ever built."""
    if why := usable():
        pytest.skip(why)
    with containers_at(tmp_path) as workloads, containers_at(tmp_path / "gpu", gpus="all") as empty:
        yield Subject(workloads, empty, image_release(1), image_release(2))


@pytest.fixture(params=["fake", "supervisor", "podman"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "fake":
        empty = FakeWorkloads()
        empty.available = set()
        return Subject(FakeWorkloads(), empty)
    if request.param == "podman":
        return request.getfixturevalue("contained")
    plane: Plane = request.getfixturevalue("plane")
    at = plane.layout
    return Subject(
        request.getfixturevalue("real"),
        SupervisorWorkloads(at.folder, at.supervisor, plane.home.root / "bentoml"),
    )


def _ready(workloads: Workloads) -> bool:
    return all(found.ready for found in workloads.list())


def _endpoints(workloads: Workloads) -> list[tuple[str, ...]]:
    return [found.endpoints for found in workloads.list()]


def test_nothing_runs_at_first(subject: Subject) -> None:
    """A new plane has no workload."""
    assert list(subject.workloads.list()) == []


def test_a_started_release_becomes_ready(subject: Subject) -> None:
    """It is listed with each replica at an endpoint of its own, and ready before long."""
    subject.workloads.start(subject.one, 2)
    eventually(lambda: _ready(subject.workloads))
    (found,) = subject.workloads.list()
    assert (found.model, found.release, len(set(found.endpoints))) == ("toy", subject.one.id, 2)
    subject.workloads.warm("toy", subject.one.id)


def test_starting_again_changes_nothing(subject: Subject) -> None:
    """Every action is idempotent: an agent that resumes may start what it had started."""
    subject.workloads.start(subject.one, 1)
    before = _endpoints(subject.workloads)
    subject.workloads.start(subject.one, 1)
    assert _endpoints(subject.workloads) == before


def test_releases_stand_side_by_side(subject: Subject) -> None:
    """Stopping one leaves the other, and stopping it again does nothing."""
    subject.workloads.start(subject.one, 1)
    subject.workloads.start(subject.two, 1)
    subject.workloads.stop("toy", subject.one.id)
    subject.workloads.stop("toy", subject.one.id)
    assert [found.release for found in subject.workloads.list()] == [subject.two.id]


def test_a_copy_stands_beside_its_release(subject: Subject) -> None:
    """It has a name and endpoints of its own, is warmed and stopped by it, and the release goes on."""
    workloads, copy = subject.workloads, copy_of(subject.one.id)
    workloads.start(subject.one, 1)
    workloads.start(subject.one, 2, copy=True)
    workloads.start(subject.one, 2, copy=True)
    eventually(lambda: _ready(workloads))
    found = {each.release: each.endpoints for each in workloads.list()}
    assert {release: len(endpoints) for release, endpoints in found.items()} == {subject.one.id: 1, copy: 2}
    assert not set(found[subject.one.id]) & set(found[copy])
    workloads.warm("toy", copy)
    workloads.stop("toy", copy)
    assert {each.release: each.endpoints for each in workloads.list()} == {
        subject.one.id: found[subject.one.id]
    }
    with pytest.raises(Unreachable):
        workloads.warm("toy", copy)


def test_stopping_a_release_leaves_its_copy(subject: Subject) -> None:
    """Neither's name is taken for the other's."""
    subject.workloads.start(subject.one, 1, copy=True)
    subject.workloads.start(subject.one, 1)
    subject.workloads.stop("toy", subject.one.id)
    assert [found.release for found in subject.workloads.list()] == [copy_of(subject.one.id)]


def test_a_release_that_is_not_here_is_named(subject: Subject) -> None:
    """It fails for good, says what to do, and leaves nothing behind."""
    with pytest.raises(ReleaseNotFound) as error:
        subject.empty.start(subject.one, 1)
    assert error.value.action
    assert list(subject.empty.list()) == []


def test_warming_what_does_not_run_is_unreachable(subject: Subject) -> None:
    """The caller learns that nothing was warmed."""
    with pytest.raises(Unreachable):
        subject.workloads.warm("toy", subject.one.id)


# ---------------------------------------------------------------- supervisord
def _process(port: int) -> psutil.Process:
    """The replica that was started on a port, listening or not."""
    for process in psutil.process_iter():
        try:
            if str(port) in process.cmdline() and "TIDEGATE_WORKLOAD" in process.environ():
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"no replica on {port}")


def _port(workloads: Workloads, index: int = 0) -> int:
    (found,) = workloads.list()
    return int(found.endpoints[index].rsplit(":", 1)[1])


def test_stop_returns_when_the_processes_are_gone(real: SupervisorWorkloads) -> None:
    """After stop the port is free and the process is no more."""
    real.start(ONE, 1)
    eventually(lambda: _ready(real))
    port = _port(real)
    process = _process(port)
    real.stop("toy", ONE.id)
    assert not process.is_running()
    assert is_free(port)


def test_a_release_that_hangs_as_it_is_stopped_holds_up_no_start(real: SupervisorWorkloads) -> None:
    """Its processes have seconds to end; what traffic goes back to meanwhile starts at once."""
    real.start(ONE, 1)
    eventually(lambda: _ready(real))
    hung = _process(_port(real))
    hung.suspend()
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(real.stop, "toy", ONE.id)
        began = time.monotonic()
        real.start(TWO, 1)
        eventually(lambda: any(w.ready and w.release == TWO.id for w in real.list()))
        assert not stopping.done(), f"it ended after {time.monotonic() - began:.1f} s"
        assert hung.is_running()
        hung.resume()
        stopping.result(30)
    assert [found.release for found in real.list()] == [TWO.id]
    assert not hung.is_running()


def test_a_killed_replica_comes_back_on_its_port(real: SupervisorWorkloads) -> None:
    """The supervisor restarts it without the agent; its sibling is untouched."""
    real.start(ONE, 2)
    eventually(lambda: _ready(real))
    before, sibling = _endpoints(real), _process(_port(real, 1)).pid
    _process(_port(real, 0)).kill()
    eventually(lambda: not _ready(real))
    eventually(lambda: _ready(real))
    assert _endpoints(real) == before
    assert _process(_port(real, 1)).pid == sibling


def test_another_number_of_replicas_is_followed(real: SupervisorWorkloads) -> None:
    """Started again with more or fewer, the replicas that stay are left alone and the others are gone."""
    real.start(ONE, 2)
    eventually(lambda: _ready(real))
    (first, second), process = _endpoints(real)[0], _process(_port(real, 0))
    real.start(ONE, 3)
    eventually(lambda: _ready(real))
    assert _endpoints(real)[0][:2] == (first, second)
    assert len(set(_endpoints(real)[0])) == 3
    real.start(ONE, 1)
    assert _endpoints(real) == [(first,)]
    assert process.is_running()
    assert is_free(int(second.rsplit(":", 1)[1]))


def test_no_request_fails_as_replicas_come_and_go(plane: Plane, real: SupervisorWorkloads) -> None:
    """With fewer replicas than the router still knows, what meets one that is gone is tried elsewhere."""
    real.start(ONE, 2)
    eventually(lambda: _ready(real))
    router = plane.router()
    router.apply({"toy": Route({ONE.id: 100}, {ONE.id: _endpoints(real)[0]})})
    with Load(plane, "/toy/x", "/toy/x", "/toy/slow0.1") as load:
        for replicas in (3, 1, 2):
            real.start(ONE, replicas)
            time.sleep(0.3)
            eventually(lambda: _ready(real))
            router.apply({"toy": Route({ONE.id: 100}, {ONE.id: _endpoints(real)[0]})})
            time.sleep(0.2)
    router.apply({})
    assert load.failed == {}
    assert load.answered(ONE.id) > 20


def test_a_copy_survives_a_new_supervisor(plane: Plane, real: SupervisorWorkloads) -> None:
    """What is a copy is stored with it, and its number of replicas can change like any other's."""
    real.start(ONE, 1)
    real.start(ONE, 1, copy=True)
    eventually(lambda: _ready(real))
    before = _endpoints(real)
    again = plane.workloads()
    assert [found.release for found in again.list()] == [ONE.id, copy_of(ONE.id)]
    again.start(ONE, 2, copy=True)
    eventually(lambda: _ready(again))
    assert [len(endpoints) for endpoints in _endpoints(again)] == [1, 2]
    assert _endpoints(again)[1][:1] == before[1]


def test_a_replica_learns_where_to_write_its_answers(plane: Plane, real: SupervisorWorkloads) -> None:
    """The folder is in its environment and is there, for the owner alone; a copy has the same."""
    real.start(ONE, 1)
    real.start(ONE, 1, copy=True)
    eventually(lambda: _ready(real))
    folder = plane.layout.folder / "answers"
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0
    for found in real.list():
        port = int(found.endpoints[0].rsplit(":", 1)[1])
        assert _process(port).environ()["TIDEGATE_ANSWERS"] == str(folder)


def test_a_placement_of_an_older_version_is_read(plane: Plane, real: SupervisorWorkloads) -> None:
    """A release that was started before there were copies is still known, and can be stopped."""
    real.start(ONE, 1)
    path = plane.layout.folder / "workloads" / f"toy.{ONE.id}.conf"
    head, _, body = path.read_text().partition("\n")
    assert set(json.loads(head.removeprefix("; tidegate "))) == {"record", "ports", "sha256"}
    written = json.loads(head.removeprefix("; tidegate "))
    older = "".join(re.sub(r'TIDEGATE_ANSWERS="[^"]*",', "", line) for line in body.splitlines(keepends=True))
    assert older != body
    written["sha256"] = hashlib.sha256(older.encode()).hexdigest()
    path.write_text(f"; tidegate {json.dumps(written)}\n{older}")
    assert [found.release for found in plane.workloads().list()] == [ONE.id]


def test_warm_up_says_what_it_is(plane: Plane, real: SupervisorWorkloads) -> None:
    """Each row carries the header by which a service knows not to count it."""
    real.start(ONE, 1)
    eventually(lambda: _ready(real))
    with recorder("seen") as seen:
        (found,) = real.list()
        placed = Placements(plane.layout.folder)
        (known,) = placed.read().values()
        port = int(seen.endpoint.rsplit(":", 1)[1])
        moved = replace(known, ports=(port,))
        placed.write(moved, programs(placed, moved, tiny_command))
        real.warm("toy", found.release)
        placed.write(known, programs(placed, known, tiny_command))
    assert [(r.path, r.headers["x-tidegate-warm"]) for r in seen.received] == [("/predict", "1")] * 2


def test_a_replica_that_exits_fails_with_its_last_words(plane: Plane, real: SupervisorWorkloads) -> None:
    """FAILED carries what the log said last, so that nobody has to look for it."""
    at = plane.layout
    script = "import sys; print('no such model file'); sys.exit(3)"
    broken = SupervisorWorkloads(
        at.folder,
        at.supervisor,
        plane.home.root,
        command=lambda record, port: (["/usr/bin/env", "python3", "-c", script], {}),
    )
    broken.start(ONE, 1)
    eventually(lambda: broken.list()[0].replicas[0].state is ReplicaState.FAILED)
    assert "no such model file" in broken.list()[0].replicas[0].detail


def test_a_restarted_supervisor_brings_the_releases_back(plane: Plane, real: SupervisorWorkloads) -> None:
    """Ports survive, so routes stay right."""
    real.start(ONE, 2)
    eventually(lambda: _ready(real))
    before = _endpoints(real)
    planes.stop(plane.home, "staging")
    with pytest.raises(Unreachable):
        real.list()
    assert planes.up(plane.checkout, plane.home, "staging", agent=False) == plane.url
    eventually(lambda: _ready(real))
    assert _endpoints(real) == before


def _targets(plane: Plane) -> list[tuple[str, str, str, list[str]]]:
    found = json.loads(plane.layout.targets.read_text())
    return [(*(e["labels"][k] for k in ("model", "release", "plane")), e["targets"]) for e in found]


def test_prometheus_is_told_of_every_replica(plane: Plane, real: SupervisorWorkloads) -> None:
    """Each look leaves the addresses of all replicas with their release; a plane taken down has no file."""
    real.start(ONE, 2)
    real.start(TWO, 1)
    wanted = [("toy", w.release, "staging", list(w.endpoints)) for w in real.list()]
    assert _targets(plane) == wanted
    real.stop("toy", TWO.id)
    real.list()
    assert _targets(plane) == [each for each in wanted if each[1] == ONE.id]
    planes.stop(plane.home, "staging")
    assert not plane.layout.targets.exists()
    planes.up(plane.checkout, plane.home, "staging", agent=False)
    eventually(lambda: _ready(real))
    assert plane.layout.targets.exists()


def test_a_disk_that_takes_nothing_spoils_no_look(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That Prometheus can't be told is told once, and raises nothing."""
    (tmp_path / "targets").write_text("a file where a folder should be")
    told = Targets(tmp_path / "targets" / "staging.json")
    for _ in range(3):
        told.tell([Placed(ONE, (8001,))])
    assert caplog.text.count("can't write") == 1


@pytest.mark.parametrize("answering", [True, False])
def test_a_replica_whose_port_is_taken_moves(
    plane: Plane, real: SupervisorWorkloads, answering: bool
) -> None:
    """Somebody else on its port, answering or not, is never taken for it; it gets another port."""
    real.start(ONE, 2)
    eventually(lambda: _ready(real))
    taken, other = _port(real, 0), _port(real, 1)
    planes.stop(plane.home, "staging")
    with tiny_servers() as servers, ExitStack() as stack:
        if answering:
            servers.run("stranger", f"127.0.0.1:{taken}")
        else:
            stack.enter_context(socket.create_server(("127.0.0.1", taken)))
        planes.up(plane.checkout, plane.home, "staging", agent=False)
        eventually(lambda: _ready(real) and _port(real, 0) != taken)
        assert _port(real, 1) == other


def test_a_damaged_file_does_not_stop_the_plane(plane: Plane, real: SupervisorWorkloads) -> None:
    """A half-written file counts as none: its processes are ended, and the release can be started anew."""
    real.start(ONE, 1)
    eventually(lambda: _ready(real))
    process = _process(_port(real))
    path = plane.layout.folder / "workloads" / f"toy.{ONE.id}.conf"
    path.write_text(path.read_text()[:-40])
    (path.parent / "toy.garbage.conf").write_text("[program:")
    assert list(real.list()) == []
    assert not process.is_running()
    planes.stop(plane.home, "staging")
    (path.parent / "toy.garbage.conf").write_text("[program:")
    planes.up(plane.checkout, plane.home, "staging", agent=False)
    real.start(ONE, 1)
    eventually(lambda: _ready(real))


def test_what_was_stopped_by_hand_or_half_started_runs_again(plane: Plane, real: SupervisorWorkloads) -> None:
    """The files say what runs: a look at the plane is enough to put it right."""
    real.start(ONE, 2)
    eventually(lambda: _ready(real))
    supervisord = Supervisord(plane.layout.supervisor)
    first, second = (f"toy.{ONE.id}.{index}" for index in (0, 1))
    supervisord.signal_stop(first, second)
    eventually(lambda: supervisord.processes()[second]["statename"] == "STOPPED")
    supervisord.remove(second)
    eventually(lambda: _ready(real))


def test_a_replica_that_fails_its_warm_up_is_not_warm(plane: Plane, real: SupervisorWorkloads) -> None:
    """An answer that is no 200 is an error that says which it was."""
    at = plane.layout
    replaced = tiny_command(ONE, 1)[0][1]
    script = f"import runpy, sys; sys.argv = ['x', *sys.argv[1:]]; m = runpy.run_path({replaced!r}); "
    script += "m['Handler'].do_POST = lambda self: self.send_error(500); "
    script += "m['Server'](('127.0.0.1', int(sys.argv[1])), m['Handler']).serve_forever()"
    failing = SupervisorWorkloads(
        at.folder,
        at.supervisor,
        plane.home.root,
        command=lambda record, port: ([sys.executable, "-c", script, str(port), record.id], {}),
        rows=lambda tag: [{"warm": 1}],
    )
    failing.start(ONE, 1)
    eventually(lambda: _ready(failing))
    with pytest.raises(Unreachable, match="answered 500 to its warm-up"):
        failing.warm("toy", ONE.id)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Where the lock can't be made, the error says where and what to do."""
    (tmp_path / "plane").write_text("a file where the folder should be")
    with pytest.raises(PlatformError, match=r"can't write .*workloads\.lock") as error:
        SupervisorWorkloads(tmp_path / "plane", tmp_path / "none", tmp_path).stop("toy", ONE.id)
    assert error.value.action


def test_odd_characters_reach_the_replica_unchanged(real: SupervisorWorkloads) -> None:
    """supervisord expands `%`, quotes and commas in its files; ours say what was meant."""
    real.start(ONE, 1)
    eventually(lambda: _ready(real))
    wanted = tiny_command(ONE, 1)[1]["ODD"]
    assert _process(_port(real)).environ()["ODD"] == wanted
