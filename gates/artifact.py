"""Is the release what its record says: its files, its model, its dependencies and their licences?"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tidegate import bentos, gating, wiring
from tidegate.adapters import onnx
from tidegate.adapters.bentoml import pins_of
from tidegate.adapters.cyclonedx import Package, bill
from tidegate.core import artifact, contents, gate, licences
from tidegate.core.exhibits import Table
from tidegate.core.release import ReleaseRecord
from tidegate.core.verdict import Finding
from tidegate.errors import TidegateError
from tidegate.files import digest_file, digest_folder, write_atomic
from tidegate.packaging import Layout, pipeline_digest

BILL = "sbom.cdx.json"
Count = Annotated[int, msgspec.Meta(ge=0)]


class ArtifactSettings(gating.Settings, frozen=True):
    """The `artifact` section: the policy on licences, and what the model's files may hold.

    `allowed` and `denied` are SPDX identifiers, `stated` says by hand what a package's metadata does not.
    """

    allowed: tuple[str, ...]
    denied: tuple[str, ...]
    unknown_licences: Count
    other_files: Count  # of the model's, that are neither ONNX nor text
    domains: tuple[str, ...]  # of operators that the runtime brings along
    stated: Mapping[str, str] = {}


# ---------------------------------------------------------------- digests
def _digest(folder: Path) -> str:
    """Return a folder's digest; nothing of an empty one, which is then nothing to compare."""
    try:
        return digest_folder(folder)
    except FileNotFoundError:
        return ""


def digests(subject: gating.Subject[ArtifactSettings], record: ReleaseRecord) -> Iterator[Finding]:
    """Yield whether the checkout's files are those of the record."""
    files = subject.built("model")
    yield artifact.same("model's files", _digest(files), record.artifact, f"in build/{record.model}/model")
    here = pipeline_digest(Layout(subject.root, subject.model))
    yield artifact.same("pipeline", here, record.pipeline, "what dvc.lock says")
    platform, where = wiring.platform(subject.root, "production"), wiring.home(subject.root)
    name, version = record.registry.name, record.registry.version
    with tempfile.TemporaryDirectory(prefix="tidegate-artifact-") as folder:
        try:
            fetched = wiring.registry(platform, where).fetch(name, version, Path(folder) / "model")
            found = _digest(fetched)
        except (TidegateError, OSError) as problem:
            yield gate.error("registered version", f"registered version {version}: {problem}")
        else:
            yield artifact.same("registered version", found, record.artifact, f"version {version} of {name}")


def bento_digests(path: Path, record: ReleaseRecord) -> Iterator[Finding]:
    """Yield whether a Bento is that of the record, and the model in it."""
    yield artifact.same("Bento", bentos.bento_digest(path), record.bento.digest, record.bento.tag)
    source = path / bentos.SOURCE
    try:
        inside = digest_folder(source / bentos.MODEL)
        said = msgspec.json.decode((source / "artifact.json").read_bytes(), type=dict[str, str | int])
    except (OSError, msgspec.DecodeError) as problem:
        yield gate.error("model in the Bento", f"model in the Bento: {problem}")
        return
    yield artifact.same("model in the Bento", inside, record.artifact, f"in {record.bento.tag}")
    here = f"{said.get('model')} version {said.get('version')}, {said.get('digest')}"
    wanted = f"{record.model} version {record.registry.version}, {record.artifact}"
    yield artifact.same("what the Bento says it is", here, wanted, "in artifact.json")


# ---------------------------------------------------------------- contents
def look_inside(
    folder: Path, shown: str, domains: tuple[str, ...]
) -> tuple[list[tuple[str, str, str]], dict[str, str]]:
    """Return (file, kind, why) of a folder's files, and why those named .onnx are no ONNX."""
    rows: list[tuple[str, str, str]] = []
    broken: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = f"{shown}/{path.relative_to(folder).as_posix()}"
        problem = "not looked at"
        with path.open("rb") as file:
            kind, why = contents.kind(file, onnx=False)
            if kind == "other" or path.suffix == ".onnx":
                problem = onnx.problem(path, domains)
            if not problem:
                kind, why = contents.kind(file, onnx=True)
        if path.suffix == ".onnx" and kind != "onnx":
            broken[name] = why if kind == "pickle" else problem
        rows.append((name, kind, why))
    return rows, broken


def forms(subject: gating.Subject[ArtifactSettings], bento: Path | None) -> tuple[list[Finding], Table]:
    """Return what the model's files and the Bento's hold, by their content."""
    limits = subject.settings
    files, broken = look_inside(subject.built("model"), "model", limits.domains)
    inside, wrong = look_inside(bento, "Bento", limits.domains) if bento else ([], {})
    both = files + inside
    pickles = {name: why for name, kind, why in both if kind == "pickle"}
    code = {name: why for name, kind, why in both if kind == "byte code"}
    other = [name for name, kind, _ in files if kind not in ("onnx", "text")]
    models = [name for name, kind, _ in files if kind == "onnx"]
    findings = [
        contents.allowed("pickles", pickles, len(both), "one, by content"),
        contents.allowed("files named .onnx", {**broken, **wrong}, len(both), "something else"),
        gate.at_least("ONNX models", len(models), 1),
        contents.allowed("byte code", code, len(both), "run without its source"),
        artifact.some(
            "the model's other files", other, len(files), "are neither ONNX nor text", limits.other_files
        ),
    ]
    rows = [(name, kind) for name, kind, _ in both if kind != "text" or name.startswith("model/")]
    return findings, Table(
        "Files by content (the Bento's text is left out)", ("file", "what it holds"), tuple(rows)
    )


# ---------------------------------------------------------------- dependencies
def packages_of(pins: artifact.Pins, stated: Mapping[str, str]) -> list[Package]:
    """Return the pinned packages of this system with their licences, by what is installed here."""
    return [
        Package(name, version, licence_of(name, version, stated)) for name, version in pins.versions.items()
    ]


def licence_of(name: str, version: str, stated: Mapping[str, str]) -> str | None:
    """Return a package's licence; None when its metadata does not say, or is of another version."""
    if name in stated:
        return stated[name]
    try:
        found = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if found["Version"] != version:
        return None
    fields: Any = found
    said = (fields.get("License-Expression"), fields.get("License"), fields.get_all("Classifier") or [])
    return licences.spdx(*said)


def dependencies(
    subject: gating.Subject[ArtifactSettings], bento: Path, lock: str
) -> tuple[list[Finding], artifact.Pins]:
    """Return whether the Bento's pins are the lock's, and the pins with BentoML's own added."""
    described = (bento / bentos.DESCRIPTION).read_text().splitlines()
    own = next(
        (line.partition(":")[2].strip() for line in described if line.startswith("bentoml_version:")), ""
    )
    text = (bento / bentos.SOURCE / bentos.REQUIREMENTS).read_text()
    pins, locked = artifact.read_pins(text), artifact.read_pins(lock)
    findings = artifact.locked(pins, locked)
    wanted = artifact.read_pins("\n".join(pins_of(subject.root, subject.model)))
    findings.append(gate.expected("serving's dependencies", [*pins.versions], [*wanted.versions], "packages"))
    findings.append(artifact.same("BentoML", own, locked.versions.get("bentoml", ""), "what built the Bento"))
    versions = dict(sorted({**pins.versions, "bentoml": own}.items()))
    return findings, artifact.Pins(versions, pins.conditions, pins.loose, pins.hashed)


def policy(settings: ArtifactSettings, packages: list[Package]) -> tuple[list[Finding], list[Table]]:
    """Return how the licences stand to the settings, and the licences by count."""
    stands = {p: licences.standing(p.licence, settings.allowed, settings.denied) for p in packages}
    denied = [f"{p.name} ({p.licence})" for p, stand in stands.items() if stand == "denied"]
    unknown = [f"{p.name} ({p.licence or 'not said'})" for p, stand in stands.items() if stand == "unknown"]
    misspelt = licences.known([*settings.allowed, *settings.denied, *settings.stated.values()])
    listed = len([*settings.allowed, *settings.denied])
    findings = [
        artifact.some("licences in the policy", misspelt, listed, "are no SPDX"),
        artifact.some("licences denied", denied, len(packages), "packages"),
        artifact.some("licences unknown", unknown, len(packages), "packages", settings.unknown_licences),
    ]
    counted = Counter((p.licence or "not said", stands[p]) for p in packages)
    rows = tuple((name, stand, float(count)) for (name, stand), count in sorted(counted.items()))
    listing = tuple((p.name, p.version, p.licence) for p in packages)
    return findings, [
        Table("Licences", ("licence", "by the policy", "packages"), rows),
        Table("Packages", ("package", "version", "licence"), listing),
    ]


# ---------------------------------------------------------------- all of it
def look(subject: gating.Subject[ArtifactSettings]) -> gating.Looked:
    """Compare the record with the disk, look into every file, and write the bill of materials."""
    out = subject.root / "build" / subject.model / BILL
    out.unlink(missing_ok=True)
    record = subject.record()
    bento = subject.bento(record)
    if not (bento / bentos.DESCRIPTION).is_file():
        text = f"Bento: {record.bento.tag} is not in this machine's store. Run `dvc repro`"
        held, files = forms(subject, None)
        findings = [gate.error("Bento", text), *held, *digests(subject, record)]
        return gating.Looked(findings, {"release": record.id}, tables=[files])
    held, files = forms(subject, bento)
    findings = [*held, *digests(subject, record), *bento_digests(bento, record)]
    lock = subject.input("requirements.lock")
    locked, pins = dependencies(subject, bento, lock.read_text())
    packages = packages_of(pins, subject.settings.stated)
    ruled, tables = policy(subject.settings, packages)
    parts = {
        path.relative_to(subject.built("model")).as_posix(): digest_file(path)
        for path in subject.built("model").rglob("*")
        if path.is_file()
    }
    about = {"tidegate:bento": f"{record.bento.tag} {record.bento.digest}", "tidegate:commit": record.commit}
    about["tidegate:requirements.lock"] = digest_file(lock)
    write_atomic(out, bill(record, packages, parts, about))
    measurements = {"release": record.id, "packages": len(packages), "bill_of_materials": digest_file(out)}
    return gating.Looked([*findings, *locked, *ruled], measurements, tables=[*tables, files])


GATE = gating.Gate(
    "artifact",
    ArtifactSettings,
    look,
    needs="release",
    inputs="The release record, build/<model>/model/, its Bento, the registered version, requirements.lock.",
    fix="Run `dvc repro` again; export to ONNX; pin by `make lock`; replace what is not licensed.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
