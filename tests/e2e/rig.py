"""A plane with its agent for tests: real Envoy, supervisord, Git remote and Bentos, traffic and an onlooker.

The model is made by hand (builders.tiny_model), everything else is what `tidegate up` runs. There are
two Bentos: a sound one, and one that fails on flights of November and December (the demo's bad change).
Releases are records of them that differ by their commit.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psutil
import yaml

from models.flight_delay import demo
from tests.builders import flight_row, tiny_model
from tidegate import planes
from tidegate.adapters.bentoml import BentoStore
from tidegate.adapters.envoy import EnvoyRouter
from tidegate.adapters.sqlite import read_events, read_planes
from tidegate.bentos import Source
from tidegate.config import Home
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord
from tidegate.core.release_file import set_release
from tidegate.demo import changes
from tidegate.errors import Unreachable
from tidegate.files import digest_folder
from tidegate.machine import processes
from tidegate.machine.layout import INSTANCE, Layout
from tidegate.machine.supervisord import Supervisord
from tidegate.packaging import record_text
from tidegate.ports import Event

ROOT = Path(__file__).parents[2]
MODEL, PLANE = "flight-delay", "production"
TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
SOUND = tuple(flight_row(flight=number) for number in (1, 2))
NOVEMBER = flight_row(date="2013-11-05", flight=3)


def eventually(check: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
    """Wait until `check` is true and return it; fail with its last value, and what it `shows` if it does."""
    deadline = time.monotonic() + seconds
    while not (value := check()):
        if time.monotonic() >= deadline:
            shown = getattr(check, "shows", lambda: value)()
            raise AssertionError(f"{what}: not within {seconds:g} s, but {shown!r}")
        time.sleep(0.05)
    return value


# ---------------------------------------------------------------- releases
@dataclass(frozen=True)
class Stores:
    """A Bento store and a registry that planes of several tests share."""

    folder: Path
    artifact: str
    sound: BentoRef
    bad: BentoRef

    def platform(self) -> dict[str, str]:
        """Return what a platform.yaml says to use them."""
        return {
            "bentos": str(self.folder / "bentoml"),
            "registry": f"sqlite:///{self.folder / 'mlflow' / 'mlflow.db'}",
        }

    def release(self, number: int, *, bad: bool = False) -> ReleaseRecord:
        """Return a record; equal numbers give equal releases."""
        return ReleaseRecord(
            model=MODEL,
            commit=f"{number:040x}",
            pipeline="sha256:" + "0" * 64,
            registry=RegistryRef(MODEL, 1),
            artifact=self.artifact,
            bento=self.bad if bad else self.sound,
            gates={"data": "PASS", "quality": "PASS", "drift": "PASS"},
        )


@functools.cache
def stores() -> Stores:
    """Build both Bentos and register the model; once for all tests of a session."""
    import atexit

    folder = Path(tempfile.mkdtemp(prefix="tidegate-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    artifact = tiny_model(folder / "model")
    digest = digest_folder(artifact)
    sound, bad = (_source(folder / name) for name in ("sound", "bad"))
    changes.apply(bad, demo.BAD)
    store = BentoStore(folder / "bentoml")

    def build(checkout: Path, commit: str) -> BentoRef:
        return store.build(Source(MODEL, checkout, artifact, digest, 1, commit * 40))

    with ThreadPoolExecutor() as pool:
        registered = pool.submit(_register, folder, artifact, digest)
        built = pool.map(build, (sound, bad), "ab")
        registered.result()
        return Stores(folder, digest, *built)


def _source(folder: Path) -> Path:
    """Copy what a Bento is made of."""
    leave = shutil.ignore_patterns("__pycache__")
    for name in ("services", "models", "tidegate"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave)
    shutil.copy(ROOT / "requirements.lock", folder)
    return folder


def _register(folder: Path, artifact: Path, digest: str) -> None:
    from tidegate.adapters.mlflow import MlflowRegistry

    registry = MlflowRegistry(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    assert registry.register(MODEL, artifact, {"digest": digest}) == 1


# ---------------------------------------------------------------- the plane
class Releases(Protocol):
    """Where a rig's releases come from: `stores()`, or stand-ins that start faster."""

    def platform(self) -> dict[str, str]: ...
    def release(self, number: int, *, bad: bool = False) -> ReleaseRecord: ...


class Rig:
    """One plane that follows a Git remote of its own; `made` has its releases, all of one `model`."""

    def __init__(
        self,
        root: Path,
        rollouts: Mapping[str, Mapping[str, Any]],
        replicas: int = 1,
        *,
        made: Releases | None = None,
        model: str = MODEL,
        agent: Mapping[str, str] | None = None,
    ) -> None:
        self.stores, self.model = made or stores(), model
        self.origin, self.clone, self.home = root / "origin.git", root / "clone", Home(root / "home")
        kept = {key: value for key, value in os.environ.items() if key != "TIDEGATE_HOME"}
        self.environment = {**kept, "TIDEGATE_HOME": str(self.home.root)}
        self.url = ""
        root.mkdir(exist_ok=True)
        self._run("git", "init", "--quiet", "--bare", "-b", "main", str(self.origin), cwd=root)
        self._run("git", "clone", "--quiet", str(self.origin), str(self.clone), cwd=root)
        self.git("checkout", "--quiet", "-B", "main")
        files = {"envs/platform.yaml": yaml.safe_dump({"stores": self.stores.platform()})}
        for name in ("staging", "canary", "production"):
            platform = {"plane": "staging" if name == "staging" else PLANE}
            if name == PLANE:
                timing = dict(agent or {"interval": "1s", "poll": "1s"})
                platform |= {"agent": timing, "workloads": {"replicas": replicas}}
            files[f"envs/{name}/platform.yaml"] = yaml.safe_dump(platform)
            files[f"envs/{name}/release.yaml"] = "# what runs here\nmodels: {}\n"
            files[f"envs/{name}/rollout.yaml"] = yaml.safe_dump({"defaults": rollouts.get(name, {})})
        self.push(files, "First commit", fetch=False)

    # ------------------------------------------------------------ Git
    def _run(self, *command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            command, cwd=cwd or self.clone, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def git(self, *arguments: str) -> str:
        """Run git in the clone."""
        return self._run("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments)

    def tidegate(self, *arguments: str) -> str:
        """Run a command as a user would."""
        return self._run(TIDEGATE, *arguments)

    def push(self, files: Mapping[str, str | None], message: str, *, fetch: bool = True) -> str:
        """Commit files (None removes one) on the newest main and push; returns the commit."""
        for _ in range(5):  # the agent may push a revert meanwhile
            if fetch:
                self.git("fetch", "--quiet", "origin")
                self.git("reset", "--quiet", "--hard", "origin/main")
            for name, text in files.items():
                path = self.clone / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink() if text is None else path.write_text(text)
            self.git("add", "--all", "envs")
            self.git("commit", "--quiet", "--allow-empty", "-m", message)
            try:
                self.git("push", "--quiet", "origin", "HEAD:main")
            except AssertionError as error:
                refused = error
                continue
            return self.git("rev-parse", "HEAD").strip()
        raise refused

    def promote(self, record: ReleaseRecord, *environments: str) -> None:
        """Ask for a release as a merged promotion does; its record comes with it."""
        self.git("fetch", "--quiet", "origin")
        files: dict[str, str | None] = {f"envs/releases/{self.model}/{record.id}.yaml": record_text(record)}
        for name in environments:
            path = f"envs/{name}/release.yaml"
            files[path] = set_release(self.says(path), self.model, record.id)
        self.push(files, f"Promote {record.id} to {' and '.join(environments)}")

    def says(self, path: str) -> str:
        """Return a file as the newest commit on the remote has it; empty when it has none."""
        done = subprocess.run(
            ["git", "show", f"main:{path}"], cwd=self.origin, capture_output=True, text=True, check=False
        )
        return done.stdout if done.returncode == 0 else ""

    def wanted(self, environment: str) -> str:
        """Return the release that the remote names."""
        models = yaml.safe_load(self.says(f"envs/{environment}/release.yaml"))["models"]
        return str((models or {}).get(self.model, ""))

    def rejection(self, release: str) -> dict[str, Any]:
        """Return a rejection as the remote has it; empty when there is none."""
        return yaml.safe_load(self.says(f"envs/releases/{self.model}/{release}.rejected.yaml")) or {}

    def commits(self, text: str) -> list[str]:
        """Return the subjects of the remote's commits whose message holds a text."""
        command = ["git", "log", "--format=%s", "--fixed-strings", f"--grep={text}", "main"]
        return self._run(*command, cwd=self.origin).splitlines()

    # ------------------------------------------------------------ the plane
    @property
    def layout(self) -> Layout:
        return Layout(self.home, PLANE)

    def up(self) -> None:
        """Start it."""
        previous = os.getcwd()
        os.chdir(self.clone)
        try:
            self.url = planes.up(self.clone, self.home, PLANE, patience=90)
        finally:
            os.chdir(previous)

    def down(self) -> None:
        """Stop it; nothing of it may be left."""
        planes.down(self.home)
        assert processes.carrying({INSTANCE: str(self.home.root)}) == []

    def router(self) -> EnvoyRouter:
        return EnvoyRouter(self.layout.envoy, self.layout.admin)

    def weights(self) -> dict[str, int] | None:
        """Return what Envoy serves now, release → percent; None when it does not say."""
        router = self.router()
        try:
            route = router.read().get(self.model)
            if route is None:
                if not router.shows():
                    return None  # it is just starting
                route = router.read().get(self.model)  # it may have taken in its file between the two looks
        except Unreachable:
            return None
        return {release: weight for release, weight in route.weights.items() if weight} if route else {}

    def members(self, *words: str) -> list[psutil.Process]:
        """Return the plane's processes whose command holds all of these words, children of such left out."""
        found = []
        for process in processes.carrying({INSTANCE: str(self.home.root)}):
            try:
                if set(words) <= set(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def replicas(self, release: str) -> list[psutil.Process]:
        """Return the processes that serve a release."""
        found = []
        for process in self.members("tidegate.serve"):
            try:
                if process.environ().get("TIDEGATE_RELEASE") == release:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def agent(self) -> int:
        """Return the process id of the running agent; 0 when there is none just now."""
        try:
            info = Supervisord(self.layout.supervisor).processes()["agent"]
        except Unreachable:
            return 0
        return int(info["pid"]) if info["statename"] in ("STARTING", "RUNNING") else 0

    def kill_agent(self) -> bool:
        """Kill the agent by -9; False when it is not there just now."""
        pid = self.agent()
        if not pid:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        eventually(lambda: self.agent() != pid, "the killed agent is gone")
        return True

    # ------------------------------------------------------------ what it says
    def status(self) -> dict[str, Any]:
        """Return the agent's last word on the plane."""
        found = read_planes(self.home.root / "state.db").get(PLANE, {}).get("status", {})
        return dict(found)

    def line(self, environment: str) -> dict[str, Any]:
        """Return the agent's last word on an environment."""
        return dict(self.status().get("models", {}).get(self.model, {}).get(environment, {}))

    def problems(self) -> list[str]:
        """Return what the agent complains of."""
        return list(self.status().get("problems", []))

    def events(self) -> list[Event]:
        """Return everything that happened, oldest first."""
        return sorted(read_events(self.home.root / "state.db", PLANE, 100_000), key=lambda event: event.at)

    def event(self, kind: str, release: str) -> Event | None:
        """Return the last event of a kind about a release."""
        found = [e for e in self.events() if e.kind == kind and e.release == release]
        return found[-1] if found else None

    def reached(self, environment: str, release: str, *phases: str) -> Callable[[], bool]:
        """Return a check: the environment has this release in one of these phases."""

        def look() -> bool:
            line = self.line(environment)
            return line.get("release") == release and line.get("phase") in phases

        look.shows = self.status
        return look

    def settle(self, record: ReleaseRecord) -> None:
        """Bring a release to production and wait until it is healthy."""
        self.promote(record, "canary", "production")
        eventually(self.reached("production", record.id, "Healthy"), f"{record.id} healthy", 120)
        assert self.weights() == {record.id: 100}


@contextmanager
def rig_up(root: Path, rollouts: Mapping[str, Mapping[str, Any]], replicas: int = 1) -> Iterator[Rig]:
    """Start a plane that runs nothing yet, and leave no process at the end."""
    rig = Rig(root, rollouts, replicas)
    try:
        rig.up()
        yield rig
    finally:
        rig.down()


# ---------------------------------------------------------------- traffic and onlooker
@dataclass(frozen=True)
class Answer:
    """One request as its sender saw it; `release` is empty when no release answered."""

    at: float
    status: str  # "200", or what went wrong
    release: str

    @property
    def ok(self) -> bool:
        return self.status == "200"


class Traffic:
    """Senders with a constant rate; every third row is one that the bad release fails on."""

    def __init__(
        self,
        url: str,
        rate: float,
        senders: int = 4,
        rows: tuple[dict[str, Any], ...] = (*SOUND, NOVEMBER),
        model: str = MODEL,
    ) -> None:
        self._path = f"/{model}/predict"
        self.answers: list[Answer] = []
        self._host, self._port = "127.0.0.1", int(url.rsplit(":", 1)[1])
        self._bodies = [json.dumps(row).encode() for row in rows]
        self._gap = senders / rate
        self.quiet = threading.Event()  # set: nothing is sent
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(senders)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)

    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def _send(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=35)
        due = time.monotonic() + number * self._gap / len(self._threads)
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._gap, time.monotonic() - 1)  # at most a second is caught up
            number += 1
            if self.quiet.is_set():
                continue
            self.answers.append(self._ask(connection, self._bodies[number % len(self._bodies)]))
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, body: bytes) -> Answer:
        try:
            connection.request("POST", self._path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Answer(time.time(), repr(error), "")
        return Answer(time.time(), str(answer.status), answer.headers.get("x-tidegate-release", ""))

    def mark(self) -> int:
        """Return how many answers there are by now."""
        return len(self.answers)

    def failed(self, *blamed: str, since: int = 0) -> Counter[tuple[str, str]]:
        """Count (status, release) of requests that failed, except those that a blamed release answered."""
        return Counter(
            (a.status, a.release) for a in self.answers[since:] if not a.ok and a.release not in blamed
        )

    def by(self, release: str, since: int = 0) -> int:
        """Count the good answers of a release."""
        return sum(a.ok and a.release == release for a in self.answers[since:])


@dataclass(frozen=True)
class Sample:
    """What Envoy served at a moment (epoch seconds)."""

    at: float
    weights: dict[str, int]


class Onlooker:
    """Reads the router without a break; `samples` has every change that it saw."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.samples: list[Sample] = []
        self._looks = 0
        self._looked = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Onlooker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            weights = self.rig.weights()
            if weights is not None and (not self.samples or self.samples[-1].weights != weights):
                self.samples.append(Sample(time.time(), weights))
            with self._looked:
                self._looks += 1
                self._looked.notify_all()

    def mark(self) -> int:
        """Return where the next rollout's samples begin: with what is served now."""
        with self._looked:
            # The look under way may have read what was served before; the one after it has not.
            after = self._looks + 2
            if not self._looked.wait_for(lambda: self._looks >= after, 30):
                raise AssertionError("nobody looks at the router any more")
        return max(0, len(self.samples) - 1)

    def share(self, release: str) -> int:
        """Return a release's newest weight."""
        return self.samples[-1].weights.get(release, 0) if self.samples else 0


def unready(record: ReleaseRecord) -> ReleaseRecord:
    """Return a release whose Bento never becomes ready: it holds another model than the record names."""
    return msgspec.structs.replace(record, artifact="sha256:" + "f" * 64)


def absent(record: ReleaseRecord) -> ReleaseRecord:
    """Return a release whose Bento is not on this machine."""
    return msgspec.structs.replace(record, bento=replace_tag(record.bento))


def replace_tag(bento: BentoRef) -> BentoRef:
    return msgspec.structs.replace(bento, tag="flight_delay:404-0000000")
