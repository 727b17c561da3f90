"""What the files under envs/ say. `parse_*` is pure; `load` reads a checkout.

Unknown keys are fatal with a did-you-mean; every error names file and line.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tidegate.core.plan import Limit, Milliseconds, Plan, Ratio, Seconds
from tidegate.core.release import ImageRef, ReleaseRecord, is_release_id
from tidegate.core.strategies import legs
from tidegate.core.telling import KINDS
from tidegate.documents import Lines, convert, read_yaml
from tidegate.errors import ConfigError, suggest

_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]*")  # it becomes part of paths, routes and process names
ENVIRONMENTS = ("staging", "canary", "production")


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Base: immutable, camelCase on paper, unknown keys refused."""


class RouterSpec(_Spec, frozen=True):
    """`port` is where the plane answers; `auto` is a free one, chosen once for each home."""

    adapter: Literal["envoy"] = "envoy"
    port: int | Literal["auto"] = "auto"


class WorkloadsSpec(_Spec, frozen=True):
    """How releases run; `replicas` processes (`supervisor`) or containers (`podman`, `docker`) a release.

    A container may take `memory` (`512m`, `2g`), `cpus` cores and `gpus` (`all`, or `0,1`); nothing limits a
    process. Beside what Git asks for, so many releases of a model may be `loaded` by people, and take so much
    memory together (measured; in millions of bytes).
    """

    adapter: Literal["supervisor", "podman", "docker"] = "supervisor"
    replicas: int = 1
    memory: Annotated[str, msgspec.Meta(pattern=r"^([1-9]\d*[bkmg])?\Z")] = ""
    cpus: Annotated[float, msgspec.Meta(ge=0, le=1024)] = 0.0
    gpus: Annotated[str, msgspec.Meta(pattern=r"^(all|\d+(,\d+)*)?\Z")] = ""
    loaded: Annotated[int, msgspec.Meta(ge=0, le=100)] = 2
    loaded_memory_mb: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 4096.0

    def __post_init__(self) -> None:
        if not self.contained and any((self.memory, self.cpus, self.gpus)):
            text = "memory, cpus and gpus are of containers; nothing limits a process"
            raise ValueError(f"{text}. Take them out, or set `adapter: podman` (or docker)")

    @property
    def contained(self) -> bool:
        """Whether releases run as containers, by the engine that `adapter` names."""
        return self.adapter != "supervisor"


class AgentSpec(_Spec, frozen=True):
    """`interval` between two looks at the plane, `poll` between two looks at the remote."""

    interval: Seconds = Seconds(1)
    poll: Seconds = Seconds(2)
    lease: Seconds = Seconds(15)


class RepositorySpec(_Spec, frozen=True):
    """The remote and branch that say what should run."""

    remote: str = "origin"
    branch: str = "main"


class ForgeSpec(_Spec, frozen=True):
    """Where pull requests live: `local`, or `github` with `repository: owner/name`."""

    adapter: Literal["local", "github"] = "local"
    repository: str = ""
    api: str = "https://api.github.com"


class StoresSpec(_Spec, frozen=True):
    """Addresses of what runs, agents and laptops share; `{home}` is TIDEGATE_HOME."""

    state: str = "sqlite:///{home}/state.db"
    registry: str = "sqlite:///{home}/mlflow/mlflow.db"
    dvc: str = "{home}/dvc"
    bentos: str = "{home}/bentoml"
    predictions: str = "{home}/predictions"
    features: str = "sqlite:///{home}/features/features.db"
    cache: Annotated[str, msgspec.Meta(pattern=r"^(rediss?://[^/].*)?\Z")] = ""  # a Redis; none by default


class PredictionsSpec(_Spec, frozen=True):
    """The log of predictions: days that ended `retain` ago go; `settle` is how soon it becomes Parquet."""

    enabled: bool = True
    retain: Seconds = Seconds(90 * 86400)
    settle: Seconds = Seconds(30)


class MachineSpec(_Spec, frozen=True):
    """What an hour of one machine costs, and what it has."""

    per_hour: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    cores: Annotated[int, msgspec.Meta(ge=1)] = 1
    gpus: Annotated[int, msgspec.Meta(ge=0)] = 0


class PricesSpec(_Spec, frozen=True):
    """What machines cost, by name; the `cost` gate's `machine` chooses one."""

    currency: Annotated[str, msgspec.Meta(min_length=1)] = "USD"
    machines: dict[str, MachineSpec] = {}


_TOLD = (
    "breach",
    "rolled-back",
    "reverted",
    "paused",
    "verified",
    "healthy",
    "gave-up",
    "arm-out",
    "aborted",
    "experiment",
    "problem",
)


class NotifySpec(_Spec, frozen=True):
    """Who is told of what: addresses as apprise takes them, `$NAME` filled in from the environment.

    `events` are kinds of ports.Event; what passes by (a weight, a look) is left out unless it is named.
    """

    urls: tuple[str, ...] = ()
    events: tuple[str, ...] = _TOLD

    def __post_init__(self) -> None:
        for kind in self.events:
            if kind not in KINDS:
                raise ValueError(f"nothing ever happens that is called `{kind}`. {suggest(kind, KINDS)}")


class PrometheusSpec(_Spec, frozen=True):
    """The Prometheus server that `metric: prometheus` asks; none by default."""

    url: str = ""


class UiSpec(_Spec, frozen=True):
    """Where `tidegate ui` listens, on loopback."""

    port: int | Literal["auto"] = "auto"


# A word of a container file and of an engine's command line: no second line, and no option.
ImageName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]\S*\Z")]


class ImagesSpec(_Spec, frozen=True):
    """How `tidegate image` builds, by `engine`: by default what runs the containers, else podman.

    `base` and `gpuBase` are the images that releases are built on; `build` and `run` are options of the
    engine's own, added to each `build` and each `run` (a limit or a runtime that a machine asks for).
    """

    engine: Literal["", "podman", "docker"] = ""
    base: ImageName = "docker.io/library/python:3.11-slim-bookworm"
    gpu_base: ImageName = "docker.io/nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04"
    build: tuple[str, ...] = ()
    run: tuple[str, ...] = ()


class Platform(_Spec, frozen=True):
    """Where an environment runs: envs/platform.yaml, then envs/<env>/platform.yaml over it."""

    plane: str = ""
    router: RouterSpec = RouterSpec()
    workloads: WorkloadsSpec = WorkloadsSpec()
    agent: AgentSpec = AgentSpec()
    repository: RepositorySpec = RepositorySpec()
    forge: ForgeSpec = ForgeSpec()
    stores: StoresSpec = StoresSpec()
    predictions: PredictionsSpec = PredictionsSpec()
    prices: PricesSpec = PricesSpec()
    notify: NotifySpec = NotifySpec()
    prometheus: PrometheusSpec = PrometheusSpec()
    ui: UiSpec = UiSpec()
    images: ImagesSpec = ImagesSpec()


class Rejection(_Spec, frozen=True):
    """A release that failed a rollout, with its evidence; refused if promoted again."""

    release: str
    model: str
    environment: str
    at: str  # ISO 8601, UTC
    verdict: str
    reason: str
    observed: str = ""
    limit: str = ""
    findings: tuple[Mapping[str, Any], ...] = ()


class Images(_Spec, frozen=True):
    """The images made of one release, by variant: the file beside its record."""

    release: str
    model: str
    images: dict[Literal["cpu", "gpu"], ImageRef]


@dataclass(frozen=True)
class Environment:
    """One folder of envs/: which releases it wants, how they get there, and where it runs."""

    name: str
    releases: Mapping[str, str]
    platform: Platform
    default_plan: Plan = Plan()
    plans: Mapping[str, Plan] = field(default_factory=dict)

    def plan(self, model: str) -> Plan:
        """Return the model's rollout plan: the defaults with its overrides."""
        return self.plans.get(model, self.default_plan)


@dataclass(frozen=True)
class Desired:
    """All that Git says at one commit."""

    commit: str
    environments: Mapping[str, Environment]
    records: Mapping[str, ReleaseRecord] = field(default_factory=dict)  # by release id
    rejections: Mapping[str, Rejection] = field(default_factory=dict)  # by release id

    def models(self) -> tuple[str, ...]:
        """Return every model that an environment names, sorted."""
        return tuple(sorted({m for env in self.environments.values() for m in env.releases}))


def _document(files: Mapping[str, str], path: str) -> tuple[dict[str, Any], Lines]:
    if path not in files:
        raise ConfigError("is missing", "Restore it from Git.", where=path)
    value, lines = read_yaml(files[path], path)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise ConfigError("must be a mapping (key: value)", "Compare it with the README.", where=f"{path}:1")
    return value, lines


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, mapping by mapping; lists and scalars are replaced whole."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


class _ReleaseFile(_Spec, frozen=True):
    models: dict[str, str] = {}


class _RolloutFile(_Spec, frozen=True):
    defaults: dict[str, Any] = {}
    models: dict[str, dict[str, Any]] = {}


class _RolloutForm(_Spec, frozen=True):
    """rollout.yaml: how releases reach one environment."""

    defaults: Annotated[Plan, msgspec.Meta(description="The plan of every model.")] = msgspec.field(
        default_factory=Plan
    )
    models: Annotated[
        dict[str, Plan], msgspec.Meta(description="A model's own values, laid over the defaults.")
    ] = {}


_QUANTITIES: dict[type, tuple[str, str]] = {
    Seconds: (r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$", "a duration: 30s, 5m, 2h or 1d"),
    Milliseconds: (r"^\d+(\.\d+)?\s*(ms|s)$", "a latency: 200ms or 1.5s"),
    Ratio: (r"^\d+(\.\d+)?\s*%$", "a share: 1% or 0.01"),
    Limit: (r"^\d+(\.\d+)?\s*(%|ms|s)$", "a share (1% or 0.01) or a latency (200ms)"),
}


def rollout_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of rollout.yaml: each field with its default and what it is."""

    def quantity(kind: type) -> dict[str, Any]:
        pattern, text = _QUANTITIES[kind]
        written: dict[str, Any] = {"type": "string", "pattern": pattern}
        if kind in (Ratio, Limit):
            return {"anyOf": [written, {"type": "number"}], "description": text}
        return {**written, "description": text}

    (reference,), components = msgspec.json.schema_components(
        [_RolloutForm], ref_template="#/$defs/{name}", schema_hook=quantity
    )
    for struct in _structs(Plan, {}).values():
        for item in msgspec.structs.fields(struct):
            if item.default_factory is not msgspec.NODEFAULT and isinstance(item.default_factory(), float):
                shown = components[struct.__name__]["properties"][item.encode_name]
                shown["default"] = written_duration(item.default_factory())
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Tidegate rollout.yaml"}
    return {**head, **reference, "$defs": components}


def _structs(shape: Any, found: dict[str, type[msgspec.Struct]]) -> dict[str, type[msgspec.Struct]]:
    """Return every struct that may occur inside one, by name."""
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        if shape.__name__ in found:
            return found
        found[shape.__name__] = shape
        inner = [item.type for item in msgspec.structs.fields(shape)]
    else:
        inner = list(getattr(shape, "__args__", ()))
    for one in inner:
        _structs(one, found)
    return found


def written_duration(seconds: float) -> str:
    """Return a duration as rollout.yaml writes it, in the largest unit that fits: `2h`, `90s`."""
    units = {"d": 86400, "h": 3600, "m": 60}
    unit = next((u for u, size in units.items() if seconds and seconds % size == 0), "s")
    return f"{seconds / units.get(unit, 1):g}{unit}"


def parse_release_file(text: str, path: str) -> dict[str, str]:
    """Parse a release.yaml into model → release id."""
    value, lines = _document({path: text}, path)
    named = value.get("models")
    for model, release in named.items() if isinstance(named, dict) else ():
        if not _MODEL.fullmatch(str(model)):
            raise ConfigError(
                f"`{model}` can't name a model",
                "Use a-z, 0-9 and hyphens.",
                where=f"{path}:{lines.get(f'$.models.{model}', 1)}",
            )
        if not isinstance(release, str) or not is_release_id(release):
            line = lines.get(f"$.models.{model}", 1)
            raise ConfigError(
                f"`{release}` is not a release id (12 hex digits; quote it if it has digits only)",
                "Take the id from envs/releases/.",
                where=f"{path}:{line}",
            )
    return convert(value, _ReleaseFile, where=path, lines=lines).models


def parse_platform(files: Mapping[str, str], environment: str) -> Platform:
    """Parse envs/platform.yaml with envs/<environment>/platform.yaml over it."""
    own = f"envs/{environment}/platform.yaml"
    value, lines = _document(files, own)
    convert(value, Platform, where=own, lines=lines)
    shared, shared_lines = (
        _document(files, "envs/platform.yaml") if "envs/platform.yaml" in files else ({}, {})
    )
    convert(shared, Platform, where="envs/platform.yaml", lines=shared_lines)
    return convert(merge({"plane": environment, **shared}, value), Platform, where=own, lines=lines)


def parse_rollout(text: str, path: str, environment: str = "staging") -> tuple[Plan, dict[str, Plan]]:
    """Parse a rollout.yaml into its default plan and the plans of models that override it.

    Where users are, a plan that watches nothing is refused unless it says so by `checks: []`.
    """
    value, lines = _document({path: text}, path)
    spec = convert(value, _RolloutFile, where=path, lines=lines)
    over = {f"$.models.{model}": merge(spec.defaults, own) for model, own in spec.models.items()}
    said = {
        at: _stages(plan, f"{path}:{lines.get(at, 1)}")
        for at, plan in {"$.defaults": spec.defaults, **over}.items()
    }
    made = {at: convert(plan, Plan, where=path, lines=lines, at=at) for at, plan in said.items()}
    for at, plan in made.items():
        _watched(environment, said[at], plan, f"{path}:{lines.get(at, 1)}")
    default = made.pop("$.defaults")
    return default, {at.removeprefix("$.models."): plan for at, plan in made.items()}


# What a rollout has one of, however many strategies it goes through.
_WHOLE = ("alpha", "progressDeadline", "requiredSoakTime", "scaleDownDelay")


def _stages(said: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Lay each strategy of a sequence over what is said beside it; refuse what would be ignored there."""
    items = said.get("sequence")
    if not isinstance(items, list):
        return said
    for key in (key for i in items if isinstance(i, Mapping) for key in _WHOLE if key in i):
        text = f"{key} in an item of the sequence means nothing: a rollout has one"
        raise ConfigError(text, f"Write `{key}` beside `sequence`.", where=where)
    base = {key: value for key, value in said.items() if key != "sequence"}
    return {**base, "sequence": [merge(base, i) if isinstance(i, Mapping) else i for i in items]}


def _watched(environment: str, said: Mapping[str, Any], plan: Plan, where: str) -> None:
    """Fail closed: no file, no steps and no checks must never mean all traffic, unwatched."""
    if environment == "staging":
        return
    if environment == "canary" and all(leg.weight == 100 for leg in legs(plan, "canary", "the stable one")):
        raise ConfigError("there are no steps: a canary would take all traffic", "Add `steps`.", where=where)
    for stage, own in zip(plan.stages, said.get("sequence") or [said], strict=True):
        if own.get("checks") != [] and all(check.dry_run for check in stage.checks):
            raise ConfigError(
                "there is no check that decides: a bad release would not be noticed",
                "Add `checks`, or write `checks: []` if that is meant.",
                where=where,
            )


def read_record(text: str, where: str) -> ReleaseRecord:
    """Parse a release record whose file has another name than its id: that of the last one packaged."""
    value, lines = _document({where: text}, where)
    record: ReleaseRecord = convert(value, ReleaseRecord, where=where, lines=lines)
    if record.images is not None:
        raise ConfigError(
            "a record holds no images: they are of the release, which it is what identifies",
            "Move them to the file beside it that ends in `.images.yaml`.",
            where=where,
        )
    return record


def parse_images(text: str, path: str) -> Images:
    """Parse the images of a release; it must be of the release and model that its path says."""
    value, lines = _document({path: text}, path)
    found: Images = convert(value, Images, where=path, lines=lines)
    model, name = path.split("/")[-2:]
    if f"{found.release}.images.yaml" != name or found.model != model:
        raise ConfigError(
            f"it holds the images of {found.model} {found.release}, not of the release in its name",
            "Make it again with `tidegate image`.",
            where=path,
        )
    return found


@lru_cache(maxsize=4096)  # immutable, and every commit holds all that were ever made
def parse_record(text: str, path: str) -> ReleaseRecord:
    """Parse a release record; its content must have the id that its file name says."""
    record = read_record(text, path)
    stem = path.rsplit("/", 1)[-1].removesuffix(".yaml")
    if record.id != stem:
        raise ConfigError(
            f"its content has the id {record.id}, not the one in its name",
            "Records are immutable: restore the file from Git.",
            where=path,
        )
    return record


def parse_desired(commit: str, files: Mapping[str, str]) -> Desired:
    """Parse everything under envs/ at one commit; raises ConfigError for the first thing wrong."""
    environments = {}
    for name in ENVIRONMENTS:
        path, how = f"envs/{name}/release.yaml", f"envs/{name}/rollout.yaml"
        for needed in (path, how):
            if needed not in files:
                raise ConfigError("is missing", "Restore it from Git.", where=needed)
        default, plans = parse_rollout(files[how], how, name)
        environments[name] = Environment(
            name, parse_release_file(files[path], path), parse_platform(files, name), default, plans
        )
    records: dict[str, ReleaseRecord] = {}
    rejections: dict[str, Rejection] = {}
    images: dict[str, Images] = {}
    for path, text in sorted(files.items()):
        if not path.startswith("envs/releases/") or not path.endswith(".yaml"):
            continue
        if path.endswith(".rejected.yaml"):
            value, lines = _document(files, path)
            rejection = convert(value, Rejection, where=path, lines=lines)
            if rejection.release != path.rsplit("/", 1)[-1].removesuffix(".rejected.yaml"):
                raise ConfigError(
                    f"it rejects {rejection.release}, not the release in its name",
                    "Correct one of them.",
                    where=path,
                )
            rejections[rejection.release] = rejection
        elif path.endswith(".images.yaml"):
            images[path] = parse_images(text, path)
        else:
            record = parse_record(text, path)
            records[record.id] = record
    for path, found in images.items():
        if found.release not in records or records[found.release].model != found.model:
            raise ConfigError(
                f"there is no record of {found.model} {found.release} beside it",
                "Restore the record from Git, or delete this file.",
                where=path,
            )
        records[found.release] = msgspec.structs.replace(records[found.release], images=found.images)
    for environment in environments.values():
        _recorded(environment, records, files)
    return Desired(commit, environments, records, rejections)


def _recorded(
    environment: Environment, records: Mapping[str, ReleaseRecord], files: Mapping[str, str]
) -> None:
    """Refuse a release that has no record: a misspelt model or id must not take the right one's place."""
    path = f"envs/{environment.name}/release.yaml"
    for model, release in environment.releases.items():
        record = records.get(release)
        if record is not None and record.model == model:
            continue
        line = read_yaml(files[path], path)[1].get(f"$.models.{model}", 1)
        models = {r.model for r in records.values()}
        known = sorted(r.id for r in records.values() if r.model == model)
        close = suggest(release, known, "") if known else suggest(model, models, "")
        raise ConfigError(
            f"{release} of {model} has no record in envs/releases/{model}/",
            close or "Merge its record, or correct the line.",
            where=f"{path}:{line}",
        )


def read_envs(root: Path) -> dict[str, str]:
    """Read every YAML file under envs/ of a checkout."""
    folder = root / "envs"
    return {
        path.relative_to(root).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*.yaml"))
        if path.is_file()
    }


def load(root: Path) -> Desired:
    """Read and parse a checkout's envs/."""
    return parse_desired("", read_envs(root))


@dataclass(frozen=True)
class Home:
    """The one folder of state, logs and stores; path arithmetic only, nothing is created here."""

    root: Path

    @classmethod
    def find(cls, checkout: Path) -> Home:
        """Return TIDEGATE_HOME, or `.tidegate` in the checkout."""
        named = os.environ.get("TIDEGATE_HOME")
        return cls((Path(named) if named else checkout / ".tidegate").absolute())

    def address(self, template: str) -> str:
        """Fill `{home}` in a store's address."""
        return template.replace("{home}", str(self.root))

    def plane(self, name: str) -> Path:
        """Return the folder of one plane: router files, supervisor's files, logs, ports."""
        return self.root / "planes" / name

    @property
    def sockets(self) -> Path:
        """The folder of this home's unix sockets: short, since a socket's path holds 107 bytes."""
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        name = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        return Path(base) / f"tidegate-{os.getuid()}-{name}"

    @property
    def logs(self) -> Path:
        """Where logs go."""
        return self.root / "logs"
