"""What all gate scripts share: settings, overrides, errors as reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tidegate import gating, params, report
from tidegate.core import gate
from tidegate.errors import ConfigError


class Toy(gating.Settings, frozen=True):
    """Two settings, one of them nested."""

    limit: float = 0.0
    inner: dict[str, int] = {}  # noqa: RUF012 - msgspec copies it


PARAMS = """\
models:
  toy:
    gates:
      probe:
        inner: {b: 5}
  bare: {}
gates:
  probe:
    limit: 3
    inner: {a: 1, b: 2}
"""


def probe(look: Any) -> gating.Gate[Toy]:
    """A gate of files that looks as it is told."""
    return gating.Gate("probe", Toy, look, needs="files", inputs="Nothing.", fix="Nothing to fix.")


def read(text: str = PARAMS, model: str = "toy") -> Toy:
    """Read the settings of the gate `probe`."""
    return params.read(text).settings("probe", model, Toy)


def test_a_models_settings_lie_over_the_shared_ones() -> None:
    """Key by key, so that an override says only what differs."""
    assert read() == Toy(limit=3, inner={"a": 1, "b": 5})
    assert read(model="bare") == Toy(limit=3, inner={"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("text", "model", "says"),
    [
        (PARAMS.replace("limit: 3", "limits: 3"), "toy", r"params.yaml:9: .*Did you mean `limit`"),
        (PARAMS.replace("inner: {b: 5}", "inners: {b: 5}"), "toy", r"params.yaml:5: .*Did you mean `inner`"),
        (PARAMS.replace("limit: 3", "limit: high"), "toy", r"params.yaml:9: "),
        (PARAMS, "tyo", "Did you mean `toy`"),
        (PARAMS.replace("probe", "probes"), "toy", "Did you mean `probes`"),
        (PARAMS.replace("limit: 3", "limit: 3\n    limit: 4"), "toy", "given twice"),
        ("", "toy", "no model is named"),
        ("- a", "toy", "params.yaml:1: the file must be a mapping"),
    ],
)
def test_a_mistake_in_params_is_refused_where_it_is(text: str, model: str, says: str) -> None:
    """Unknown keys, wrong types, unknown models and gates name the line or the name that was meant."""
    with pytest.raises(ConfigError) as caught:
        read(text, model)

    assert re.search(says, str(caught.value)), str(caught.value)


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: object) -> tuple[int, report.Report]:
    """Run a gate whose looking is given."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    code = probe(look).main(["toy", "--out", str(tmp_path / "out")])
    return code, report.read_report(tmp_path / "out" / "probe.json")


@pytest.mark.parametrize("problem", [ValueError("odd"), KeyError("gone"), MemoryError(), OSError("disk")])
def test_whatever_is_raised_while_looking_is_an_error_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    """No exception leaves a gate without a report, or with exit code 1, which means FAIL."""

    def look(subject: gating.Subject[Toy]) -> gating.Looked:
        raise problem

    code, found = run(tmp_path, monkeypatch, look)
    assert (code, found.exit_code) == (3, 3)
    assert type(problem).__name__ in found.findings[0].reason


def test_a_gate_that_finds_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No finding is no PASS; reading the report back says the same."""
    code, found = run(tmp_path, monkeypatch, lambda subject: gating.Looked([]))
    assert (code, found.exit_code) == (3, 3)


def test_an_interrupted_gate_leaves_no_old_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PASS of the run before is gone from the moment that the next one starts."""
    assert (
        run(tmp_path, monkeypatch, lambda s: gating.Looked([gate.at_most("x", 1, s.settings.limit)]))[0] == 0
    )

    def interrupted(subject: gating.Subject[Toy]) -> gating.Looked:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, monkeypatch, interrupted)
    assert report.read_report(tmp_path / "out" / "probe.json").exit_code == 3


def test_a_report_that_can_not_be_written_is_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is not a PASS."""
    (tmp_path / "out").write_text("a file where the folder should be")
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    looked = gating.Looked([gate.at_most("x", 1, 2)])
    assert probe(lambda s: looked).main(["toy", "--out", str(tmp_path / "out")]) == 3


def test_the_same_look_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release's id covers its reports, so nothing in them may depend on the clock."""
    written = []
    for _ in range(2):
        run(tmp_path, monkeypatch, lambda s: gating.Looked([gate.at_most("x", 1, 2)], {"rows": 3}))
        written.append([path.read_bytes() for path in sorted((tmp_path / "out").iterdir())])
    assert written[0] == written[1]
