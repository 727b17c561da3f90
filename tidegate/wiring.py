"""platform.yaml → adapters. An unknown name raises; only commands and scripts call this.

Adapters are imported when they are asked for: `tidegate --help` and `status` must not pay for
MLflow, BentoML or Evidently.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate import config, images, ports
from tidegate.errors import ConfigError

if TYPE_CHECKING:
    from tidegate.adapters.bentoml import BentoStore
    from tidegate.adapters.mlflow import MlflowRegistry
    from tidegate.adapters.predictions import PredictionStore
    from tidegate.agent.loop import Ports as AgentPorts
    from tidegate.imaging import Order, Tools
    from tidegate.machine.containers import Recipe


def find_checkout(start: Path | None = None) -> Path:
    """Return the nearest folder upwards that holds envs/; raises ConfigError when there is none."""
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / "envs").is_dir():
            return folder
    raise ConfigError(f"no envs/ in {here} or above it", "Go to a clone of your repository.")


def home(checkout: Path) -> config.Home:
    """Return the home of this checkout."""
    return config.Home.find(checkout)


def platform(checkout: Path, environment: str) -> config.Platform:
    """Return the platform of an environment, as the checkout's files say."""
    return config.parse_platform(config.read_envs(checkout), environment)


def platforms(checkout: Path) -> dict[str, config.Platform]:
    """Return the platform of each environment, as the checkout's files say."""
    files = config.read_envs(checkout)
    return {name: config.parse_platform(files, name) for name in config.ENVIRONMENTS}


def router(spec: config.Platform, where: config.Home) -> ports.Router:
    """Return the router of a plane."""
    from tidegate.adapters.envoy import EnvoyRouter

    return EnvoyRouter(where.plane(spec.plane) / "envoy", where.sockets / f"{spec.plane}.envoy")


def metrics(spec: config.Platform, where: config.Home) -> ports.Metrics:
    """Return what counts a plane's requests."""
    from tidegate.adapters.envoy import EnvoyMetrics

    return EnvoyMetrics(where.sockets / f"{spec.plane}.envoy")


def workloads(spec: config.Platform, where: config.Home) -> ports.Workloads:
    """Return what runs a plane's releases."""
    from tidegate.machine.layout import Layout

    targets = Layout(where, spec.plane).targets
    if spec.workloads.contained:
        from tidegate.adapters.containers import ContainerWorkloads
        from tidegate.machine.containers import mark

        return ContainerWorkloads(
            where.plane(spec.plane),
            mark(where.root, spec.plane),
            recipe(spec, where),
            bentos_path(spec, where),
            targets=targets,
            holding=_shown(spec, where),
        )
    from tidegate.adapters.supervisor import SupervisorWorkloads

    return SupervisorWorkloads(
        where.plane(spec.plane),
        where.sockets / f"{spec.plane}.supervisor",
        bentos_path(spec, where),
        targets=targets,
        environment=places(spec, where),
    )


def _shown(spec: config.Platform, where: config.Home) -> object:
    """Return an open store of features, if it is a file.

    Who may only read such a file can't make what SQLite keeps beside it; it is there while somebody has it
    open who may write.
    """
    if store_scheme(where.address(spec.stores.features))[0] != "sqlite":
        return None
    store = features(spec, where)
    store.read([])
    return store


def recipe(spec: config.Platform, where: config.Home) -> Recipe:
    """Return how an environment's containers run. Raises ConfigError for a place that none can reach."""
    from tidegate.core.containers import Limits
    from tidegate.machine.containers import Recipe
    from tidegate.machine.engine import Engine

    found = places(spec, where)
    for name, key in (("TIDEGATE_FEATURES", "features"), ("TIDEGATE_CACHE", "cache")):
        if re.match(r"rediss?://([^@/]*@)?(localhost|127\.|\[::1\])", found.get(name, "")):
            raise ConfigError(
                f"stores.{key}: an address on loopback, which in a container is the container itself",
                "Give the address by which other machines reach it.",
            )
    if (file := found.get("TIDEGATE_FEATURES", "")).startswith("sqlite:"):
        folder = Path(file.removeprefix("sqlite:///")).parent
        if where.root == folder or folder in where.root.parents:
            raise ConfigError(
                f"stores.features: {folder} holds more than features, and containers would see all of it",
                "Give the file a folder of its own: sqlite:///{home}/features/features.db.",
            )
    limits = Limits(spec.workloads.memory, spec.workloads.cpus, spec.workloads.gpus)
    return Recipe(Engine(spec.workloads.adapter), limits, spec.images.run, found)


def places(spec: config.Platform, where: config.Home) -> dict[str, str]:
    """Return the variables that tell a service where what it shares with others lies. Raises ConfigError."""
    found = {}
    if spec.predictions.enabled:
        found["TIDEGATE_PREDICTIONS"] = str(predictions_path(spec, where))
    if spec.stores.features:
        found["TIDEGATE_FEATURES"] = features_address(spec, where)
    if spec.stores.cache:
        found["TIDEGATE_CACHE"] = spec.stores.cache
    return found


def features(spec: config.Platform, where: config.Home, address: str = "") -> ports.FeatureStore:
    """Return the store of online features, or the one at another address. Raises ConfigError."""
    from tidegate.adapters.features import RedisFeatures, SqliteFeatures

    address = features_address(spec, where, address)
    scheme, path = store_scheme(address)
    return SqliteFeatures(Path(path)) if scheme == "sqlite" else RedisFeatures(address)


def features_address(spec: config.Platform, where: config.Home, address: str = "") -> str:
    """Return where services look up features: a file of SQLite or a Redis. Raises ConfigError."""
    address = where.address(address or spec.stores.features)
    scheme, path = store_scheme(address)
    if not (scheme == "sqlite" and path) and not re.match(r"rediss?://[^/]", address):
        raise ConfigError(
            f"stores.features: `{address}` is no feature store",
            "Give it the form `sqlite:///{home}/features/features.db` or `redis://host:6379/0`.",
        )
    return address


def registry(spec: config.Platform, where: config.Home) -> ports.Registry:
    """Return the model registry."""
    from tidegate.adapters.mlflow import MlflowRegistry

    return MlflowRegistry(where.address(spec.stores.registry))


def runs(spec: config.Platform, where: config.Home) -> MlflowRegistry:
    """Return the log of training runs, which MLflow keeps beside its registry."""
    from tidegate.adapters.mlflow import MlflowRegistry

    return MlflowRegistry(where.address(spec.stores.registry))


def bentos(spec: config.Platform, where: config.Home) -> BentoStore:
    """Return the store that Bentos are built into."""
    from tidegate.adapters.bentoml import BentoStore

    return BentoStore(bentos_path(spec, where))


def builder(making: images.Making) -> images.Builder:
    """Return what builds images as environments say."""
    from tidegate.adapters.builder import EngineBuilder

    return EngineBuilder(making.engine, making.build)


def image_tools(making: images.Making, where: config.Home) -> Tools:
    """Return everything that building a release's image touches."""
    from tidegate import imaging
    from tidegate.adapters import containerfile, cyclonedx, wheels
    from tidegate.core.containerfile import debian_packages, pinned

    def bill(order: Order, requirements: str, status: str, system: str) -> str:
        pins = pinned(requirements)
        packages = [cyclonedx.Package(n, v, imaging.licence(n, v)) for n, v in pins.items()]
        below = cyclonedx.System(*imaging.distribution(system), debian_packages(status)) if status else None
        about = {"tidegate:commit": order.record.commit, "tidegate:variant": order.variant}
        files = imaging.model_files(order)
        return cyclonedx.bill(order.record, packages, files, about, image=order.name, system=below)

    return imaging.Tools(
        builder(making),
        containerfile.generate,
        lambda wanted, allowed, into: wheels.fetch(wanted, allowed, where.root / "wheels", into),
        wheels.python,
        wheels.uv,
        bill,
    )


def state(spec: config.Platform, where: config.Home) -> ports.StateStore:
    """Return the store of the agent's state."""

    from tidegate.adapters.sqlite import SqliteState

    return SqliteState(state_path(spec, where))


def state_path(spec: config.Platform, where: config.Home) -> Path:
    """Return the file of the agents' state, for readers that need no lease. Raises ConfigError."""
    return _store_path("state", where.address(spec.stores.state), {"sqlite": "sqlite:///{home}/state.db"})


def bentos_path(spec: config.Platform, where: config.Home) -> Path:
    """Return the folder that Bentos are built into and started from. Raises ConfigError."""
    return _store_path("bentos", where.address(spec.stores.bentos), {"": "{home}/bentoml"})


def predictions_path(spec: config.Platform, where: config.Home) -> Path:
    """Return the folder of the log of predictions. Raises ConfigError."""
    address = where.address(spec.stores.predictions)
    return _store_path("predictions", address, {"": "{home}/predictions"})


def predictions(spec: config.Platform, where: config.Home) -> PredictionStore:
    """Return the log of predictions, with the outcomes that it is joined with."""
    return prediction_log(predictions_path(spec, where), outcomes_path(where))


def prediction_log(folder: Path, outcomes: Path | None) -> PredictionStore:
    """Return the log of predictions in a folder; with what is erased there go its outcomes."""
    from tidegate.adapters.outcomes import SqliteOutcomes
    from tidegate.adapters.predictions import PredictionStore

    def forget(requests: Sequence[str]) -> int:
        if outcomes is None or not outcomes.is_file():
            return 0
        with closing(SqliteOutcomes(outcomes)) as store:
            return store.erase(requests)

    return PredictionStore(folder, outcomes, forget=forget)


def outcomes_path(where: config.Home) -> Path:
    """Return the file of outcomes."""
    from tidegate.adapters.outcomes import FILE

    return where.root / FILE


def prune_outcomes(outcomes: Path, seconds: float) -> None:
    """Forget outcomes as old as predictions that are forgotten."""
    from tidegate.adapters.outcomes import SqliteOutcomes

    if outcomes.is_file():
        with closing(SqliteOutcomes(outcomes)) as store:
            store.prune(seconds)


def _store_path(name: str, address: str, known: Mapping[str, str]) -> Path:
    """Return the path of a store that has to be on this machine; `known` is scheme → an example.

    An address that is not understood is refused: it must not become a folder of that name.
    """
    scheme, path = store_scheme(address)
    if scheme not in known or not path:
        raise ConfigError(
            f"stores.{name}: `{address}` is not supported",
            f"Give it the form `{next(iter(known.values()))}` in envs/platform.yaml.",
        )
    return Path(path)


def store_scheme(address: str) -> tuple[str, str]:
    """Return an address's scheme (empty for a path) and the path; `""` where its form holds none."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", address)
    if not match:
        return "", address
    scheme, lead = match[1].lower(), f"{match[1]}:///"
    return scheme, address[len(lead) :] if address.startswith(lead) else ""


def agent_ports(spec: config.Platform, where: config.Home, checkout: Path) -> AgentPorts:
    """Return everything that the agent of a plane touches."""
    from tidegate.adapters.sqlite import SqliteInbox
    from tidegate.adapters.system import SystemClock
    from tidegate.agent.jobs import ThreadJobs
    from tidegate.agent.keeping import keeping
    from tidegate.agent.loop import Ports
    from tidegate.agent.mirror import mirror

    return Ports(
        router=router(spec, where),
        metrics=metrics(spec, where),
        workloads=workloads(spec, where),
        repository=repository(spec, where, checkout),
        state=state(spec, where),
        inbox=SqliteInbox(state_path(spec, where)),
        notifier=notifier(spec, where),
        clock=SystemClock(),
        jobs=ThreadJobs(),
        mirror=mirror(spec.plane),
        keep=keeping(
            predictions_path(spec, where),
            float(spec.predictions.settle),
            float(spec.predictions.retain) / 86400,
            outcomes_path(where),
        )
        if spec.predictions.enabled
        else None,
        measures=measures(spec, where),
        recorder=recorder(where),
        readers=ThreadJobs(),
    )


def measures(spec: config.Platform, where: config.Home) -> tuple[ports.Measures, ...]:
    """Return every source of counts beside the router's: services, answers, outcomes, Prometheus."""
    from tidegate.adapters.answers import AnswerMeasures
    from tidegate.adapters.journal import EnvoyJournal
    from tidegate.adapters.outcomes import FILE, OutcomeMeasures
    from tidegate.adapters.service import ServiceMeasures

    plane = where.plane(spec.plane)
    journal = EnvoyJournal(plane / "envoy" / "journal.jsonl", where.sockets / f"{spec.plane}.envoy")
    labels = float(spec.predictions.retain) if spec.predictions.enabled else 0.0
    outcomes = OutcomeMeasures(where.root / FILE, journal, spec.plane, labels=labels)
    found: tuple[ports.Measures, ...] = (ServiceMeasures(), AnswerMeasures(plane / "answers"), outcomes)
    if not spec.prometheus.url:
        return found
    from tidegate.adapters.prometheus import PrometheusMeasures

    return (*found, PrometheusMeasures(spec.prometheus.url, spec.plane))


def recorder(where: config.Home) -> ports.Recorder:
    """Return what keeps each rollout's measurements."""
    from tidegate.adapters.recordings import FileRecorder

    return FileRecorder(where.root / "recordings")


def notifier(spec: config.Platform, where: config.Home) -> ports.Notifier:
    """Return who is told of events: a log file, and the addresses of platform.yaml. Raises ConfigError."""
    from tidegate.adapters.system import BothNotifier, LogNotifier

    log = LogNotifier(where.logs / f"events-{spec.plane}.jsonl")
    if not spec.notify.urls:
        return log
    from tidegate.adapters.apprise import AppriseNotifier

    return BothNotifier(log, AppriseNotifier(spec.notify.urls, spec.notify.events))


def repository(spec: config.Platform, where: config.Home, checkout: Path) -> ports.Repository:
    """Return the agent's view of the remote that `checkout` calls `repository.remote`."""
    from tidegate.adapters.git import GitRepository, remote_url

    url = remote_url(checkout, spec.repository.remote)
    return GitRepository(url, spec.repository.branch, where.plane(spec.plane) / "repository.git")


def forge(spec: config.Platform, checkout: Path) -> ports.Forge:
    """Return where pull requests live."""
    if spec.forge.adapter == "github":
        from tidegate.adapters.github import GitHubForge

        named = spec.forge.repository or os.environ.get("GITHUB_REPOSITORY", "")
        return GitHubForge(spec.forge.api, named, os.environ.get("GITHUB_TOKEN", ""))
    from tidegate.adapters.git import remote_url
    from tidegate.adapters.local_forge import LocalForge

    return LocalForge(Path(remote_url(checkout, spec.repository.remote)))
