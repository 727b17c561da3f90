"""What an agent costs when there is nothing to do, on a real plane in a temporary home."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.registry import CannotRun, Goal, Measured, entries
from bench.serving import model
from tidegate.config import Home

PLANE, NAME = "staging", "flight-delay"
IDLE_SECONDS, TICKS = 20.0, 100


@dataclass(frozen=True)
class _Plane:
    """A running plane that has settled: its checkout and home."""

    checkout: Path
    home: Home


@contextlib.contextmanager
def settled() -> Iterator[_Plane]:
    """Run a plane whose one release is in service, as `tidegate up` does, and take it down again."""
    from tidegate import planes

    with tempfile.TemporaryDirectory() as name:
        checkout, home = Path(name) / "clone", Home(Path(name) / "home")
        _repository(checkout, Path(name) / "origin.git", _release(home))
        try:
            planes.up(checkout, home, PLANE)
            _until(lambda: _phase(home) in ("Verified", "Healthy"), 120, "the release was not in service")
            _until(lambda: not _agent(home).children(), 60, "the agent's own processes did not end")
            yield _Plane(checkout, home)
        finally:
            planes.down(home)


def _release(home: Home) -> dict[str, str]:
    """Build the Bento of the model that lies here, and return the files that ask for its release."""
    from tidegate.adapters.bentoml import BentoStore
    from tidegate.bentos import Source
    from tidegate.core.release import RegistryRef, ReleaseRecord
    from tidegate.files import digest_folder
    from tidegate.packaging import record_text

    commit, digest = "0" * 40, digest_folder(model())
    bento = BentoStore(home.root / "bentoml").build(Source(NAME, Path.cwd(), model(), digest, 1, commit))
    record = ReleaseRecord(NAME, commit, "sha256:", RegistryRef(NAME, 1), digest, bento, {})
    return {
        f"envs/releases/{NAME}/{record.id}.yaml": record_text(record),
        f"envs/{PLANE}/release.yaml": f"models:\n  {NAME}: '{record.id}'\n",
    }


def _repository(checkout: Path, origin: Path, files: Mapping[str, str]) -> None:
    def git(*command: str, at: Path = checkout) -> None:
        who = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        subprocess.run(["git", *who, *command], cwd=at, check=True, capture_output=True)

    git("clone", "--quiet", "--shared", str(Path.cwd()), str(checkout), at=Path.cwd())
    git("checkout", "--quiet", "-B", "main")
    for name, text in files.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    git("add", "--force", *files)
    git("commit", "--quiet", "-m", "Ask for a release")
    git("clone", "--quiet", "--bare", str(checkout), str(origin))
    git("remote", "set-url", "origin", str(origin))


def _until(true: Callable[[], bool], seconds: float, problem: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise CannotRun(f"{problem} within {seconds:.0f} s")
        time.sleep(0.5)


def _state(home: Home) -> Path:
    return home.root / "state.db"


def _phase(home: Home) -> str:
    from tidegate.adapters.sqlite import read_planes

    status = read_planes(_state(home)).get(PLANE, {}).get("status", {})
    return str(status.get("models", {}).get(NAME, {}).get(PLANE, {}).get("phase", ""))


def _agent(home: Home) -> Any:
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            mine = process.environ().get("TIDEGATE_INSTANCE") == str(home.root)
            if mine and command[1:4] == ["-m", "tidegate", "agent"]:
                return process
    raise CannotRun("the agent does not run")


@entries(
    agent_idle_cpu=("% of a core", Goal(at_most=5)),
    agent_idle_rss=("MiB", Goal(at_most=150)),
    reconcile_noop=("ms", Goal(at_most=100)),
)
def idle() -> Mapping[str, Measured]:
    """First the agent as supervisord runs it, then its ticks one by one in this process."""
    with settled() as plane:
        agent = _agent(plane.home)
        before, began = agent.cpu_times(), time.monotonic()
        time.sleep(IDLE_SECONDS)
        after, seconds = agent.cpu_times(), time.monotonic() - began
        used = sum(getattr(after, f) - getattr(before, f) for f in before._fields if f != "iowait")
        memory = agent.memory_info().rss / 2**20
        ticks, written = _ticks(plane)
    note = f"one release, polls Git, looks each second, {seconds:.0f} s, children included"
    if written:
        raise CannotRun(f"a reconcile with nothing to do wrote {', '.join(written)}")
    slowest = f"slowest {1000 * max(ticks):.0f} ms of {len(ticks)}; wrote nothing"
    return {
        "agent-idle-cpu": Measured(100 * used / seconds, note=note),
        "agent-idle-rss": Measured(memory, note="resident, the agent's own process"),
        "reconcile-noop": Measured(1000 * statistics.median(ticks), note=slowest),
    }


def _ticks(plane: _Plane) -> tuple[list[float], list[str]]:
    """Take the agent's place, and return its ticks' seconds and the names of what they wrote."""
    from tidegate import planes, wiring
    from tidegate.agent.locks import agent_lock, agent_runs
    from tidegate.agent.loop import Agent
    from tidegate.machine.layout import Layout
    from tidegate.machine.supervisord import Supervisord

    at = Layout(plane.home, PLANE)
    Supervisord(at.supervisor).call("stopProcess", "agent")
    _until(lambda: not agent_runs(at.folder), 20, "the agent did not stop")
    spec = wiring.platform(plane.checkout, PLANE)
    # Without the registry's aliases: they move once a commit, in a process of their own, not in a tick.
    ports = replace(wiring.agent_ports(spec, plane.home, plane.checkout), mirror=None)
    holder = f"{os.uname().nodename}:{plane.home.root}"
    with agent_lock(at.folder):
        agent = Agent(PLANE, ports, holder=holder, spec=spec.agent, url=planes.url(plane.home, PLANE))
        agent.start()
        for _ in range(30):  # it fetches Git and finds its warm replicas again
            agent.tick()
            time.sleep(0.1)
        before, seconds = _written(plane), []
        for _ in range(TICKS):
            began = time.perf_counter()
            agent.tick()
            seconds.append(time.perf_counter() - began)
            time.sleep(0.02)
        after = _written(plane)
    return seconds, sorted(name for name in after if after[name] != before.get(name))


def _written(plane: _Plane) -> dict[str, object]:
    """Return what a tick could write: the router's files, and the stored documents and events.

    The lease is left out: renewing it every few seconds is how the agent says that it lives.
    """
    from tidegate.adapters.sqlite import read_events, read_planes

    folder = plane.home.plane(PLANE) / "envoy"
    files: dict[str, object] = {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.is_file()}
    return {
        **files,
        "state documents": read_planes(_state(plane.home)),
        "events": len(read_events(_state(plane.home), PLANE, 10_000)),
    }


# ---------------------------------------------------------------- many models, on fakes
SIZES = (1, 10, 100, 1000)


def crowd(models: int) -> Any:
    """Return an agent on fakes whose models are all settled, and its clock."""
    from tidegate import testing
    from tidegate.agent.jobs import InlineJobs
    from tidegate.agent.loop import Agent, Ports

    names = [f"model-{n:04}" for n in range(models)]
    router, metrics, workloads = testing.FakeRouter(), testing.FakeMetrics(), testing.FakeWorkloads()
    clock, state = testing.FakeClock(), testing.FakeState()
    ports = Ports(
        router,
        metrics,
        workloads,
        testing.FakeRepository(_tree(names)),
        state,
        testing.FakeInbox(),
        testing.FakeNotifier(),
        clock,
        InlineJobs(),
        recorder=testing.FakeRecorder(),
    )
    agent = Agent("production", ports, holder="bench")
    agent.start()
    for _ in range(12):  # started, warmed, served, verified, healthy
        for named, release in workloads.running:
            metrics.add(named, release, 20)
        agent.tick()
        clock.advance(1)
    lines = state.planes["production"]["status"]["models"].values()
    phases = {line["production"]["phase"] for line in lines}
    if phases != {"Healthy"}:
        raise CannotRun(f"the models were to be settled, and are {phases}")
    return agent, clock


def _tree(names: list[str]) -> dict[str, str]:
    """Return envs/ of many models: each runs one release of its own, rolled out in one step."""
    import json

    from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord
    from tidegate.packaging import record_text

    plan = {
        "steps": [{"setWeight": 100}],
        "checks": [
            {"name": "errors", "metric": "error-rate", "limit": "50%"},
            {"name": "latency", "metric": "latency", "limit": "10s", "quantile": 0.5},
        ],
    }
    files = {f"envs/{env}/platform.yaml": "plane: production\n" for env in ("canary", "production")}
    files |= {f"envs/{env}/rollout.yaml": json.dumps({"defaults": plan}) for env in ("production",)}
    files["envs/canary/rollout.yaml"] = json.dumps({"defaults": {**plan, "steps": [{"setWeight": 50}]}})
    wanted = {}
    for name in names:
        parts = (RegistryRef(name, 1), "sha256:", BentoRef(f"{name}:1", "sha256:"))
        record = ReleaseRecord(name, "0" * 40, "sha256:", *parts, {})
        files[f"envs/releases/{name}/{record.id}.yaml"] = record_text(record)
        wanted[name] = record.id
    files["envs/production/release.yaml"] = json.dumps({"models": wanted})
    files["envs/canary/release.yaml"] = files["envs/staging/release.yaml"] = "models: {}\n"
    files |= {"envs/staging/platform.yaml": "plane: staging\n", "envs/staging/rollout.yaml": "defaults: {}\n"}
    return files


@entries(
    agent_tick_1=("ms", Goal()),
    agent_tick_10=("ms", Goal()),
    agent_tick_100=("ms", Goal()),
    agent_tick_1000=("ms", Goal()),
    agent_tick_growth=("× a model's share", Goal(at_most=2)),
    agent_memory_100=("MiB", Goal(at_most=20)),
)
def many() -> Mapping[str, Measured]:
    """A tick of settled models on fakes, by their number; and what an agent remembers of a hundred."""
    taken = {}
    for size in SIZES:
        agent, clock = crowd(size)
        taken[size] = _tick_ms(agent, clock, rounds=max(5, 200 // size))
        del agent
    memory = _memory(100)
    made = {f"agent-tick-{size}": Measured(ms, note="settled models, on fakes") for size, ms in taken.items()}
    growth = (taken[1000] / 1000) / (taken[100] / 100)
    note = "time a model at 1,000 models, beside that at 100: 1 is linear"
    return made | {
        "agent-tick-growth": Measured(growth, note=note),
        "agent-memory-100": Measured(memory, note="allocated by an agent and its fakes, 100 settled models"),
    }


def _tick_ms(agent: Any, clock: Any, rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        clock.advance(1)
        began = time.process_time()  # fakes wait for nothing: what others do on this machine is not counted
        agent.tick()
        taken.append(time.process_time() - began)
    return 1000 * statistics.median(taken)


def _memory(models: int) -> float:
    """Return what an agent of many models has allocated, in MiB, modules not counted."""
    import gc
    import tracemalloc

    crowd(1)  # so that imports are not counted
    gc.collect()
    tracemalloc.start()
    try:
        agent, _clock = crowd(models)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0]
        del agent
    finally:
        tracemalloc.stop()
    return used / 2**20
