"""`tidegate package`: what goes into a release's record, and when there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tidegate import report
from tidegate.bentos import Source
from tidegate.config import parse_record
from tidegate.core.release import BentoRef
from tidegate.core.verdict import Finding, Verdict
from tidegate.errors import Refused
from tidegate.files import digest_folder
from tidegate.packaging import REQUIRED_GATES, Layout, package

BUILD = "build/flight-delay"


class Bentos:
    """Stands for the store: remembers what it was asked to build."""

    def __init__(self) -> None:
        self.built: list[Source] = []

    def build(self, source: Source) -> BentoRef:
        self.built.append(source)
        return BentoRef(f"{source.package}:{source.version}-{source.commit[:7]}", source.digest)


def _git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def _commit(root: Path, name: str, text: str) -> str:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    _git(root, "add", name)
    _git(root, "commit", "-qm", name)
    return _git(root, "rev-parse", "HEAD")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A checkout as it is after `dvc repro`: committed code, a registered model, gates that passed."""
    root = tmp_path / "checkout"
    root.mkdir()
    _git(root, "init", "-q", "-b", "main")
    _commit(root, ".gitignore", "build/\n")
    _commit(root, "dvc.lock", _lock())
    _commit(root, "services/flight_delay/service.py", "1\n")
    made = Layout(root, "flight-delay")
    made.artifact.mkdir(parents=True)
    (made.artifact / "model.onnx").write_text("model")
    registered = {"name": "flight-delay", "version": 7, "digest": digest_folder(made.artifact)}
    (made.build / "register.json").write_text(json.dumps({**registered, "rows": {"train": 9, "holdout": 4}}))
    (made.build / "gates").mkdir()
    for gate in REQUIRED_GATES:
        finding = Finding("rows", Verdict.PASS, 1.0, 1.0, "as told")
        source = report.Source(inputs={f"{BUILD}/model": digest_folder(made.artifact)})
        report.write(report.Report(gate, "flight-delay", (finding,), source=source), made.build / "gates")
    return made


def _lock(extra: str = "") -> str:
    stages = {
        "train@flight-delay": {"cmd": "t", "outs": [{"path": f"{BUILD}/model", "md5": "0"}]},
        "register@flight-delay": {"cmd": "r", "outs": [{"path": f"{BUILD}/register.json", "md5": "1"}]},
    }
    if extra:
        stages[extra] = {"cmd": "x", "outs": [{"path": f"{BUILD}/{extra}", "md5": "2"}]}
    return yaml.safe_dump({"schema": "2.0", "stages": stages})


def test_a_release_ties_everything_together(layout: Layout) -> None:
    """The record names commit, version, files, Bento and gates, and is written where Git and DVC look."""
    bentos, lines = Bentos(), []
    record = package(layout, bentos, lines.append)
    path = layout.record(record.id)
    assert parse_record(path.read_text(), path.as_posix()) == record
    assert (layout.build / "release.yaml").read_text() == path.read_text()
    assert record.commit == _git(layout.checkout, "rev-parse", "HEAD")
    assert (record.registry.version, record.artifact) == (7, digest_folder(layout.artifact))
    assert record.rows == {"train": 9, "holdout": 4}
    assert set(record.gates) == {*REQUIRED_GATES, "report"}
    assert bentos.built[0].artifact == layout.artifact
    assert any(record.id in line for line in lines)


def _promotion(layout: Layout) -> None:
    _commit(layout.checkout, "envs/staging/release.yaml", "models: {}\n")


def _documentation(layout: Layout) -> None:
    _commit(layout.checkout, "docs/page.md", "words\n")


def _other_model(layout: Layout) -> None:
    _commit(layout.checkout, "models/sentiment/train.py", "2\n")


def _end_of_the_run(layout: Layout) -> None:
    (layout.checkout / "dvc.lock").write_text(_lock("release.yaml"))


def _gate_looked_again(layout: Layout) -> None:
    path = layout.build / "gates" / "quality.json"
    path.write_text(path.read_text().replace('"measurements": {}', '"measurements": {"production": "other"}'))


@pytest.mark.parametrize(
    "change", [_gate_looked_again, _promotion, _documentation, _other_model, _end_of_the_run]
)
def test_what_does_not_go_into_a_release_makes_no_new_one(
    layout: Layout, change: Callable[[Layout], None]
) -> None:
    """Promotions, a gate's second look, documentation and another model leave the release as it is."""
    first = package(layout, Bentos())
    change(layout)
    assert package(layout, Bentos()) == first
    assert [path.stem for path in layout.record(first.id).parent.iterdir()] == [first.id]


def test_new_code_is_a_new_release(layout: Layout) -> None:
    """A committed change of the service gives another commit and another id."""
    first = package(layout, Bentos())
    commit = _commit(layout.checkout, "services/flight_delay/service.py", "2\n")
    second = package(layout, Bentos())
    assert second.commit == commit
    assert second.id != first.id


def _edited(layout: Layout) -> None:
    (layout.checkout / "services/flight_delay/service.py").write_text("2\n")


def _staged(layout: Layout) -> None:
    _edited(layout)
    _git(layout.checkout, "add", "services")


def _untracked(layout: Layout) -> None:
    (layout.checkout / "services/flight_delay/extra.py").write_text("2\n")


def _failed_gate(layout: Layout) -> None:
    path = layout.build / "gates" / "quality.json"
    path.write_text(path.read_text().replace("PASS", "FAIL"))


def _missing_gate(layout: Layout) -> None:
    (layout.build / "gates" / "drift.json").unlink()


def _other_files(layout: Layout) -> None:
    (layout.artifact / "model.onnx").write_text("another model")


def _not_registered(layout: Layout) -> None:
    (layout.build / "register.json").unlink()


def _not_built(layout: Layout) -> None:
    shutil.rmtree(layout.artifact)


def _half_registered(layout: Layout) -> None:
    (layout.build / "register.json").write_text('{"name": "flight-delay"')


def _no_lock(layout: Layout) -> None:
    _git(layout.checkout, "rm", "-q", "dvc.lock")
    _git(layout.checkout, "-c", "user.name=t", "-c", "user.email=t@e", "commit", "-qm", "no lock")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_edited, "not committed: services/flight_delay/service.py"),
        (_staged, "not committed: services/flight_delay/service.py"),
        (_untracked, "not committed: services/flight_delay/extra.py"),
        (_failed_gate, "gate quality of flight-delay ended in FAIL"),
        (_missing_gate, r"gate drift .*can't be used: it is not there\. .*run `tidegate gate run drift"),
        (_other_files, "not the registered ones.*is version 7.*dvc repro"),
        (_not_registered, r"^flight-delay is not .*no build/flight-delay/register.json\. Run `dvc repro`"),
        (_not_built, r"^flight-delay is not .*no build/flight-delay/model\. Run `dvc repro`"),
        (_half_registered, "register.json can't be read"),
        (_no_lock, "no dvc.lock"),
    ],
)
def test_no_release_without_all_of_it(layout: Layout, spoil: Callable[[Layout], None], words: str) -> None:
    """What is not committed, not registered or did not pass builds nothing and writes nothing."""
    spoil(layout)
    bentos = Bentos()
    with pytest.raises(Refused, match=words):
        package(layout, bentos)
    assert bentos.built == []
    assert not (layout.checkout / "envs/releases").exists()
    assert not (layout.build / "release.yaml").exists()
