"""The artifact gate on a release made here: a real ONNX model in a Bento laid out as a build lays it out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.builders import tiny_model
from tidegate import report, wiring
from tidegate.adapters.bentoml import SERVING_PACKAGES, serving_pins
from tidegate.adapters.cyclonedx import invalid
from tidegate.bentos import DESCRIPTION, MODEL, REQUIREMENTS, SOURCE, bento_digest, bento_path
from tidegate.config import Home
from tidegate.core.artifact import read_pins
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord
from tidegate.core.verdict import Verdict
from tidegate.files import digest_file, digest_folder
from tidegate.packaging import Layout, pipeline_digest, record_text
from tidegate.selftest import artifact as faults
from tidegate.selftest.room import Fault, Room
from tidegate.testing import FakeRegistry

ROOT = Path(__file__).parents[2]
NAME, TAG = "flight-delay", "flight_delay:1-abcdef0"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which a release was packaged."""
    root = tmp_path_factory.mktemp("artifact") / "checkout"
    root.mkdir()
    for name in (
        "gates",
        "models",
        "services",
        "tidegate",
        "requirements.lock",
        "dvc.yaml",
        "pyproject.toml",
    ):
        (root / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "envs", root / "envs")
    shutil.copy(ROOT / "params.yaml", root)
    model = tiny_model(root / "build" / NAME / "model")
    stages = {"train@flight-delay": {"cmd": "t", "outs": [{"path": f"build/{NAME}/model", "md5": "0"}]}}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    bento = bento_path(root / ".tidegate" / "bentoml", TAG)
    _bento(bento, model)
    record = ReleaseRecord(
        model=NAME,
        commit="c" * 40,
        pipeline=pipeline_digest(Layout(root, NAME)),
        registry=RegistryRef(NAME, 1),
        artifact=digest_folder(model),
        bento=BentoRef(TAG, bento_digest(bento)),
        gates={"data": "PASS", "report": "sha256:r"},
    )
    (root / "build" / NAME / "release.yaml").write_text(record_text(record))
    return root


def _bento(folder: Path, model: Path) -> None:
    inside = folder / SOURCE
    shutil.copytree(ROOT / "services" / "flight_delay", inside / "services" / "flight_delay")
    shutil.copy(ROOT / "services" / "__init__.py", inside / "services")
    for path in list(inside.rglob("__pycache__")):
        shutil.rmtree(path)
    shutil.copytree(model, inside / MODEL)
    manifest = {"model": NAME, "version": 1, "digest": digest_folder(model)}
    (inside / "artifact.json").write_text(json.dumps(manifest))
    lock = (ROOT / "requirements.lock").read_text()
    (inside / REQUIREMENTS).write_text("\n".join(serving_pins(lock, SERVING_PACKAGES)) + "\n")
    own = read_pins(lock).versions["bentoml"]
    described = f"name: flight_delay\nversion: 1-abcdef0\nbentoml_version: {own}\n"
    (folder / DESCRIPTION).write_text(described)


@pytest.fixture
def room(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    """A throwaway copy with a sound release; the registry is in memory and holds it."""
    registry = FakeRegistry()
    model = source / "build" / NAME / "model"
    registry.register(NAME, model, {"digest": digest_folder(model)})
    monkeypatch.setattr(wiring, "registry", lambda spec, where: registry)
    made = Room.make(source, tmp_path / "room", NAME, home=Home(source / ".tidegate"))
    faults.prepare(made)
    yield made
    made.close()


def look(room: Room) -> tuple[int, report.Report]:
    code = room.run("artifact")
    return code, report.read_report(room.root / "build" / NAME / "gates" / "artifact.json")


def test_a_sound_release_passes_and_has_a_bill_of_materials(room: Room) -> None:
    """The report names the release, and the bill is valid CycloneDX with every pin and the model."""
    code, found = look(room)
    assert (code, found.verdict) == (0, Verdict.PASS), [f.reason for f in found.findings]
    assert found.source.release == room.release
    path = room.root / "build" / NAME / "sbom.cdx.json"
    text = path.read_text()
    assert not invalid(text)
    assert found.measurements["bill_of_materials"] == digest_file(path)
    document = json.loads(text)
    pins = (bento_path(room.store, "flight_delay:sound") / SOURCE / REQUIREMENTS).read_text().split()
    listed = {
        f"{part['name']}=={part['version']}" for part in document["components"] if part["type"] == "library"
    }
    assert listed >= {pin for pin in pins if "==" in pin}
    (model,) = (part for part in document["components"] if part["type"] == "machine-learning-model")
    assert model["properties"][0]["value"] == digest_folder(room.root / "build" / NAME / "model")
    packaged = {path.name for path in (room.root / "build" / NAME / "model").iterdir()}
    assert {file["name"] for file in model["components"]} == packaged >= {"model.onnx", "holdout.json"}
    assert document["metadata"]["component"]["version"] == room.release


def test_the_same_release_has_the_same_bill(room: Room) -> None:
    """Neither a time nor chance is in it, nor in the report; another release has another serial number."""
    places = [room.root / "build" / NAME / name for name in ("sbom.cdx.json", "gates/artifact.json")]
    look(room)
    first = [path.read_bytes() for path in places]
    look(room)
    assert [path.read_bytes() for path in places] == first
    room.candidate(room.bento("other"))
    look(room)
    other = json.loads(places[0].read_text())
    assert other["serialNumber"] != json.loads(first[0])["serialNumber"]


BLAMED = {
    "one flipped bit in the model": "model's files",
    "model cut off": "files named .onnx",
    "a pickle renamed to .onnx": "pickles",
    "a pickle of protocol 0 that calls": "pickles",
    "PyTorch's archive renamed to .onnx": "pickles",
    "operator of an unknown library": "files named .onnx",
    "wrong model in the Bento": "model in the Bento",
    "a pickle beside the service": "pickles",
    "Bento changed after its release": "Bento",
    "byte code in the Bento": "byte code",
    "Bento missing": "Bento",
    "unlocked dependency": "dependencies pinned",
    "dependency of another version": "dependencies as locked",
    "dependency left out": "serving's dependencies",
    "empty requirements": "serving's dependencies",
    "denied licence": "licences denied",
    "licence on no list": "licences unknown",
    "licence misspelt in the policy": "licences in the policy",
    "unknown version in the registry": "registered version",
    "another pipeline's record": "pipeline",
}


@pytest.mark.parametrize("fault", faults.FAULTS, ids=[fault.name for fault in faults.FAULTS])
def test_every_fault_is_seen_for_its_own_reason(room: Room, fault: Fault) -> None:
    """What was planted is what the report blames, and it never ends in PASS, by report and by exit code."""
    fault.make(room)
    code, found = look(room)
    blamed = {f.name: f.verdict for f in found.findings if f.verdict is not Verdict.PASS}
    assert found.verdict is fault.expected, blamed
    assert code == found.exit_code != 0
    assert BLAMED.get(fault.name, "artifact") in blamed


def test_nothing_is_loaded_on_the_way(room: Room, tmp_path: Path) -> None:
    """A pickle that would leave a mark when loaded leaves none."""
    mark = tmp_path / "loaded"
    payload = f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode()
    (room.edit(f"build/{NAME}/model") / "model.onnx").write_bytes(payload)
    assert look(room)[1].verdict is Verdict.FAIL
    assert not mark.exists()


def test_a_failed_look_leaves_no_earlier_bill(room: Room) -> None:
    """A bill of materials never outlives the release that it was of."""
    look(room)
    room.edit(f"build/{NAME}/release.yaml").unlink()
    room.release = ""
    assert look(room)[1].verdict is Verdict.ERROR
    assert not (room.root / "build" / NAME / "sbom.cdx.json").exists()


def test_a_package_of_another_version_has_no_known_licence() -> None:
    """What is installed says nothing of what a Bento pins at another version; a statement by hand does."""
    from gates import artifact

    assert artifact.licence_of("msgspec", "0.0.1", {}) is None
    assert artifact.licence_of("no-such-package", "1.0", {}) is None
    assert artifact.licence_of("no-such-package", "1.0", {"no-such-package": "MIT"}) == "MIT"
