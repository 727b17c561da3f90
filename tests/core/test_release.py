"""A release's identity, and the rules by which a record is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate import report
from tidegate.config import parse_record
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord, is_new, is_release_id, release_id
from tidegate.core.verdict import Finding, Verdict
from tidegate.errors import ConfigError, Refused
from tidegate.files import digest
from tidegate.packaging import (
    REQUIRED_GATES,
    Layout,
    gate_reports,
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
        {"rows": {"train": 7}},
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
    """A checkout in which gates looked at a file and said what they are told to say."""
    layout = Layout(root, "flight-delay")
    (root / "rows").write_text("1\n")
    for gate, verdict in verdicts.items():
        finding = Finding("rows", Verdict(verdict), None, None, "as told")
        source = report.Source(inputs={"rows": digest(root / "rows")})
        made = report.Report(gate, "flight-delay", (finding,), source=source)
        folder = layout.build / "gates"
        report.write(made, folder if gate in REQUIRED_GATES else folder / "added")
    return layout


def _all(layout: Layout) -> dict[str, str]:
    """What is recorded of a pipeline that ran the required gates and those that a user added."""
    added = {"outs": [{"path": f"{BUILD}/gates/added", "md5": "4.dir"}]}
    return gate_verdicts(layout, gate_reports(layout, {"gate-added@flight-delay": added}))


PASSED = dict.fromkeys(REQUIRED_GATES, "PASS")


def test_a_gate_that_the_pipeline_added_must_pass_too(tmp_path: Path) -> None:
    """Every gate that ran upstream is asked, beside the required ones, be it a stage's own or in `added`."""
    ran = upstream_stages(STAGES, f"{BUILD}/register.json")
    assert set(gate_reports(Layout(tmp_path, "flight-delay"), ran)) == {*REQUIRED_GATES, "bias"}
    assert _all(_reports(tmp_path, **PASSED, weather="PASS"))["weather"] == "PASS"
    with pytest.raises(Refused, match=r"gate weather of flight-delay ended in FAIL.*added/weather\.md"):
        _all(_reports(tmp_path, **PASSED, weather="FAIL"))


def test_a_gate_that_does_not_apply_is_recorded_as_such(tmp_path: Path) -> None:
    """A user's own gate may have nothing to look at, and has then not passed; a required one has."""
    assert _all(_reports(tmp_path, **PASSED, weather="NOT_APPLICABLE"))["weather"] == "NOT_APPLICABLE"
    with pytest.raises(Refused, match=r"gate drift of flight-delay ended in not applicable: as told"):
        _all(_reports(tmp_path, **(PASSED | {"drift": "NOT_APPLICABLE"})))


def test_where_no_gate_was_added_none_is_recorded(tmp_path: Path) -> None:
    """The stage of added gates leaves a report that there are none; one that left nothing is no such word."""
    layout = _reports(tmp_path, **PASSED, added="NOT_APPLICABLE")
    assert set(_all(layout)) == {*REQUIRED_GATES, "report"}
    (layout.build / "gates" / "added" / "added.json").unlink()
    with pytest.raises(Refused, match=r"gate added .*is not there"):
        _all(layout)


def test_passed_gates_are_recorded_with_their_reports(tmp_path: Path) -> None:
    """The verdicts are recorded, and the digest follows the reports' content."""
    layout = _reports(tmp_path, **PASSED, added="NOT_APPLICABLE")
    first = _all(layout)
    assert {name: first[name] for name in REQUIRED_GATES} == PASSED
    path = layout.build / "gates" / "drift.json"
    path.write_text(path.read_text().replace("as told", "as told again"))
    assert _all(layout)["report"] != first["report"]


def test_a_stale_report_is_no_pass(tmp_path: Path) -> None:
    """A report of files that are not those here now refuses the release, and so does one that names none."""
    layout = _reports(tmp_path, **PASSED, added="NOT_APPLICABLE")
    (tmp_path / "rows").write_text("2\n")
    with pytest.raises(Refused, match=r"gate \w+ .*this report is stale: rows is"):
        _all(layout)
    (tmp_path / "rows").write_text("1\n")
    for gate in REQUIRED_GATES:
        path = layout.build / "gates" / f"{gate}.json"
        content = json.loads(path.read_text())
        content["source"]["inputs"] = {}
        path.write_text(json.dumps(content))
    with pytest.raises(Refused, match=r"gate \w+ .*does not say what it looked at"):
        _all(layout)


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE", "ERROR"])
@pytest.mark.parametrize("gate", ["drift", "weather"])
def test_only_pass_opens_the_gate(tmp_path: Path, gate: str, verdict: str) -> None:
    """A gate that failed, could not tell or could not look refuses the release by its name."""
    layout = _reports(tmp_path, **({"weather": "PASS"} | PASSED | {gate: verdict}))
    with pytest.raises(
        Refused, match=rf"gate {gate} of flight-delay ended in {verdict}: as told.*{gate}\.md"
    ):
        _all(layout)


@pytest.mark.parametrize(
    "text", [None, "", "{}", "[]", '{"gate": "drift", "model": "flight-delay", "verdict": "PASS"}', "{'"]
)
def test_a_report_that_says_nothing_is_no_pass(tmp_path: Path, text: str | None) -> None:
    """A missing, empty or unreadable report refuses the release, and so does one of another schema."""
    layout = _reports(tmp_path, **PASSED, added="NOT_APPLICABLE")
    path = layout.build / "gates" / "drift.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(Refused, match=r"gate drift .* ended in ERROR: the report drift\.json can't be used"):
        _all(layout)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [('"flight-delay"', '"sentiment"', "about sentiment"), ('"drift"', '"data"', "report of `data`")],
)
def test_another_models_or_gates_report_is_no_pass(tmp_path: Path, old: str, new: str, words: str) -> None:
    """A report that was copied from another model's run, or from another gate, does not count."""
    layout = _reports(tmp_path, **PASSED, added="NOT_APPLICABLE")
    path = layout.build / "gates" / "drift.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(Refused, match=f"gate drift .*{words}"):
        _all(layout)
