"""Images as they are really built and run: by podman, on a base made here, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml

from tests.builders import tiny_model
from tests.containers import BUILDER, ROOT, base, checkout, git, toy, unbuildable
from tests.images import OPTIONS
from tests.planes import eventually
from tidegate.adapters.bentoml import BentoStore
from tidegate.bentos import Source
from tidegate.config import Home, parse_images
from tidegate.core.containerfile import entries, pinned
from tidegate.core.images import image_name
from tidegate.core.release import RegistryRef, ReleaseRecord
from tidegate.files import digest_folder
from tidegate.images import verify
from tidegate.machine.processes import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
PINS = ("msgspec", "packaging", "typing-extensions")
FORBIDDEN = {"mlflow", "dvc", "evidently", "locust", "pandas", "scikit-learn", "lightgbm", "pip", "uv"}
LISTED = """
import json, os
from importlib import metadata
found = {one.metadata["Name"]: one.version for one in metadata.distributions()}
left = (".whl", "pip.conf", "uv.toml", "direct_url.json", "uv_cache.json")
kept = [
    os.path.join(at, name)
    for at, _, names in os.walk("/")
    for name in names
    if not at.startswith(("/proc", "/sys")) and (name.endswith(left) or name in ("uv", "pip", "pip3"))
]
print(json.dumps([found, kept]))
"""


def podman(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman."""
    return subprocess.run(["podman", *words], capture_output=True, text=True, timeout=300, check=check)


def tidegate(root: Path, *words: str) -> Any:
    """Run the program in a checkout; returns what it printed as JSON."""
    environment = {**os.environ, "TIDEGATE_HOME": str(Home.find(root).root)}
    command = [sys.executable, "-m", "tidegate", *words, "--json"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@dataclass
class Made:
    """A checkout with a release whose image was built, and what the command said."""

    root: Path
    record: ReleaseRecord
    said: dict[str, Any]

    @property
    def name(self) -> str:
        return image_name(self.record, self.said["variant"])


@contextmanager
def clean() -> Iterator[None]:
    """Remove the images that a block made, but for the base: its name says what it was made by."""
    before = {*podman("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split(), base()}
    try:
        yield
    finally:
        mine = f"localhost/tidegate/toy-{os.getpid()}:"
        after = podman("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        made = {name for name in after if name.startswith((mine, "localhost/tidegate/packages:"))} - before
        for name in sorted(made, key=lambda name: "packages" in name):
            podman("image", "rm", name, check=False)  # another test's release may be on the same packages


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A toy release with three packages, built by the command."""
    if why := unbuildable():
        pytest.skip(why)
    root = tmp_path_factory.mktemp("made")
    with clean():
        record = toy(root, checkout(root, base=base()), PINS)
        yield Made(root, record, tidegate(root, "image", record.model))


@contextmanager
def running(name: str, *options: str) -> Iterator[tuple[str, str]]:
    """Run an image as a platform would, locked down, on a loopback port; its name and address."""
    container, port = f"t-{uuid.uuid4().hex[:12]}", free_ports(1)[0]
    locked = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")
    try:
        podman(
            *("run", "--detach", "--name", container, *locked, *OPTIONS, *options),
            *("--publish", f"127.0.0.1:{port}:3000", name),
        )
        yield container, f"http://127.0.0.1:{port}"
    finally:
        podman("rm", "--force", "--time", "2", container, check=False)


def ready(address: str, container: str) -> None:
    """Wait until a container's service is ready."""

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            state = podman("inspect", "--format", "{{.State.Status}}", container).stdout.strip()
            assert state == "running", podman("logs", container, check=False).stderr[-2000:]
            return False

    eventually(answers, 120)


def inside(name: str, code: str) -> Any:
    """Run Python in an image, without a network; returns what it printed, as JSON."""
    words = (
        "run",
        "--rm",
        "--network",
        "none",
        "--read-only",
        *OPTIONS,
        "--entrypoint",
        "/app/.venv/bin/python",
    )
    return json.loads(podman(*words, name, "-c", code).stdout)


def test_it_serves_locked_down(made: Made) -> None:
    """A read-only root, no rights, a user that is not root, a loopback port: it answers and is healthy."""
    with running(made.name) as (container, address):
        ready(address, container)
        assert httpx.post(f"{address}/predict", json={"x": 1}, timeout=30).json() == {"probability": 0.25}
        assert podman("healthcheck", "run", container, check=False).returncode == 0
        assert podman("exec", container, "id", "-u").stdout.strip() == "1034"
        for path in ("/x", "/app/x", "/home/bentoml/bento/x", "/home/bentoml/bento/src/tidegate/serve.py"):
            assert podman("exec", container, "sh", "-c", f"echo x >> {path}", check=False).returncode != 0
        assert podman("exec", container, "sh", "-c", "echo x > /tmp/x").returncode == 0


def test_a_service_that_is_not_ready_is_not_healthy(made: Made) -> None:
    """The health check asks the service itself: one that does not listen where it should is found out."""
    with running(made.name, "--entrypoint", json.dumps(["sleep", "60"])) as (container, _):
        assert podman("healthcheck", "run", container, check=False).returncode != 0


def test_what_is_recorded_is_what_was_built(made: Made) -> None:
    """The digest beside the record is the image's, and its labels are the release's."""
    path = made.said["recorded"]
    images = parse_images((made.root / path).read_text(), path).images
    found = BUILDER.inspect(made.name)
    assert found is not None
    assert found.id == images["cpu"].id == made.said["id"]
    verify(msgspec.structs.replace(made.record, images=images), "cpu", found.id, found.labels)
    assert found.labels["org.opencontainers.image.revision"] == made.record.commit


def test_the_release_is_identified_by_the_same_bento(made: Made) -> None:
    """The Bento in the image has the digest of the release's record: nothing is left out or changed."""
    code = """
import hashlib, json, os
root, total = "/home/bentoml/bento", hashlib.sha256()
names = sorted(os.path.relpath(os.path.join(at, n), root) for at, _, ns in os.walk(root) for n in ns)
for name in names:
    if name != "bento.yaml":
        digest = hashlib.sha256(open(os.path.join(root, name), "rb").read()).hexdigest()
        total.update(f"{name}\\0sha256:{digest}\\n".encode())
lines = open(root + "/bento.yaml").read().splitlines()
described = "\\n".join(line for line in lines if not line.startswith("creation_time:"))
whole = hashlib.sha256(f"sha256:{total.hexdigest()}\\n{described}".encode())
print(json.dumps("sha256:" + whole.hexdigest()))
"""
    assert inside(made.name, code) == made.record.bento.digest


def test_only_what_is_locked_is_installed(made: Made) -> None:
    """The packages are the Bento's pins and no other; installer, wheels and their traces are not in it."""
    locked = pinned("\n".join(entries((ROOT / "requirements.lock").read_text())[name] for name in PINS))
    found, kept = inside(made.name, LISTED)
    assert {name.replace("_", "-"): version for name, version in found.items()} == locked
    assert kept == []


def test_two_builds_are_the_same_image(made: Made) -> None:
    """Everything built anew, packages too: the same layers, the same configuration, the same id."""
    layers = ("image", "inspect", "--format", "{{json .RootFS.Layers}}", made.name)
    before = podman(*layers).stdout
    again = tidegate(made.root, "image", made.record.model, "--again")
    assert podman(*layers).stdout == before
    assert again["id"] == made.said["id"]


def test_the_base_holds_nothing_of_this_machine(made: Made) -> None:
    """No name, resolver, mirror or log of where it was made; Debian's own addresses instead."""
    name = base()
    for path in ("/etc/hostname", "/etc/machine-id", "/var/log/bootstrap.log", "/etc/hosts"):
        assert BUILDER.read(name, path) is None, path
    sources = BUILDER.read(name, "/etc/apt/sources.list") or ""
    assert {line.split()[1] for line in sources.splitlines()} == {
        "http://deb.debian.org/debian",
        "http://deb.debian.org/debian-security",
    }


def test_the_bill_lists_the_base_too(made: Made) -> None:
    """The bill of materials in the image is the one beside it, with the base's Debian packages."""
    text = (made.root / made.said["bill_of_materials"]).read_text()
    assert BUILDER.read(made.name, "/home/bentoml/sbom.cdx.json") == text
    names = {part["name"] for part in json.loads(text)["components"]}
    assert {"libc6", "python3", "debian", *PINS} <= names


def test_an_image_can_be_taken_elsewhere(made: Made, tmp_path: Path) -> None:
    """Pushed to a folder, it is all there: every layer and the configuration by its digest."""
    BUILDER.push(made.name, f"dir:{tmp_path / 'there'}")
    manifest = json.loads((tmp_path / "there" / "manifest.json").read_text())
    files = {path.name for path in (tmp_path / "there").iterdir()}
    assert {layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]} <= files
    assert manifest["config"]["digest"] == made.said["id"]


# ---------------------------------------------------------------- real services
@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """This repository's first model, small, as a release of the commit that this checkout is at."""
    if why := unbuildable():
        pytest.skip(why)
    root = tmp_path_factory.mktemp("flights")
    with clean():
        commit = checkout(root, base=base(), locks=("requirements.lock", "requirements-gpu.lock"))
        for folder in ("models", "services", "tidegate"):
            (root / folder).symlink_to(ROOT / folder)
        artifact = tiny_model(root / "artifact")
        source = Source("flight-delay", root, artifact, digest_folder(artifact), 7, commit)
        bento = BentoStore(Home.find(root).root / "bentoml").build(source)
        record = ReleaseRecord(
            f"toy-{os.getpid()}",
            commit,
            "sha256:p",
            RegistryRef("flight-delay", 7),
            source.digest,
            bento,
            {"data": "PASS"},
        )
        last = root / "build" / record.model / "release.yaml"
        last.parent.mkdir(parents=True)
        last.write_text(yaml.safe_dump(msgspec.to_builtins(record)))
        assert git(root, "status", "--porcelain", "envs") == ""
        yield Made(root, record, tidegate(root, "image", record.model))


def test_a_real_service_runs_from_its_image(flights: Made) -> None:
    """A model's own service answers from a read-only image as from a plane, by its release's name."""
    rows = json.loads((flights.root / "artifact" / "examples.json").read_text())
    with running(flights.name) as (container, address):
        ready(address, container)
        answer = httpx.post(f"{address}/predict", json=rows[0], timeout=30)
        assert (answer.status_code, answer.json()["release"]) == (200, flights.record.id)
        assert podman("healthcheck", "run", container, check=False).returncode == 0
        name, _, version = flights.record.bento.tag.partition(":")
        metrics = httpx.get(f"{address}/metrics", timeout=30).text
        assert f'service_name="{name}",service_version="{version}"' in metrics


def test_a_real_image_holds_what_serving_needs(flights: Made) -> None:
    """What trains, tracks, tests and installs is not in it; every package is a pin of the Bento."""
    found, kept = inside(flights.name, LISTED)
    assert not FORBIDDEN & {name.lower() for name in found}
    bento = Home.find(flights.root).root / "bentoml" / "bentos" / flights.record.bento.tag.replace(":", "/")
    pins = pinned((bento / "env" / "python" / "requirements.txt").read_text())
    assert {
        name.lower().replace("_", "-").replace(".", "-"): version for name, version in found.items()
    } == pins
    assert kept == []


def test_the_gpu_variant_runs_without_a_gpu(made: Made) -> None:
    """The runtime for GPUs takes the other's place, on any base; without a device its CPU provider works."""
    locks = ("requirements.lock", "requirements-gpu.lock")
    root = made.root / "gpu"
    record = toy(root, checkout(root, base=base(), locks=locks), ["onnxruntime", "numpy"], version="gpu")
    with clean():
        said = tidegate(root, "image", record.model, "--variant", "gpu")
        code = """
import json
from importlib import metadata
import onnxruntime
names = sorted(one.metadata["Name"] for one in metadata.distributions())
print(json.dumps([onnxruntime.get_available_providers(), names]))
"""
        providers, names = inside(image_name(record, "gpu"), code)
        assert {"CUDAExecutionProvider", "CPUExecutionProvider"} <= set(providers)
        assert "onnxruntime-gpu" in names
        assert "onnxruntime" not in names
        with running(said["name"]) as (container, address):
            ready(address, container)
