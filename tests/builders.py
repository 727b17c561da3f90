"""Small real things that several rooms' tests need; add, don't rewrite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def tiny_model(folder: Path, *, late: float = 0.3, rows: int = 3) -> Path:
    """Write an artifact of flight-delay as training does; it answers `late` plus 0.001 an hour of the day.

    Missing features count as 0, as unknown as they are; made by hand in milliseconds, not trained.
    """
    from onnx import TensorProto, checker, helper, numpy_helper, save_model

    from models.flight_delay import features

    count = len(features.FEATURES)
    weights = np.zeros((count, 1), dtype=np.float32)
    weights[features.FEATURES.index("hour")] = 0.001
    constants = {"zero": np.float32(0), "one": np.float32(1), "weights": weights, "bias": np.float32(late)}
    nodes = [
        helper.make_node("IsNaN", ["features"], ["unknown"]),
        helper.make_node("Where", ["unknown", "zero", "features"], ["known"]),
        helper.make_node("MatMul", ["known", "weights"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["late"]),
        helper.make_node("Sub", ["one", "late"], ["on_time"]),
        helper.make_node("Concat", ["on_time", "late"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("features", TensorProto.FLOAT, [None, count])],
        [value("label", TensorProto.INT64, [None]), value("probabilities", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(model)
    folder.mkdir(parents=True)
    save_model(model, folder / "model.onnx")
    seen = features.Vocabulary.of({"carrier": ["UA"], "origin": ["EWR"], "dest": ["IAH"]})
    (folder / "features.json").write_text(json.dumps(features.document(seen)))
    (folder / "examples.json").write_text(json.dumps([flight_row() for _ in range(rows)]))
    seen = {"rows": 1, "score": late + 0.012, "missing": {"plane_age": 0.25}}
    (folder / "holdout.json").write_text(json.dumps(seen))
    return folder


def flight_row(**changes: Any) -> dict[str, Any]:
    """Return a sound request to flight-delay, with changes."""
    row = {
        "date": "2013-07-04",
        "sched_dep_time": "17:45",
        "carrier": "UA",
        "flight": 1545,
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "distance": 1400,
        "plane": {"year": 1999, "seats": 149},
        "weather": {
            "temp": 75.0,
            "dewp": 60.1,
            "humid": 61.0,
            "wind_dir": 230,
            "wind_speed": 10.4,
            "wind_gust": None,
            "precip": 0.0,
            "pressure": 1015.2,
            "visib": 10.0,
        },
        "recent": {"carrier_late": 0.25, "route_late": 0.125, "plane_late": 0.5},
    }
    return {**row, **changes}


class GateRoom:
    """A checkout just large enough for gate scripts: params.yaml, data/, build/, envs/ of model `toy`.

    `declared` is what the model is for; by default it says how likely it is that `late` is 1.
    """

    def __init__(
        self, root: Path, gate: str, settings: dict[str, Any], declared: dict[str, Any] | None = None
    ) -> None:
        self.root, self.gate = root, gate
        self.declared = declared or {"task": "classification", "label": "late", "prediction": "probability"}
        self.data, self.build = root / "data" / "toy", root / "build" / "toy"
        self.data.mkdir(parents=True)
        self.build.mkdir(parents=True)
        self.set(settings)

    def set(self, settings: dict[str, Any], model: dict[str, Any] | None = None) -> None:
        """Write params.yaml: the gate's section, and what the model lays over it."""
        own = {self.gate: model} if model else {}
        content = {"models": {"toy": {**self.declared, "gates": own}}, "gates": {self.gate: settings}}
        (self.root / "params.yaml").write_text(json.dumps(content))  # JSON is YAML

    def run(self, *arguments: str) -> tuple[int, Any]:
        """Run the real script as a process; return its exit code and the report it wrote."""
        import os
        import subprocess
        import sys

        from tidegate import report

        script = Path(__file__).parents[1] / "gates" / f"{self.gate}.py"
        done = subprocess.run(
            [sys.executable, str(script), "toy", *arguments],
            cwd=self.root,
            env={**os.environ, "TIDEGATE_HOME": str(self.root / ".tidegate")},
            capture_output=True,
            text=True,
            timeout=300,
        )
        print(done.stdout, done.stderr)
        return done.returncode, report.read_report(self.build / "gates" / f"{self.gate}.json")


# ---------------------------------------------------------------- rollouts
MODEL = "toy"


def record(number: int, model: str = MODEL) -> Any:
    """Return a release record; another number gives another id."""
    from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord

    reference, bento = RegistryRef(model, number), BentoRef(f"{model}:{number}", "sha256:b")
    return ReleaseRecord(model, "c" * 40, "sha256:p", reference, "sha256:a", bento, {"data": "PASS"})


A, B, C = (record(n).id for n in (1, 2, 3))

CHECKS = """
  checks:
    - {name: errors, metric: error-rate, limit: 2%, againstStable: {tolerance: 25%}}
    - {name: latency, metric: latency, quantile: 0.99, limit: 1s}
"""
CANARY = f"""defaults:
  steps:
    - setWeight: 10
      pause: {{duration: 3s, minRequests: 10}}
    - setWeight: 50
      pause: {{duration: 3s, minRequests: 50}}
  progressDeadline: 2m
  scaleDownDelay: 10s
{CHECKS}"""
PRODUCTION = f"""defaults:
  steps:
    - setWeight: 75
      pause: {{duration: 3s, minRequests: 50}}
    - setWeight: 100
      pause: {{duration: 3s, minRequests: 50}}
  requiredSoakTime: 4s
  progressDeadline: 2m
  scaleDownDelay: 20s
{CHECKS}"""


def release_yaml(releases: dict[str, str | None]) -> str:
    """Return a release.yaml: model → release, None for no line."""
    lines = [f"  {model}: {release}\n" for model, release in releases.items() if release]
    return "models:\n" + "".join(lines) if lines else "models: {}\n"


def envs(
    production: str | None = None, canary: str | None = None, *, models: tuple[str, ...] = (MODEL,)
) -> dict[str, str]:
    """Return the files of an envs/ tree with three records a model; the plane is `production`."""
    import msgspec
    import yaml

    wanted = {"production": production, "canary": canary, "staging": None}
    files = {"envs/staging/platform.yaml": "plane: staging\n", "envs/staging/rollout.yaml": "defaults: {}\n"}
    files |= {"envs/canary/platform.yaml": "plane: production\n", "envs/canary/rollout.yaml": CANARY}
    files |= {"envs/production/platform.yaml": "workloads: {replicas: 2}\n"}
    files |= {"envs/production/rollout.yaml": PRODUCTION}
    for environment, release in wanted.items():
        files[f"envs/{environment}/release.yaml"] = release_yaml({models[0]: release})
    for model in models:
        for made in (record(n, model) for n in (1, 2, 3)):
            files[f"envs/releases/{model}/{made.id}.yaml"] = yaml.safe_dump(msgspec.to_builtins(made))
    return files


class Rig:
    """A production plane's agent on fakes; a second of `drive` is one tick and 60 requests a model.

    `bad` maps a release to its share of errors. A `Crashed` out of a tick is answered as supervisord
    would: a new agent on the same plane.
    """

    RATE = 60

    def __init__(self, files: dict[str, str] | None = None, **planned: Any) -> None:
        from tidegate import testing

        self.clock = testing.FakeClock()
        self.repository = testing.FakeRepository(files or envs())
        self.router, self.metrics = testing.FakeRouter(), testing.FakeMetrics()
        self.workloads, self.state = testing.FakeWorkloads(), testing.FakeState()
        self.inbox, self.notifier = testing.FakeInbox(), testing.FakeNotifier()
        self.bad: dict[str, float] = {}
        self.traffic = True
        self.crashed = 0
        self._owed: dict[str, float] = {}
        self._planned = planned
        self.agent = self.restart()

    def copy(self) -> Rig:
        """Return the same plane once more, to take another course."""
        import copy

        return copy.deepcopy(self)

    def restart(self, holder: str = "here") -> Any:
        """Start a new agent, which knows only what the plane, Git and the state store know."""
        from tidegate.agent.jobs import InlineJobs
        from tidegate.agent.loop import Agent, Ports

        ports = Ports(
            self.router,
            self.metrics,
            self.workloads,
            self.repository,
            self.state,
            self.inbox,
            self.notifier,
            self.clock,
            InlineJobs(),
            **self._planned,
        )
        self.agent = Agent("production", ports, holder=holder)
        self.agent.start()
        return self.agent

    def drive(self, seconds: int) -> None:
        """Let time pass: requests, a tick, a second, again and again."""
        from tidegate.testing import Crashed

        for _ in range(seconds):
            if self.traffic:
                self._serve()
            try:
                self.agent.tick()
            except Crashed:
                self.crashed += 1
                self.restart()
            self.clock.advance(1)

    def _serve(self) -> None:
        for model, route in self.router.table.items():
            for release, weight in route.weights.items():
                requests = self._whole(f"{model}/{release}", self.RATE * weight / 100)
                errors = self._whole(f"{model}/{release}!", requests * self.bad.get(release, 0.0))
                self.metrics.add(model, release, requests, errors)
            for release, percent in route.mirror.items():
                copies = self._whole(f"{model}/{release}~", self.RATE * percent / 100)
                errors = self._whole(f"{model}/{release}!", copies * self.bad.get(release, 0.0))
                self.metrics.add(model, release, copies, errors)

    def _whole(self, key: str, amount: float) -> int:
        """Return the whole part, and owe the rest."""
        total = self._owed.get(key, 0.0) + amount
        self._owed[key] = total - int(total)
        return int(total)

    def push(self, **releases: str | None) -> str:
        """Merge a promotion as a person would: environment=release."""
        files = {f"envs/{env}/release.yaml": release_yaml({MODEL: r}) for env, r in releases.items()}
        return str(self.repository.push(files, "Promote"))

    def settle(self, production: str, seconds: int = 30) -> None:
        """Make a release production's, settled."""
        self.push(production=production, canary=production)
        self.drive(seconds)
        assert self.weights == {production: 100}, self.status
        assert self.phase("production") == "Healthy", self.status

    # what a test asks
    @property
    def weights(self) -> dict[str, int]:
        """The router's weights of the model."""
        route = self.router.table.get(MODEL)
        return dict(route.weights) if route else {}

    @property
    def status(self) -> dict[str, Any]:
        """The stored status document."""
        return dict(self.state.planes["production"]["status"])

    def line(self, environment: str) -> dict[str, Any]:
        """The model's line of one environment."""
        return dict(self.status["models"][MODEL][environment])

    def phase(self, environment: str) -> str:
        """The phase of one environment."""
        return str(self.line(environment)["phase"])

    @property
    def problems(self) -> str:
        """All problems of the status, as one text."""
        return "\n".join(self.status["problems"])

    @property
    def kinds(self) -> list[str]:
        """The kinds of all stored events."""
        return [event.kind for event in self.state.log]

    def named(self, environment: str) -> str | None:
        """The release that Git's head names."""
        from tidegate.config import parse_release_file

        path = f"envs/{environment}/release.yaml"
        return parse_release_file(self.repository.text(path) or "", path).get(MODEL)

    def rejection(self, release: str) -> str | None:
        """The rejection's text at Git's head."""
        return self.repository.text(f"envs/releases/{MODEL}/{release}.rejected.yaml")

    @property
    def reverts(self) -> int:
        """How many commits the agent made."""
        return sum(commit.change.subject.startswith("Roll back") for commit in self.repository.log)
