"""Releases as containers of podman: what they survive, what they may do, and when one is refused."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from tests.images import OPTIONS, containers_at, image_release, podman, usable
from tests.planes import eventually, tiny_record, write_checkout
from tidegate import doctor, gating, planes, wiring
from tidegate.adapters.answers import recent
from tidegate.adapters.containers import ContainerWorkloads
from tidegate.adapters.features import SqliteFeatures
from tidegate.config import Desired, Environment, Home, Platform
from tidegate.core.containers import Limits, Mount
from tidegate.core.images import image_name
from tidegate.core.release import ImageRef
from tidegate.errors import ConfigError, PlatformError, ReleaseNotFound, Unreachable
from tidegate.machine import copies, running
from tidegate.machine.containers import AT, NAME, Recipe, called, container, mark
from tidegate.machine.engine import Engine, Image
from tidegate.machine.layout import Layout
from tidegate.machine.meter import Meter
from tidegate.machine.processes import carrying, is_free
from tidegate.ports import ReplicaState

READS = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
print(connection.execute("SELECT value FROM entries").fetchone()[0])
"""
WRITES = "import sys; open(sys.argv[1], 'w').write('x')"


@pytest.fixture(scope="module")
def engine() -> None:
    """Skip where podman runs nothing."""
    if why := usable():
        pytest.skip(why)


@pytest.fixture
def real(engine: None, tmp_path: Path) -> Iterator[ContainerWorkloads]:
    with containers_at(tmp_path) as workloads:
        yield workloads


def _ready(workloads: ContainerWorkloads) -> bool:
    return all(found.ready for found in workloads.list())


def _ports(workloads: ContainerWorkloads) -> list[int]:
    return [int(e.rsplit(":", 1)[1]) for found in workloads.list() for e in found.endpoints]


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _pid(name: str) -> int:
    return Engine("podman").process(name)


def _name(folder: Path, number: int, index: int = 0) -> str:
    return called(mark(folder, "staging"), f"toy.{image_release(number).id}.{index}")


def _writes(name: str, path: str) -> bool:
    words = ["podman", "exec", name, "python3", "-c", WRITES, path]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


# ---------------------------------------------------------------- what they survive
def test_a_killed_replica_comes_back_without_a_look(real: ContainerWorkloads, tmp_path: Path) -> None:
    """The engine starts it again on its port, also while no agent runs; its sibling is untouched."""
    real.start(image_release(1), 2)
    eventually(lambda: _ready(real), 30)
    ports, sibling = _ports(real), _pid(_name(tmp_path, 1, 1))
    killed = _pid(_name(tmp_path, 1, 0))
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: _pid(_name(tmp_path, 1, 0)) not in (0, killed) and _answers(ports[0]), 30)
    eventually(lambda: _ready(real), 30)
    assert _ports(real) == ports
    assert _pid(_name(tmp_path, 1, 1)) == sibling


def test_one_removed_by_hand_is_run_again(real: ContainerWorkloads, tmp_path: Path) -> None:
    """A look is enough, and it is a look later that it is started: where it ran is written down."""
    real.start(image_release(1), 1)
    eventually(lambda: _ready(real), 30)
    ports = _ports(real)
    podman("rm", "--force", "--time", "0", _name(tmp_path, 1))
    real.list()
    assert _pid(_name(tmp_path, 1))
    eventually(lambda: _ready(real), 30)
    assert _ports(real) == ports


def test_a_new_agent_takes_over_what_runs(real: ContainerWorkloads, tmp_path: Path) -> None:
    """Nothing is started anew, and whoever runs as a process's child is not: the containers outlive it."""
    real.start(image_release(1), 1)
    eventually(lambda: _ready(real), 30)
    before = _pid(_name(tmp_path, 1))
    recipe = Recipe(Engine("podman"), Limits(), OPTIONS)
    again = ContainerWorkloads(tmp_path / "planes" / "staging", mark(tmp_path, "staging"), recipe, tmp_path)
    assert [found.release for found in again.list()] == [image_release(1).id]
    eventually(lambda: _ready(again), 30)
    again.start(image_release(1), 1)
    assert _pid(_name(tmp_path, 1)) == before


def test_what_the_engine_leaves_running_carries_no_mark_of_ours(
    real: ContainerWorkloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its monitor would be ended with the plane or the workflow that started it."""
    monkeypatch.setenv("TIDEGATE_RUN_ID", "this-test")
    real.start(image_release(1), 1)
    eventually(lambda: _ready(real), 30)
    assert carrying({"TIDEGATE_RUN_ID": "this-test"}) == []


def test_a_stray_without_a_file_is_ended(real: ContainerWorkloads, tmp_path: Path) -> None:
    """A damaged file counts as none: nobody could reach or stop its container otherwise."""
    real.start(image_release(1), 1)
    eventually(lambda: _ready(real), 30)
    (path,) = (tmp_path / "planes" / "staging" / "podman").glob("*.conf")
    path.write_text(path.read_text()[:-40])
    label = f"{AT}={mark(tmp_path, 'staging')}"
    eventually(lambda: not real.list() and not Engine("podman").containers(label), 30)


def test_a_replica_whose_port_is_taken_moves(real: ContainerWorkloads, tmp_path: Path) -> None:
    """Whoever sits on it, it is never taken for the replica, which gets another port."""
    real.start(image_release(1), 1)
    eventually(lambda: _ready(real), 30)
    (port,) = _ports(real)
    podman("rm", "--force", "--time", "0", _name(tmp_path, 1))
    with socket.create_server(("127.0.0.1", port)):
        eventually(lambda: _ready(real) and _ports(real) != [port], 30)


def test_stop_returns_when_the_container_is_gone(real: ContainerWorkloads, tmp_path: Path) -> None:
    """Neither name nor port is held any more."""
    real.start(image_release(1), 1)
    eventually(lambda: _ready(real), 30)
    (port,) = _ports(real)
    real.stop("toy", image_release(1).id)
    assert is_free(port)
    assert Engine("podman").containers(f"{AT}={mark(tmp_path, 'staging')}") == []


def test_one_that_fails_says_its_last_words(real: ContainerWorkloads) -> None:
    """FAILED carries what it said, so that nobody has to look for it."""
    real.start(image_release(3, command="import sys; print('no such model file'); sys.exit(3)"), 1)

    def said() -> str:
        (replica,) = real.list()[0].replicas
        return replica.detail if replica.state is ReplicaState.FAILED else ""

    eventually(lambda: "no such model file" in said(), 60)


# ---------------------------------------------------------------- what they may do
def test_a_replica_has_no_rights_that_it_does_not_need(real: ContainerWorkloads, tmp_path: Path) -> None:
    """Its root can't be written, it has no capabilities and no way to any, and only loopback reaches it."""
    real.start(image_release(1), 1)
    eventually(lambda: _ready(real), 30)
    name = _name(tmp_path, 1)
    status = (Path("/proc") / str(_pid(name)) / "status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["65534"] * 4
    assert {int(fields[key], 16) for key in ("CapEff", "CapPrm", "CapInh", "CapBnd")} == {0}
    assert fields["NoNewPrivs"] == "1"
    assert not _writes(name, "/x")
    assert _writes(name, "/tmp/x")
    ports = json.loads(podman("inspect", name))[0]["NetworkSettings"]["Ports"]["3000/tcp"]
    assert [one["HostIp"] for one in ports] == ["127.0.0.1"]


def test_limits_hold_the_container(engine: None, tmp_path: Path) -> None:
    """What platform.yaml says is what the kernel holds it to."""
    with containers_at(tmp_path, memory="200m", cpus=0.5) as workloads:
        workloads.start(image_release(1), 1)
        eventually(lambda: _ready(workloads), 30)
        found = json.loads(podman("inspect", _name(tmp_path, 1)))[0]["HostConfig"]
        assert (found["Memory"], found["NanoCpus"]) == (200 * 2**20, 500_000_000)


def _environment(name: str) -> dict[str, str]:
    said: list[str] = json.loads(podman("inspect", name))[0]["Config"]["Env"]
    return dict(one.split("=", 1) for one in said)


def test_what_it_writes_down_lies_where_the_plane_reads_it(engine: None, tmp_path: Path) -> None:
    """Answers and predictions reach the machine's folders, features can be read, and that is all there is."""
    features = tmp_path / "features" / "features.db"
    log = tmp_path / "predictions"
    places = {"TIDEGATE_PREDICTIONS": str(log), "TIDEGATE_FEATURES": f"sqlite:///{features}"}
    store = SqliteFeatures(features)
    store.write("a", {"k": b"0.25"}, 600)  # and it stays open, as an agent has it
    with containers_at(tmp_path, places=places) as workloads:
        workloads.start(image_release(1), 2)
        eventually(lambda: _ready(workloads), 30)
        name, said = _name(tmp_path, 1), _environment(_name(tmp_path, 1))
        assert said["TIDEGATE_RELEASE"] == image_release(1).id
        assert _writes(name, f"{said['TIDEGATE_PREDICTIONS']}/segments/toy/1.open")
        assert (log / "segments" / "toy" / "1.open").read_text() == "x"
        assert not _writes(name, f"{said['TIDEGATE_PREDICTIONS']}/segments/other")
        file = said["TIDEGATE_FEATURES"].removeprefix("sqlite:///")
        assert not _writes(name, file)
        assert podman("exec", name, "python3", "-c", READS, file) == "b'0.25'"
        store.write("a", {"k": b"0.5"}, 600)
        assert podman("exec", name, "python3", "-c", READS, file) == "b'0.5'"
        assert (log / "segments").stat().st_mode & 0o077 == 0, "nobody here gets to what all may write"
        answers = tmp_path / "planes" / "staging" / "answers"
        for index in (0, 1):
            other = _name(tmp_path, 1, index)
            assert _writes(other, f"{_environment(other)['TIDEGATE_ANSWERS']}/r.1.jsonl")
        written = sorted(path.relative_to(answers).as_posix() for path in answers.rglob("*.jsonl"))
        assert written == [f"toy.{image_release(1).id}.{index}/r.1.jsonl" for index in (0, 1)]
        assert answers.stat().st_mode & 0o077 == 0


# ---------------------------------------------------------------- a plane of them
PLATFORM = {"plane": "staging", "workloads": {"adapter": "podman"}, "images": {"run": list(OPTIONS)}}


def _write(checkout: Path, platform: dict[str, Any]) -> None:
    (checkout / "envs" / "staging" / "platform.yaml").write_text(json.dumps(platform))


def test_down_leaves_no_container_and_up_brings_them_back(engine: None, tmp_path: Path) -> None:
    """On their ports, since what ran where is written down; another adapter would start none of it again."""
    checkout, home = write_checkout(tmp_path / "checkout"), Home(tmp_path / "home")
    _write(checkout, PLATFORM)
    at = Layout(home, "staging")
    try:
        planes.up(checkout, home, "staging", agent=False)
        workloads = wiring.workloads(wiring.platform(checkout, "staging"), home)
        workloads.start(image_release(1), 2)
        eventually(lambda: workloads.list()[0].ready, 30)
        (found,), problem = running.read(at)
        assert problem == ""
        assert [(p.endpoint, p.state) for p in found.processes] == [
            (e, "RUNNING") for e in workloads.list()[0].endpoints
        ]
        assert found.memory > 2 * 2**20
        ports = workloads.list()[0].endpoints
        assert planes.down(home) == 4  # supervisord, Envoy, two containers
        assert Engine("podman").containers(f"{AT}={mark(home.root, 'staging')}") == []
        assert planes.down(home) == 0
        planes.up(checkout, home, "staging", agent=False)
        workloads.list()
        eventually(lambda: workloads.list()[0].ready, 30)
        assert workloads.list()[0].endpoints == ports
        planes.down(home)
        _write(checkout, {"plane": "staging"})
        planes.up(checkout, home, "staging", agent=False)
        assert list(workloads.list()) == []
    finally:
        planes.down(home)


def test_doctor_asks_for_the_engine_and_the_images(engine: None, tmp_path: Path) -> None:
    """What runs as containers needs both; where nothing does, neither is asked for."""
    record = image_release(1)
    spec = msgspec.convert(PLATFORM, Platform)
    named = Environment("staging", {"toy": record.id}, spec)
    for here, images in ((True, record.images), (False, None)):
        known = {record.id: msgspec.structs.replace(record, images=images)}
        desired = Desired("c", {"staging": named}, known)
        found = list(doctor.check_containers(Home(tmp_path), {"staging": spec}, desired))
        assert [(check.name, check.ok) for check in found] == [
            ("podman", True),
            ("image of toy (staging)", here),
        ]
    assert list(doctor.check_containers(Home(tmp_path), {"staging": Platform()}, desired)) == []


@pytest.mark.parametrize(
    ("stores", "words"),
    [
        ({"features": "redis://127.0.0.1:6379/0"}, "is the container itself"),
        ({"cache": "redis://:secret@localhost:6379/0"}, "is the container itself"),
        ({"features": "sqlite:///{home}/features.db"}, "holds more than features"),
    ],
)
def test_places_that_no_container_reaches_are_refused(
    tmp_path: Path, stores: dict[str, str], words: str
) -> None:
    """Loopback is another one inside, and a folder of the home would show it all."""
    spec = msgspec.convert({**PLATFORM, "stores": stores}, Platform)
    with pytest.raises(ConfigError, match=words) as error:
        wiring.recipe(spec, Home(tmp_path))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("folder", ["/data, old/answers", '/data "new"/answers'])
def test_a_folder_that_a_mount_can_not_name_is_refused(folder: str) -> None:
    """A comma parts the options of a mount: what comes after it would be taken for one."""
    image = Image("sha256:1", {}, "1034", {})
    with pytest.raises(ConfigError, match="comma or a quotation mark"):
        container(
            Recipe(Engine("podman")),
            image,
            name="x",
            port=1,
            labels={},
            environment={},
            mounts=[Mount(folder, "/inside")],
            grace=1,
        )


# ---------------------------------------------------------------- which are refused
def test_an_image_that_was_never_built_is_named(real: ContainerWorkloads, tmp_path: Path) -> None:
    """The error ends with the command that builds it, and nothing is left behind."""
    record = tiny_record(77)
    for images in (None, {"cpu": ImageRef("x", "sha256:" + "1" * 64, "tiny", "")}):
        with pytest.raises(ReleaseNotFound) as error:
            real.start(msgspec.structs.replace(record, images=images), 1)
        assert f"tidegate image toy --release {record.id} --variant cpu" in error.value.action
    assert list(real.list()) == []


def test_another_image_than_the_recorded_one_is_refused(real: ContainerWorkloads) -> None:
    """Its name may be right and its labels, too: the id that Git holds decides."""
    record = image_release(1)
    other = ImageRef(image_name(record, "cpu"), "sha256:" + "2" * 64, "tiny", "")
    with pytest.raises(ReleaseNotFound, match="is not the recorded one"):
        real.start(msgspec.structs.replace(record, images={"cpu": other}), 1)


def test_an_image_of_another_release_is_refused(real: ContainerWorkloads) -> None:
    """What its labels say it is of is compared as well: an id that was written down wrongly runs nothing."""
    one, two = image_release(1), image_release(2)
    with pytest.raises(ReleaseNotFound, match=r"image .* says "):
        real.start(msgspec.structs.replace(one, images=two.images), 1)


def test_an_image_that_runs_as_root_is_refused(real: ContainerWorkloads) -> None:
    """Fail closed: nothing runs rather than as root."""
    with pytest.raises(ConfigError, match="runs as root"):
        real.start(image_release(4, user="root"), 1)


def test_an_engine_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PlatformError, match="`podman` is not here") as error:
        Engine("podman").containers("a=b")
    assert "apt install" in error.value.action


# ---------------------------------------------------------------- docker, by what it answers
DOCKER = """#!{python}
import json, sys
words = sys.argv[1:]
with open({log!r}, "a") as file:
    file.write(json.dumps(words) + "\\n")
if {away}:
    sys.exit("Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?")
if words[0] == "ps":
    print("f00")
if words[:2] == ["container", "inspect"]:
    state = {{"Status": "running", "Pid": 12, "ExitCode": 0, "Error": ""}}
    labels = {{"tidegate.name": "toy.1.0", "tidegate.port": "20001"}}
    print(json.dumps([{{"Name": "/one", "State": state, "RestartCount": 2, "Config": {{"Labels": labels}}}}]))
if words[:2] == ["image", "inspect"]:
    print("[]")
    sys.exit("Error: No such image: x")
"""


def _docker(folder: Path, *, away: bool = False) -> Path:
    log = folder / "docker.log"
    program = folder / "docker"
    program.write_text(DOCKER.format(python=sys.executable, log=str(log), away=away))
    program.chmod(0o755)
    return log


def test_dockers_answers_are_read_as_podmans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its names begin with a slash; an image that is not here is none, not a failure."""
    log = _docker(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    engine = Engine("docker")
    (seen,) = engine.containers("a=b")
    assert (seen.name, seen.state, seen.pid, seen.restarts) == ("one", "running", 12, 2)
    assert seen.labels[NAME] == "toy.1.0"
    assert engine.image("x") is None
    engine.stop(["b", "a"], 3)
    asked = [json.loads(line) for line in log.read_text().splitlines()]
    assert asked[0] == ["ps", "--all", "--quiet", "--no-trunc", "--filter", "label=a=b"]
    assert asked[-1] == ["stop", "--time", "3", "a", "b"]


def test_a_daemon_that_does_not_answer_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come back: what the agent knew is not forgotten, as with a supervisor that is away."""
    _docker(tmp_path, away=True)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(Unreachable, match="does not answer"):
        Engine("docker").containers("a=b")


# ---------------------------------------------------------------- copies for gates
def _recipe() -> Recipe:
    return Recipe(Engine("podman"), Limits(), OPTIONS)


def test_a_copy_is_a_container_whose_process_can_be_measured(engine: None) -> None:
    """It answers, the kernel tells what it takes of the machine, and it is gone with its block."""
    with copies.contain(_recipe(), image_release(1)) as copy:
        assert httpx.post(f"{copy.url}/predict", json={}).status_code == 200
        memory, _ = Meter(copy.pid).read()
        assert memory.uss > 2**20
    assert not psutil.pid_exists(copy.pid)


def test_a_gate_starts_copies_the_way_staging_runs(engine: None, tmp_path: Path) -> None:
    """It knows a record as the pipeline wrote it; which image is meant stands beside the committed one."""
    record = image_release(1)
    assert record.images is not None
    checkout = write_checkout(tmp_path)
    _write(checkout, PLATFORM)
    folder = checkout / "envs" / "releases" / "toy"
    folder.mkdir(parents=True)
    images = {"release": record.id, "model": "toy", "images": msgspec.to_builtins(record.images)}
    (folder / f"{record.id}.images.yaml").write_text(json.dumps(images))
    subject = gating.Subject("toy", None, checkout)
    with subject.serve(msgspec.structs.replace(record, images=None)) as copy:
        assert httpx.get(f"{copy.url}/readyz").text.startswith(record.id)


def test_where_processes_run_the_workflow_builds_no_image(tmp_path: Path) -> None:
    """The step does nothing, and says so."""
    words = [sys.executable, "-m", "tidegate", "image", "--all"]
    checkout = write_checkout(tmp_path)
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=True)
    assert "processes: no image is built" in done.stdout


def test_a_copy_that_ends_says_why(engine: None) -> None:
    """What it said last is in the error."""
    with (
        pytest.raises(PlatformError, match=r"ended: no such model file"),
        copies.contain(
            _recipe(), image_release(3, command="import sys; print('no such model file'); sys.exit(3)")
        ),
    ):
        raise AssertionError("it was ready")


GATE = """
import sys
import msgspec
from tests.images import OPTIONS
from tidegate.core.containers import Limits, Mount
from tidegate.core.release import ReleaseRecord
from tidegate.machine import copies, running
from tidegate.machine.containers import Recipe
from tidegate.machine.engine import Engine, Image
record = msgspec.json.decode(sys.argv[1], type=ReleaseRecord)
with copies.contain(Recipe(Engine("podman"), Limits(), OPTIONS), record) as copy:
    print(copy.pid, flush=True)
    sys.stdin.read()
"""


def test_a_copy_does_not_outlive_a_killed_gate(engine: None) -> None:
    """Nobody's `finally` runs after a kill -9: somebody else removes the container."""
    root = Path(__file__).parents[2]
    gate = subprocess.Popen(
        [sys.executable, "-c", GATE, msgspec.json.encode(image_release(1)).decode()],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert gate.stdout is not None
    pid = int(gate.stdout.readline())
    assert psutil.pid_exists(pid)
    gate.kill()
    gate.communicate()
    eventually(lambda: not psutil.pid_exists(pid), 30)


def test_answers_of_replicas_are_read_from_their_own_folders(tmp_path: Path) -> None:
    """Inside, each has the same process id: in one folder two would write one file."""
    for index in (0, 1):
        for release in ("r", "s"):
            folder = tmp_path / f"toy.{release}.{index}"
            folder.mkdir()
            said: dict[str, Any] = {
                "id": f"{index}",
                "at": 10.0,
                "score": 0.5,
                "decision": True,
                "status": 200,
            }
            (folder / f"{release}.1.jsonl").write_text(json.dumps({**said, "ms": 1.0}) + "\n")
    assert recent(tmp_path, "r", "s", 0.0).pairs == 2
