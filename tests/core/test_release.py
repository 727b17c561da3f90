"""A release's identity, and the rules by which a record is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.config import parse_record
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord, is_new, is_release_id, release_id
from tidegate.errors import ConfigError, Refused
from tidegate.packaging import (
    REQUIRED_GATES,
    Layout,
    gate_names,
    gate_verdicts,
    record_text,
    upstream_stages,
    write_record,
)

RECORD = ReleaseRecord(
    model="flight-delay",
    commit="9be14c2" + "0" * 33,
    pipeline="sha256:" + "1" * 64,
    registry=RegistryRef("flight-delay", 7),
    artifact="sha256:" + "2" * 64,
    bento=BentoRef("flight_delay:7-9be14c2", "sha256:" + "3" * 64),
    gates={"data": "PASS", "quality": "PASS", "drift": "PASS", "report": "sha256:" + "4" * 64},
)


@given(st.permutations(list(msgspec.to_builtins(RECORD).items())))
def test_id_does_not_depend_on_the_order_of_fields(items: list[tuple[str, Any]]) -> None:
    """The order in which a record's fields are written does not change its id."""
    assert release_id(dict(items)) == RECORD.id


@pytest.mark.parametrize(
    "change",
    [
        {"commit": "a" * 40},
        {"pipeline": "sha256:" + "9" * 64},
        {"registry": RegistryRef("flight-delay", 8)},
        {"artifact": "sha256:" + "9" * 64},
        {"bento": BentoRef("flight_delay:7-9be14c2", "sha256:" + "9" * 64)},
        {"gates": {"data": "PASS"}},
        {"image": "sha256:" + "9" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_change_of_content_is_another_release(change: dict[str, Any]) -> None:
    """A record that differs in any field has another id."""
    assert msgspec.structs.replace(RECORD, **change).id != RECORD.id


def test_id_has_the_form_that_release_files_demand() -> None:
    """An id is 12 hex digits, and nothing else is one."""
    assert is_release_id(RECORD.id)
    assert not any(is_release_id(text) for text in (RECORD.id[:11], RECORD.id.upper() + "G", "", "g" * 12))


def test_a_written_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    """What `package` writes is what the agent parses, under the name that its content demands."""
    path = write_record(Layout(tmp_path, "flight-delay"), RECORD)
    assert path == tmp_path / "envs/releases/flight-delay" / f"{RECORD.id}.yaml"
    assert parse_record(path.read_text(), path.as_posix()) == RECORD
    assert (tmp_path / "build/flight-delay/release.yaml").read_text() == path.read_text()


def test_a_record_that_was_edited_is_refused() -> None:
    """A record whose content no longer has the id in its name is an error that says so."""
    text = record_text(RECORD).replace("version: 7", "version: 8")
    with pytest.raises(ConfigError, match="not the one in its name"):
        parse_record(text, f"envs/releases/flight-delay/{RECORD.id}.yaml")


@pytest.mark.parametrize(
    ("desired", "applied", "rejected", "new"),
    [
        (None, None, (), False),
        ("b", None, (), True),
        ("b", "a", (), True),
        ("a", "a", (), False),
        ("b", "a", ("b",), False),
        ("b", "a", ("c",), True),
    ],
)
def test_git_asks_for_something_new(
    desired: str | None, applied: str | None, rejected: tuple[str, ...], new: bool
) -> None:
    """Only a release that is wanted, not applied and not rejected is new."""
    assert is_new(desired, applied, rejected) is new


# ---------------------------------------------------------------- which stages a release comes from
def _stage(deps: list[str], outs: list[str]) -> dict[str, Any]:
    return {
        "cmd": "python …",
        "deps": [{"path": path, "md5": path} for path in deps],
        "outs": [{"path": path, "md5": path} for path in outs],
    }


BUILD = "build/flight-delay"
STAGES = {
    "prepare@flight-delay": _stage(["models/flight_delay/prepare.py"], ["data/flight-delay/train.parquet"]),
    "train@flight-delay": _stage(["data/flight-delay/train.parquet"], [f"{BUILD}/model"]),
    "gate-data@flight-delay": _stage(["data/flight-delay/train.parquet"], [f"{BUILD}/gates/data.json"]),
    "gate-bias@flight-delay": _stage([f"{BUILD}/model/model.onnx"], [f"{BUILD}/gates/bias.json"]),
    "register@flight-delay": _stage(
        [f"{BUILD}/model", f"{BUILD}/gates/bias.json", f"{BUILD}/gates/data.json", "build/stores.json"],
        [f"{BUILD}/register.json"],
    ),
    "stores": _stage([], ["build/stores.json"]),
    "prepare@sentiment": _stage([], ["data/sentiment/train.parquet"]),
    "package@flight-delay": _stage([f"{BUILD}/register.json"], [f"{BUILD}/release.yaml"]),
}


def test_pipeline_is_what_the_model_comes_from() -> None:
    """Data and training belong to a release's pipeline; this machine's stores and other models do not."""
    assert set(upstream_stages(STAGES, f"{BUILD}/model")) == {"prepare@flight-delay", "train@flight-delay"}


def test_pipeline_is_the_same_during_and_after_a_run() -> None:
    """The entries that dvc.lock gains while the run goes on change nothing."""
    during = {name: stage for name, stage in STAGES.items() if name.startswith(("prepare", "train"))}
    assert upstream_stages(during, f"{BUILD}/model") == upstream_stages(STAGES, f"{BUILD}/model")


def test_a_file_in_a_folder_is_made_by_the_folders_stage() -> None:
    """A stage that depends on one file of a folder comes from the stage that made the folder."""
    assert "train@flight-delay" in upstream_stages(STAGES, f"{BUILD}/gates/bias.json")


def test_a_model_that_dvc_did_not_make_is_refused() -> None:
    """Without a stage that made register.json there is no release."""
    with pytest.raises(Refused, match=r"does not know what made .*register\.json.*dvc repro"):
        upstream_stages({"prepare@flight-delay": STAGES["prepare@flight-delay"]}, f"{BUILD}/register.json")


# ---------------------------------------------------------------- gates
def _reports(root: Path, **verdicts: str) -> Layout:
    layout = Layout(root, "flight-delay")
    (layout.build / "gates").mkdir(parents=True)
    for gate, verdict in verdicts.items():
        report = {"schema": 1, "gate": gate, "model": "flight-delay", "verdict": verdict}
        (layout.build / "gates" / f"{gate}.json").write_text(json.dumps(report))
    return layout


def test_a_gate_that_the_pipeline_added_must_pass_too(tmp_path: Path) -> None:
    """Every gate that ran upstream is asked, beside the required ones."""
    ran = upstream_stages(STAGES, f"{BUILD}/register.json")
    assert gate_names(Layout(tmp_path, "flight-delay"), ran) == tuple(sorted({*REQUIRED_GATES, "bias"}))


def test_passed_gates_are_recorded_with_their_reports(tmp_path: Path) -> None:
    """The verdicts are recorded, and the digest follows the reports' content."""
    layout = _reports(tmp_path, data="PASS", drift="PASS", quality="PASS")
    first = gate_verdicts(layout, REQUIRED_GATES)
    assert {name: first[name] for name in REQUIRED_GATES} == dict.fromkeys(REQUIRED_GATES, "PASS")
    report = layout.build / "gates" / "drift.json"
    report.write_text(report.read_text().replace('"schema": 1', '"schema": 1, "seen": 2'))
    assert gate_verdicts(layout, REQUIRED_GATES)["report"] != first["report"]


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE", "ERROR"])
def test_only_pass_opens_the_gate(tmp_path: Path, verdict: str) -> None:
    """A gate that failed, could not tell or could not look refuses the release by its name."""
    layout = _reports(tmp_path, data="PASS", drift=verdict, quality="PASS")
    with pytest.raises(Refused, match=rf"gate drift of flight-delay ended in {verdict}.*drift\.md"):
        gate_verdicts(layout, REQUIRED_GATES)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"gate": "drift", "model": "flight-delay"}', "{'"])
def test_a_report_that_says_nothing_is_no_pass(tmp_path: Path, text: str | None) -> None:
    """A missing, empty or unreadable report refuses the release."""
    layout = _reports(tmp_path, data="PASS", quality="PASS")
    if text is not None:
        (layout.build / "gates" / "drift.json").write_text(text)
    with pytest.raises(Refused, match="gate drift has no readable report"):
        gate_verdicts(layout, REQUIRED_GATES)


def test_another_models_report_is_no_pass(tmp_path: Path) -> None:
    """A report that was copied from another model's run does not count."""
    layout = _reports(tmp_path, data="PASS", drift="PASS", quality="PASS")
    path = layout.build / "gates" / "drift.json"
    path.write_text(path.read_text().replace("flight-delay", "sentiment"))
    with pytest.raises(Refused, match="gate drift of sentiment"):
        gate_verdicts(layout, REQUIRED_GATES)
