"""The demo's edits fit the repository, its clone starts afresh, and its sums are right."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
import yaml

from models.flight_delay import demo
from models.sentiment import demo as of_texts
from models.sentiment import prepare
from services.sentiment.schema import Text
from tests.builders import A, B, envs
from tidegate import config
from tidegate.demo import changes, summary
from tidegate.demo.summary import Answer
from tidegate.errors import ConfigError, NoData, Refused

ROOT = Path(__file__).parents[2]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize("shown", [demo, of_texts], ids=["flights", "texts"])
def test_both_edits_fit_the_service(shown: ModuleType, tmp_path: Path) -> None:
    """The bad edit fits the service as it is and the good one what the bad one left; both stay Python."""
    path = tmp_path / shown.SERVICE
    path.parent.mkdir(parents=True)
    shutil.copy(ROOT / shown.SERVICE, path)
    for edits in (shown.BAD, shown.GOOD):
        changes.apply(tmp_path, edits)
        compile(path.read_text(), str(path), "exec")
        assert all(edit.new in path.read_text() for edit in edits)
    with pytest.raises(Refused, match="0 such passages"):
        changes.apply(tmp_path, shown.GOOD)


def test_the_passengers_fly_in_months_that_no_gate_knows(tmp_path: Path) -> None:
    """The demo's splits end before the passengers' months do, and the bad edit knows the splits' only."""
    shutil.copy(ROOT / demo.PARAMS, tmp_path)
    changes.apply(tmp_path, demo.AUTUMN)
    months = yaml.safe_load((tmp_path / demo.PARAMS).read_text())["models"]["flight-delay"]["prepare"][
        "months"
    ]
    known = {month for split in months.values() for month in split}
    table = next(edit.new for edit in demo.BAD if "SEASON = {" in edit.new)
    assert known == {int(month) for month in re.findall(r"(\d+): ", table)}
    assert set(demo.MONTHS) - known == {11, 12}


def test_the_writers_give_stars_that_no_gate_knows(tmp_path: Path) -> None:
    """What the bad edit fails on is in no text of the corpus, and in many that the crowd sends."""
    corpus = prepare.source().read_text(encoding="latin-1")
    assert re.search(r"\b0/5\b", corpus) is None
    of_texts.main(tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    fatal = [row for row in rows if re.search(r"\b0/5\b", row["text"])]
    assert 0.05 < len(fatal) / len(rows) < 0.2
    assert all(msgspec.convert(row, Text) for row in rows), "what the service takes"


def test_the_first_model_with_a_demo_is_shown(tmp_path: Path) -> None:
    """By convention, whatever it is called; one that says nothing to show is refused, and so is none."""
    models = {name: {"package": package} for name, package in (("sums", "sums"), ("pets", "zoo"), ("x", "y"))}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"models": models, "gates": {}}, sort_keys=False))
    with pytest.raises(NoData, match=r"no model in params\.yaml brings a demo"):
        changes.shown(tmp_path)
    program = (ROOT / "models/flight_delay/demo.py").read_text()
    write(tmp_path, {"models/zoo/demo.py": program, "models/y/demo.py": program})
    found = changes.shown(tmp_path)
    assert (found.model, found.program, found.others) == ("pets", "models.zoo.demo", ("sums", "x"))
    assert found.show == demo.SHOW
    assert changes.shown(tmp_path, "x").model == "x"
    with pytest.raises(NoData, match="sums brings no demo"):
        changes.shown(tmp_path, "sums")
    with pytest.raises(ConfigError, match="no model is called `pet`"):
        changes.shown(tmp_path, "pet")
    write(tmp_path, {"models/zoo/demo.py": "SHOW = None"})
    with pytest.raises(ConfigError, match="names no SHOW"):
        changes.shown(tmp_path)


def test_the_clone_keeps_only_the_shown_model(tmp_path: Path) -> None:
    """Of this repository's params.yaml the shown model's lines and the gates stay as they are."""
    text = (ROOT / "params.yaml").read_text()
    write(tmp_path, {"params.yaml": text + ""})
    shown = changes.shown(ROOT)
    changes.keep_only(tmp_path, shown.model)
    before, after = yaml.safe_load(text), yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert after == {**before, "models": {shown.model: before["models"][shown.model]}}
    changes.apply(tmp_path, demo.AUTUMN)


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
