"""From a registered, gated model to a release: the Bento and the record that ties it to where it came from.

A record must mean the same wherever it is made, so it leaves out what a rerun changes by itself:

- `commit` is the newest commit that changed what goes into *this* model's release. A promotion, a revert
  or a page of documentation on top makes no new release. In a shallow clone it is the oldest one there is.
- `pipeline` is the digest of those stages of dvc.lock that the model's files come from: data, parameters,
  training. While `dvc repro` runs, dvc.lock holds only the stages that are done, and it grows by the stage
  that calls this; the stages upstream are the same then, later, and on a checkout that pulled them.
- Gates look again when something else is in production, and write other numbers. Where a record of the
  same commit, version, files and Bento exists, it stays the release: its reports are those it was made by.

An uncommitted change of what goes into a release is refused: the record would name a commit that does
not hold it. dvc.lock and envs/ may differ, since a run of the pipeline rewrites them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import yaml

from tidegate import params, report
from tidegate.bentos import Source
from tidegate.config import parse_record
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord, is_release_id, record_content
from tidegate.core.verdict import Verdict
from tidegate.documents import read_yaml
from tidegate.errors import Refused
from tidegate.files import digest_file, digest_folder, write_atomic
from tidegate.plumbing import git

AGAIN = "Run `dvc repro`, which does it all in order."
REQUIRED_GATES = ("data", "drift", "quality", "slices")  # a pipeline may add gates; it can't do with fewer
ADDED = "added"  # the folder of the reports of gates that a user added


class Builder(Protocol):
    """Builds Bentos."""

    def build(self, source: Source) -> BentoRef:
        """Build the Bento of a source, or return the one that was built of the same."""


@dataclass(frozen=True)
class Layout:
    """Where a model's files lie in a checkout."""

    checkout: Path
    model: str

    @property
    def build(self) -> Path:
        """Return the folder of everything that the pipeline makes."""
        return self.checkout / "build" / self.model

    @property
    def artifact(self) -> Path:
        """Return the folder of the model's files."""
        return self.build / "model"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return git pathspecs of all that decides what this model's release is."""
        package = params.package(self.checkout, self.model)
        return (
            *(f":(glob){folder}/{package}/**" for folder in ("models", "services")),
            *(f":(glob){folder}/*.py" for folder in ("models", "services")),
            *("gates", "tidegate", "params.yaml", "dvc.yaml", "pyproject.toml"),
            *("requirements.lock", "requirements-gpu.lock"),
        )

    def record(self, release: str) -> Path:
        """Return where a release's record lies."""
        return self.checkout / "envs" / "releases" / self.model / f"{release}.yaml"


def package(
    layout: Layout, builder: Builder, say: Callable[[str], None] = lambda line: None
) -> ReleaseRecord:
    """Build the Bento of a registered model whose gates passed, and write its release record.

    Does nothing twice: the same inputs give the same record. Raises Refused when a gate did not pass or did
    not run, when the files are not the registered ones, or when the checkout holds uncommitted changes.
    """
    commit = clean_commit(layout)
    say(f"commit    {commit[:7]}, the newest that changed what goes into {layout.model}")
    registered = read_registered(layout)
    say(f"model     version {registered.version}, {registered.digest[:19]}… as registered")
    lock = _lock(layout)
    ran = upstream_stages(lock, f"build/{layout.model}/register.json")
    gates = gate_verdicts(layout, gate_reports(layout, ran))
    say(f"gates     {', '.join(f'{name} {said}' for name, said in gates.items() if name != 'report')}")
    source = Source(
        layout.model, layout.checkout, layout.artifact, registered.digest, registered.version, commit
    )
    bento = builder.build(source)
    say(f"bento     {bento.tag}, {bento.digest[:19]}…")
    record = ReleaseRecord(
        model=layout.model,
        commit=commit,
        pipeline=pipeline_digest(layout),
        registry=RegistryRef(registered.name, registered.version),
        artifact=registered.digest,
        bento=bento,
        gates=gates,
        rows=registered.rows,
    )
    known = same_release(layout, record)
    path = write_record(layout, known or record)
    say(f"release   {path.stem}, {path.relative_to(layout.checkout)}{', made before' if known else ''}")
    return known or record


def same_release(layout: Layout, record: ReleaseRecord) -> ReleaseRecord | None:
    """Return the record of the same commit, version, files and Bento that exists already, or None."""
    for path in sorted(layout.record("any").parent.glob("*.yaml")):
        if not is_release_id(path.stem):  # a rejection or images
            continue
        other = parse_record(path.read_text(), path.relative_to(layout.checkout).as_posix())
        same = msgspec.structs.replace(record, pipeline=other.pipeline, gates=other.gates)
        if same == other:
            return other
    return None


# ---------------------------------------------------------------- Git
def clean_commit(layout: Layout) -> str:
    """Return the commit that a release made now belongs to; raises Refused for uncommitted changes."""
    changed = git(layout.checkout, "diff", "--name-only", "HEAD", "--", *layout.inputs).splitlines()
    new = git(
        layout.checkout, "ls-files", "--others", "--exclude-standard", "--", *layout.inputs
    ).splitlines()
    dirty = sorted({*changed, *new})
    if dirty:
        more = f" and {len(dirty) - 3} more" if len(dirty) > 3 else ""
        raise Refused(
            f"not committed: {', '.join(dirty[:3])}{more}",
            "A release names the commit that holds it: commit, then try again "
            "(`dvc repro evaluate` is for trying things out).",
        )
    commit = git(layout.checkout, "log", "-1", "--format=%H", "HEAD", "--", *layout.inputs)
    return commit or git(layout.checkout, "rev-parse", "HEAD")


# ---------------------------------------------------------------- DVC
def _lock(layout: Layout) -> Mapping[str, Any]:
    path = layout.checkout / "dvc.lock"
    if not path.is_file():
        raise Refused("there is no dvc.lock", "Run `dvc repro`: a release names the data it was made of.")
    value, _ = read_yaml(path.read_text(), "dvc.lock")
    stages = value.get("stages") if isinstance(value, dict) else None
    return stages if isinstance(stages, dict) else {}


def pipeline_digest(layout: Layout) -> str:
    """Return the digest of the stages of dvc.lock that the model's files come from, without gates and later.

    The same while `dvc repro` runs and after it. Raises Refused when dvc.lock does not know the model.
    """
    return pipeline_digest_of({"stages": _lock(layout)}, layout.model)


def pipeline_digest_of(lock: Any, model: str) -> str:
    """Return the same digest by any dvc.lock. Raises Refused when it does not know the model."""
    stages = lock.get("stages") if isinstance(lock, Mapping) else None
    return _digest(upstream_stages(stages or {}, f"build/{model}/model"))


def upstream_stages(stages: Mapping[str, Any], product: str) -> dict[str, Any]:
    """Return the entry of dvc.lock that made `product`, and those that it comes from.

    Raises Refused when no stage made it.
    """
    makers = {out["path"]: name for name, stage in stages.items() for out in stage.get("outs", ())}
    if _maker(product, makers) is None:
        raise Refused(f"dvc.lock does not know what made {product}", "Run `dvc repro`, then try again.")
    found: dict[str, Any] = {}
    wanted = [product]
    while wanted:
        name = _maker(wanted.pop(), makers)
        if name is not None and name not in found:
            found[name] = stages[name]
            wanted += [dependency["path"] for dependency in stages[name].get("deps", ())]
    return found


def _maker(path: str, makers: Mapping[str, str]) -> str | None:
    """Return the stage whose output is this path or a folder above it."""
    parts = path.split("/")
    candidates = ("/".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((makers[candidate] for candidate in candidates if candidate in makers), None)


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


# ---------------------------------------------------------------- the model and its gates
class Registered(msgspec.Struct, frozen=True):
    """What the register stage wrote."""

    name: str
    version: int
    digest: str
    rows: Mapping[str, int] | None = None  # of each split


def read_registered(layout: Layout) -> Registered:
    """Return what was registered; raises Refused unless the model's files are exactly that."""
    path = layout.build / "register.json"
    for needed in (path, layout.artifact):
        if not needed.exists():
            there = needed.relative_to(layout.checkout)
            raise Refused(f"{layout.model} is not built and registered here: there is no {there}", AGAIN)
    try:
        registered = msgspec.json.decode(path.read_bytes(), type=Registered)
        found = digest_folder(layout.artifact)
    except msgspec.DecodeError as error:
        raise Refused(f"{path.name} can't be read: {error}", "Run `dvc repro --force register`.") from error
    if registered.digest != found:
        raise Refused(
            f"the model's files are not the registered ones: {found[:19]}… is here, "
            f"{registered.digest[:19]}… is version {registered.version}",
            "Run `dvc repro`, which registers what was trained.",
        )
    return registered


def gate_reports(layout: Layout, stages: Mapping[str, Any]) -> dict[str, Path]:
    """Return gate → its report, of the required gates and of all that the pipeline upstream ran."""
    folder = layout.build / "gates"
    ran: dict[str, Path] = {}
    for out in (layout.checkout / out["path"] for stage in stages.values() for out in stage.get("outs", ())):
        if out == folder / ADDED:
            ran |= {path.stem: path for path in out.glob("*.json")} or {ADDED: out / f"{ADDED}.json"}
        elif out.parent == folder and out.suffix == ".json":
            ran[out.stem] = out
    required = {name: folder / f"{name}.json" for name in REQUIRED_GATES}
    return dict(sorted({**ran, **required}.items()))


def gate_verdicts(layout: Layout, reports: Mapping[str, Path]) -> dict[str, str]:
    """Return gate → verdict and `report` → the digest of all reports; raises Refused unless all may go on.

    A required gate must say PASS, another one may say that it does not apply. A report that is missing,
    unreadable, stale, or of another gate or model counts as no verdict at all.
    """
    verdicts: dict[str, str] = {}
    total = hashlib.sha256()
    for name, path in reports.items():
        found = report.current(report.read_report(path), layout.checkout, model=layout.model)
        needed = name in REQUIRED_GATES
        page = path.with_suffix(".md").relative_to(layout.checkout)
        if found.verdict.holds_back or (needed and found.verdict is not Verdict.PASS):
            raise Refused(
                f"gate {name} of {layout.model} ended in {found.verdict.words}: {found.reason}",
                f"Read {page}, then run {_again(layout, name)}.",
            )
        if needed and not (found.source.inputs and found.model):
            raise Refused(
                f"gate {name} of {layout.model} does not say what it looked at, so it may be of other files",
                f"Run {_again(layout, name)}.",
            )
        if name != ADDED or found.verdict is Verdict.PASS:  # else it says that there is no such gate
            verdicts[name] = str(found.verdict)
            total.update(f"{name}\0{digest_file(path)}\n".encode())
    return {**verdicts, "report": f"sha256:{total.hexdigest()}"}


def _again(layout: Layout, gate: str) -> str:
    return f"`tidegate gate run {gate} {layout.model}`"


# ---------------------------------------------------------------- the record
def record_text(record: ReleaseRecord) -> str:
    """Return a record as the YAML that is committed."""
    head = f"# Release {record.id} of {record.model}: immutable. Written by `tidegate package`.\n"
    return head + yaml.safe_dump(record_content(record), sort_keys=False, width=200)


def write_record(layout: Layout, record: ReleaseRecord) -> Path:
    """Write a record under envs/releases/ and to build/<model>/release.yaml; returns the first."""
    path = layout.record(record.id)
    text = record_text(record)
    parse_record(text, path.as_posix())  # what is written must be what will be read
    if not path.is_file() or path.read_text() != text:
        write_atomic(path, text)
    write_atomic(layout.build / "release.yaml", text)
    return path
