"""From a release to an image's parts, with an engine that only writes down what it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.containers import ROOT, checkout, git, toy
from tidegate import images, imaging, promotion, wiring
from tidegate.adapters import containerfile, cyclonedx
from tidegate.adapters.builder import EngineBuilder, settled
from tidegate.bentos import bento_digest, bento_path
from tidegate.config import Home, ImagesSpec, Platform, WorkloadsSpec, parse_images, parse_platform
from tidegate.core.images import EPOCH, identity
from tidegate.core.promotion import Target
from tidegate.core.release import ReleaseRecord
from tidegate.errors import ConfigError, PlatformError, ReleaseNotFound
from tidegate.images import Inspected
from tidegate.packaging import record_text
from tidegate.testing import FakeForge

HADOLINT = Path(sys.executable).parent / "hadolint"
STATUS = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n"


@dataclass
class Asked:
    """One build: its context's files with their rights, its file, and the rest of the question."""

    name: str
    files: dict[str, int]
    text: str
    timestamp: int
    target: str
    bill: str


@dataclass
class Noting:
    """A builder that builds nothing."""

    known: dict[str, Inspected] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    python: bool = True
    pushed: list[tuple[str, str]] = field(default_factory=list)

    def inspect(self, name: str) -> Inspected | None:
        return self.known.get(name)

    def pull(self, name: str) -> Inspected:
        return Inspected("sha256:" + "b" * 64, {}, 7)

    def build(
        self, context: Path, file: Path, name: str, *, timestamp: int, target: str = "", again: bool = False
    ) -> Inspected:
        files = {
            path.relative_to(context).as_posix(): path.stat().st_mode & 0o777
            for path in context.rglob("*")
            if path.is_file()
        }
        bill = context / "sbom.cdx.json"
        text = bill.read_text() if bill.is_file() else ""
        self.asked.append(Asked(name, files, file.read_text(), timestamp, target, text))
        self.known[name] = Inspected("sha256:" + "1" * 64, {}, 42)
        return self.known[name]

    def push(self, name: str, to: str) -> None:
        self.pushed.append((name, to))

    def has(self, name: str, path: str) -> bool:
        return self.python

    def read(self, name: str, path: str) -> str | None:
        return STATUS if path.endswith("status") else 'ID=debian\nVERSION_ID="12"\n'


@dataclass
class Subject:
    """A release to be built, and what building asks of others."""

    order: imaging.Order
    builder: Noting
    tools: imaging.Tools


def _wheels(requirements: str, allowed: frozenset[str], into: Path) -> int:
    into.mkdir()
    (into / "one.whl").write_text(requirements)
    return 1


def _python(into: Path, version: str) -> None:
    (into / "bin").mkdir(parents=True)
    (into / "bin" / "python").touch(mode=0o755)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """A toy release in a repository, with BentoML's container file as it was generated once."""
    locks = ("requirements.lock", "requirements-gpu.lock")
    record = toy(tmp_path, checkout(tmp_path, base="base:1", locks=locks), ["msgspec"])
    where, builder = Home.find(tmp_path), Noting()
    real = wiring.image_tools(images.making(wiring.platforms(tmp_path), "cpu"), where)
    uv = tmp_path / "uv"
    uv.write_text("uv")
    tools = imaging.Tools(
        builder,
        lambda tag, options: f"FROM {options['base_image']}\n",
        _wheels,
        _python,
        lambda: uv,
        real.bill,
    )
    bento = bento_path(where.root / "bentoml", record.bento.tag)
    return Subject(imaging.Order(record, "cpu", bento, tmp_path, "base:1"), builder, tools)


def test_what_is_installed_is_built_once_for_all_releases(subject: Subject, tmp_path: Path) -> None:
    """A second release with the same pins builds its own part only, on the same image of packages."""
    imaging.make(subject.order, subject.tools)
    record = toy(tmp_path, subject.order.record.commit, ["msgspec"], version="2")
    bento = bento_path(Home.find(tmp_path).root / "bentoml", record.bento.tag)
    imaging.make(imaging.Order(record, "cpu", bento, tmp_path, "base:1"), subject.tools)
    names = [asked.name for asked in subject.builder.asked]
    assert names[0].startswith("localhost/tidegate/packages:")
    assert names[1:] == [subject.order.name, f"localhost/tidegate/{record.model}:{record.id}"]
    assert all(f"FROM {names[0]} AS release" in asked.text for asked in subject.builder.asked[1:])


def test_other_packages_make_another_image_of_them(subject: Subject, tmp_path: Path) -> None:
    """Whatever decides what is installed is in its name: pins, base, and the variant's runtime."""
    imaging.make(subject.order, subject.tools)
    record = toy(tmp_path, subject.order.record.commit, ["msgspec", "packaging"], version="2")
    bento = bento_path(Home.find(tmp_path).root / "bentoml", record.bento.tag)
    imaging.make(imaging.Order(record, "cpu", bento, tmp_path, "base:1"), subject.tools)
    imaging.make(imaging.Order(record, "cpu", bento, tmp_path, "base:2"), subject.tools)
    imaging.make(imaging.Order(record, "gpu", bento, tmp_path, "base:1"), subject.tools)
    names = [asked.name for asked in subject.builder.asked if asked.target == "packages"]
    assert len(set(names)) == len(names) == 4


def test_time_is_the_commits_and_that_of_packages_nobodys(subject: Subject) -> None:
    """A release is dated by its commit; what they share has a date of its own, or it'd differ."""
    imaging.make(subject.order, subject.tools)
    packages, release = subject.builder.asked
    assert packages.timestamp == EPOCH
    assert release.timestamp == imaging.date(subject.order)


def test_the_image_holds_the_bento_as_it_is_and_no_wheels(subject: Subject) -> None:
    """The release's part has every file of the Bento, readable by all, its bill of materials and no more."""
    odd = subject.order.bento / "src" / "tidegate" / "serve.py"
    odd.chmod(0o600)
    cached = subject.order.bento / "src" / "__pycache__"
    cached.mkdir()
    (cached / "x.pyc").touch()
    imaging.make(subject.order, subject.tools)
    packages, release = subject.builder.asked
    assert release.files == {
        **{
            path.relative_to(subject.order.bento).as_posix(): 0o644
            for path in subject.order.bento.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        },
        "sbom.cdx.json": 0o644,
    }
    assert {"env/docker/uv", "env/docker/uv.toml", "env/python/wheels/one.whl"} <= set(packages.files)
    assert bento_digest(subject.order.bento) == subject.order.record.bento.digest


def test_labels_say_what_the_image_is_of(subject: Subject) -> None:
    """All by which an image is known to be a release's is in its labels, with its base's id."""
    imaging.make(subject.order, subject.tools)
    text = subject.builder.asked[-1].text
    for key, value in identity(subject.order.record, "cpu").items():
        assert f'{key}="{value}"' in text
    assert f'tidegate.base-id="sha256:{"b" * 64}"' in text


def test_only_an_image_for_gpus_looks_for_one(subject: Subject) -> None:
    """The variant for GPUs takes one where there is one; the other leaves it to the model's settings."""
    gpu = msgspec.structs.replace(subject.order.record)
    order = imaging.Order(gpu, "gpu", subject.order.bento, subject.order.checkout, "base:1")
    assert imaging.environment(order)["TIDEGATE_PROVIDER"] == "auto"
    assert "TIDEGATE_PROVIDER" not in imaging.environment(subject.order)


def test_a_base_without_python_gets_one(subject: Subject) -> None:
    """The installer's own Python is brought along only where the base has none."""
    imaging.make(subject.order, subject.tools)
    assert "env/docker/python/bin/python" not in subject.builder.asked[0].files
    subject.builder.known.clear()
    subject.builder.python = False
    imaging.make(subject.order, subject.tools)
    assert subject.builder.asked[2].files["env/docker/python/bin/python"] == 0o755


def test_the_bill_is_of_the_image(subject: Subject) -> None:
    """The bill of materials is valid, names the model, packages of Python and Debian, and stays the same."""
    first, second = (imaging.make(subject.order, subject.tools).bill for _ in range(2))
    assert first == second == subject.builder.asked[-1].bill
    assert cyclonedx.invalid(first) == ""
    document = json.loads(first)
    assert document["metadata"]["component"]["type"] == "container"
    assert document["metadata"]["component"]["name"] == subject.order.name
    names = {part["name"] for part in document["components"]}
    assert {"msgspec", "libc6", "debian", "toy"} <= names


def test_a_bento_that_its_commit_does_not_lock_is_refused(subject: Subject) -> None:
    """A pin that the lock of the release's commit does not have is told by name; nothing is built."""
    pins = subject.order.bento / "env" / "python" / "requirements.txt"
    pins.write_text("msgspec==0.0.1\n")
    with pytest.raises(ConfigError, match=r"msgspec==0\.0\.1 of the Bento has no hash"):
        imaging.make(subject.order, subject.tools)
    assert subject.builder.asked == []


def test_a_commit_that_is_not_here_is_told(subject: Subject) -> None:
    """A release whose commit was not fetched can't be built, and the error says which."""
    record = msgspec.structs.replace(subject.order.record, commit="d" * 40)
    order = imaging.Order(record, "cpu", subject.order.bento, subject.order.checkout, "base:1")
    with pytest.raises(ReleaseNotFound, match="ddddddd"):
        imaging.make(order, subject.tools)


def test_each_variant_is_recorded_beside_the_others(subject: Subject) -> None:
    """A second variant's digest is added to the first's, in the file that the agent reads."""
    built = imaging.make(subject.order, subject.tools)
    gpu = imaging.Order(
        subject.order.record, "gpu", subject.order.bento, subject.order.checkout, subject.order.base
    )
    path = imaging.write(subject.order, built)[0]
    imaging.write(gpu, imaging.make(gpu, subject.tools))
    images = parse_images((subject.order.checkout / path).read_text(), path).images
    assert images["cpu"] == built.reference
    assert images["gpu"].name.endswith("-gpu")


def test_a_recorded_image_that_is_here_is_kept(subject: Subject) -> None:
    """Another run of a workflow replaces none that runs; what is not here, or says otherwise, is built."""
    order, builder = subject.order, subject.builder
    assert not images.kept(order.checkout, order.record, "cpu", builder)
    made = imaging.make(order, subject.tools)
    imaging.write(order, made)
    builder.known.pop(made.reference.id, None)
    assert not images.kept(order.checkout, order.record, "cpu", builder)
    labels = identity(order.record, "cpu")
    builder.known[made.reference.id] = Inspected(made.reference.id, labels, 7)
    assert images.kept(order.checkout, order.record, "cpu", builder)
    assert not images.kept(order.checkout, order.record, "gpu", builder)
    builder.known[made.reference.id] = Inspected(made.reference.id, {**labels, "tidegate.release": "0"}, 7)
    assert not images.kept(order.checkout, order.record, "cpu", builder)


def test_a_release_is_found_by_its_id_or_as_the_last(subject: Subject) -> None:
    """Without an id it is the one that was packaged last; an id that has no record is told."""
    record: ReleaseRecord = subject.order.record
    assert imaging.recorded(subject.order.checkout, record.model) == record
    with pytest.raises(ReleaseNotFound, match=r"there is no envs/releases/.*/0{12}\.yaml"):
        imaging.recorded(subject.order.checkout, record.model, "0" * 12)
    (subject.order.checkout / "build" / record.model).rename(subject.order.checkout / "build" / "other")
    with pytest.raises(ConfigError, match=f"of a release of {record.model}, not of other"):
        imaging.recorded(subject.order.checkout, "other")


def test_a_promotion_carries_the_images(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What `image` wrote here goes with the release's promotion; what main has by then is left as it is."""
    root, record = subject.order.checkout, subject.order.record
    remote = tmp_path_factory.mktemp("remote")
    git(remote, "init", "--quiet", "--bare", "--initial-branch=main")
    git(root, "remote", "add", "origin", str(remote))
    git(root, "push", "--quiet", "origin", "main")
    path = imaging.write(subject.order, imaging.make(subject.order, subject.tools))[0]
    target = Target("staging", record.model, record.id)
    later = Target("canary", record.model, record.id)
    origin, forge = promotion.Origin(root), FakeForge()
    for branch in (target.branch, later.branch):
        forge.push(branch, "pushed")
    assert promotion.promote(origin, forge, target, record=record_text(record)) is not None
    assert git(remote, "show", f"{target.branch}:{path}") == (root / path).read_text().strip()
    git(remote, "update-ref", "refs/heads/main", target.branch)
    there = (root / path).read_text()
    (root / path).write_text(there.replace("base:1", "base:2"))
    promotion.promote(origin, forge, later)
    assert git(remote, "show", f"{later.branch}:{path}") == there.strip()


# ---------------------------------------------------------------- the container file
@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_the_container_file_is_clean(variant: str, subject: Subject, tmp_path: Path) -> None:
    """BentoML's part and ours pass the linter; what is let pass is said at the line that it is about."""
    order = imaging.Order(
        subject.order.record, variant, subject.order.bento, subject.order.checkout, "docker.io/base/image:1"
    )
    tools = generating(subject.tools)
    file = tmp_path / "Containerfile"
    file.write_text(imaging.build_file(order, tools))
    done = subprocess.run([str(HADOLINT), str(file)], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)
    assert file.read_text().count("hadolint ignore") == 5


def generating(tools: imaging.Tools) -> imaging.Tools:
    """Return the tools with BentoML's own generator."""
    return imaging.Tools(
        tools.builder, containerfile.generate, tools.wheels, tools.python, tools.uv, tools.bill
    )


def test_bentoml_says_what_it_can_not_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where BentoML fails there is an error with its last words, not an empty file."""
    monkeypatch.setattr(containerfile, "_ASK", "raise SystemExit('no such option')")
    with pytest.raises(PlatformError, match="BentoML wrote no container file: no such option"):
        containerfile.generate("toy:1", {})


# ---------------------------------------------------------------- the engine
def inspected(**changed: object) -> Mapping[str, object]:
    """An image as podman tells of it."""
    return {
        "Id": "f" * 64,
        "Architecture": "amd64",
        "Os": "linux",
        "Created": "1980-01-01T00:00:00Z",
        "Config": {"User": "1034:1034", "Labels": {"a": "b", "io.buildah.version": "1"}, **changed},
        "Healthcheck": {"Test": ["CMD", "true"]},
        "RootFS": {"Layers": ["sha256:" + "1" * 64]},
        "History": [],
    }


def test_an_images_id_is_of_its_content_only() -> None:
    """The builder's host name and version change nothing; a label, a user or a layer does."""
    first = settled(inspected())
    assert settled(inspected(Hostname="abc", Labels={"a": "b", "io.buildah.version": "2"})) == first
    for other in (inspected(User="0:0"), inspected(Labels={"a": "c"})):
        assert set(settled(other)) != set(first)


def test_the_health_check_is_kept() -> None:
    """What the engine tells beside the configuration is part of it."""
    files = settled(inspected())
    (text,) = (files[name] for name in files if len(name) == 64)
    assert json.loads(text)["config"]["Healthcheck"] == {"Test": ["CMD", "true"]}


def said(adapter: str = "supervisor", gpus: str = "", **how: Any) -> Platform:
    """Return the platform of an environment that runs releases so, and says this of images."""
    return Platform(workloads=WorkloadsSpec(adapter=adapter, gpus=gpus), images=ImagesSpec(**how))


@pytest.mark.parametrize(
    ("staging", "production", "engine"),
    [
        (said(), said(), "podman"),
        (said(), said("docker"), "docker"),
        (said("docker"), said(engine="podman"), "docker"),
        (said("docker", engine="podman"), said("podman"), "podman"),
    ],
)
def test_images_are_built_where_they_will_run(staging: Platform, production: Platform, engine: str) -> None:
    """Who switches an environment to another engine need not name it a second time; a name given wins."""
    assert images.making({"staging": staging, "production": production}).engine == engine


@pytest.mark.parametrize(
    ("staging", "production"),
    [
        (said(base="no:1"), said("podman", base="b:1", gpu_base="g:1", build=("--x",))),
        (said(base="b:1", gpu_base="g:1", build=("--x",)), said(base="no:1")),
        (said("podman", base="b:1", build=("--x",)), said("podman", "all", gpu_base="g:1", build=("--x",))),
    ],
    ids=["who runs containers", "staging where none does", "each variant's own"],
)
def test_images_are_built_as_those_say_that_run_them(staging: Platform, production: Platform) -> None:
    """Base and options are of the environments that run the variant: elsewhere they would say nothing."""
    specs = {"staging": staging, "canary": said(), "production": production}
    assert images.making(specs, "cpu") == images.Making("podman", "b:1", ("--x",))
    assert images.making(specs, "gpu") == images.Making("podman", "g:1", ("--x",))


@pytest.mark.parametrize(
    ("variant", "key", "staging", "production"),
    [
        ("cpu", "engine", said("podman"), said("docker")),
        ("cpu", "base", said("podman", base="a:1"), said("podman")),
        ("gpu", "gpuBase", said("podman", "0", gpu_base="a:1"), said("podman", "all")),
        ("cpu", "build", said("podman"), said("podman", build=("--x",))),
    ],
)
def test_environments_that_contradict_each_other_are_told(
    variant: str, key: str, staging: Platform, production: Platform
) -> None:
    """One image runs in all of them: which one's word counts is not guessed."""
    specs = {"staging": staging, "canary": said(), "production": production}
    with pytest.raises(ConfigError, match=rf"images\.{key}: .* in staging, .* in production") as error:
        images.making(specs, variant)
    assert f"Write images.{key} once" in error.value.action


def test_what_is_named_for_one_build_need_not_be_agreed() -> None:
    """An engine and a base of the command line win over whatever environments say."""
    specs = {"staging": said("podman", base="a:1"), "production": said("docker", base="b:1")}
    assert images.making(specs, "cpu", engine="docker", base="c:1") == images.Making("docker", "c:1")


@pytest.mark.parametrize("base", ["", "--tls-verify=false", "a\nRUN id", "a b"])
def test_a_base_is_one_word_and_no_option(base: str) -> None:
    """It goes into a container file and onto the engine's command line."""
    shared = yaml.safe_dump({"images": {"base": base}})
    files = {"envs/platform.yaml": shared, "envs/staging/platform.yaml": "plane: staging"}
    with pytest.raises(ConfigError, match="images"):
        parse_platform(files, "staging")


def test_an_engine_that_is_not_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the engine gets the setting's name, and no traceback."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PlatformError, match="podman is not installed"):
        EngineBuilder().inspect("x")


def test_this_repositorys_own_pins_all_have_hashes() -> None:
    """Every package that serving needs is locked with hashes, for both variants."""
    from tidegate.adapters.bentoml import SERVING_PACKAGES, serving_pins
    from tidegate.core.containerfile import requirements

    lock, gpu = ((ROOT / name).read_text() for name in ("requirements.lock", "requirements-gpu.lock"))
    for runtime in ("", gpu):
        assert requirements(serving_pins(lock, SERVING_PACKAGES), lock, runtime)[1] == []
