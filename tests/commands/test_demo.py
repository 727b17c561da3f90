"""The demo's edits fit the repository, its clone starts afresh, and its sums are right."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.builders import A, B, envs
from tidegate import config
from tidegate.demo import changes, rows, summary
from tidegate.demo.summary import Answer
from tidegate.errors import Refused

ROOT = Path(__file__).parents[2]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_both_edits_fit_the_service(tmp_path: Path) -> None:
    """The bad edit fits the service as it is and the good one what the bad one left; both stay Python."""
    path = tmp_path / changes.SERVICE
    path.parent.mkdir(parents=True)
    shutil.copy(ROOT / changes.SERVICE, path)
    for edits in (changes.BAD, changes.GOOD):
        changes.apply(tmp_path, edits)
        compile(path.read_text(), str(path), "exec")
    assert "12:" in path.read_text()
    with pytest.raises(Refused, match="0 such passages"):
        changes.apply(tmp_path, changes.GOOD)


def test_the_passengers_fly_in_months_that_no_gate_knows(tmp_path: Path) -> None:
    """The demo's splits end before the passengers' months do, and the bad edit knows the splits' only."""
    shutil.copy(ROOT / changes.PARAMS, tmp_path)
    changes.apply(tmp_path, changes.AUTUMN)
    months = yaml.safe_load((tmp_path / changes.PARAMS).read_text())["models"]["flight-delay"]["prepare"][
        "months"
    ]
    known = {month for split in months.values() for month in split}
    table = next(edit.new for edit in changes.BAD if "SEASON = {" in edit.new)
    assert known == {int(month) for month in re.findall(r"(\d+): ", table)}
    assert set(rows.MONTHS) - known == {11, 12}


def test_this_repository_needs_no_fresh_start(tmp_path: Path) -> None:
    """The template as it is shipped is not touched."""
    write(tmp_path, config.read_envs(ROOT))
    if any(config.load(tmp_path).environments[name].releases for name in config.ENVIRONMENTS):
        pytest.skip("this repository is in use")
    before = config.read_envs(tmp_path)
    assert not changes.start_afresh(tmp_path)
    assert config.read_envs(tmp_path) == before


def test_a_repository_in_use_starts_afresh(tmp_path: Path) -> None:
    """Releases, records, another forge and fixed ports are left out of the clone; rollouts stay."""
    used = envs(A, B) | {
        "envs/platform.yaml": "forge: {adapter: github, repository: a/b}\n",
        "envs/production/platform.yaml": "router: {port: 8080}\n",
        f"envs/releases/toy/{B}.rejected.yaml": f"release: {B}\nmodel: toy\nenvironment: canary\n"
        "at: now\nverdict: FAIL\nreason: bad\n",
    }
    rollout = used["envs/canary/rollout.yaml"]
    assert changes.start_afresh(write(tmp_path, used))
    found = config.load(tmp_path)
    assert (found.models(), found.records, found.rejections) == ((), {}, {})
    for environment in found.environments.values():
        assert environment.platform.forge.adapter == "local"
        assert environment.platform.router.port == "auto"
    assert found.environments["canary"].platform.plane == "production"
    assert (tmp_path / "envs/canary/rollout.yaml").read_text() == rollout
    assert not changes.start_afresh(tmp_path)


RELEASES = [
    {"release": "a", "what": "1", "fate": "in production", "expected": "in production",
     "marks": {"push": 0.0, "packaged": 60.0, "in production": 100.0}},
    {"release": "b", "what": "2", "fate": "rolled back", "expected": "rolled back", "marks": {}},
    {"release": "c", "what": "3", "fate": "in production", "expected": "in production", "marks": {}},
]  # fmt: skip
EVENTS = [
    {"at": 203.0, "kind": "weight-zero", "release": "b", "text": ""},
    {"at": 204.5, "kind": "reverted", "release": "b", "text": ""},
]


def test_failures_are_charged_to_who_answered() -> None:
    """Only the rejected release's own bad answers are the canary's; one that nobody gave is stable's."""
    answers = [
        Answer(190.0, True, "a", 5.0),
        Answer(201.0, False, "b", 5.0),
        Answer(202.0, False, "b", 5.0),
    ]
    found = summary.summarise(answers, EVENTS, RELEASES, 300.0)
    assert found["requests_failed_by_canary"] == 2
    assert found["requests_failed_by_stable"] == 0
    assert found["first_bad_response_to_weight_zero_s"] == 2.0
    assert found["weight_zero_to_revert_pushed_s"] == 1.5
    assert found["push_to_production_s"] == 100.0
    assert summary.shortcomings(found) == []
    found = summary.summarise([*answers, Answer(205.0, False, "", 5.0)], EVENTS, RELEASES, 300.0)
    assert found["requests_failed_by_stable"] == 1
    assert "1 requests failed" in summary.shortcomings(found)[0]


@pytest.mark.parametrize(
    ("answers", "events", "releases", "said"),
    [
        ([], EVENTS, RELEASES, "no request"),
        ([Answer(1.0, False, "b", 1.0)], [], RELEASES, "weight_zero"),
        ([Answer(1.0, False, "b", 1.0)], EVENTS, RELEASES[:2], "2 of 3"),
        (
            [Answer(1.0, False, "b", 1.0)],
            EVENTS,
            [*RELEASES[:2], {**RELEASES[2], "fate": "pushed"}],
            "pushed",
        ),
    ],
)
def test_what_is_missing_is_a_shortcoming(answers, events, releases, said) -> None:
    """No traffic, no measured rollback, a missing release or another fate each fail the demo."""
    assert any(
        said in text for text in summary.shortcomings(summary.summarise(answers, events, releases, 1.0))
    )
