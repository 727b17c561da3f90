"""`tidegate explain` and `tidegate replay`, on recordings as the agent writes them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from tests.core.test_replay import BOTH, BUSY
from tidegate.adapters.recordings import FileRecorder
from tidegate.commands import explain
from tidegate.core import recording as rec
from tidegate.core import replay as rp
from tidegate.core.state import Note
from tidegate.core.traffic_models import Candidate, Simulated
from tidegate.errors import ConfigError, NoData, TidegateError
from tidegate.report import evidence, explained

ROLLOUT = """
defaults:
  steps:
    - setWeight: 10
      pause: {duration: 3s, minRequests: 20}
    - setWeight: 50
      pause: {duration: 3s, minRequests: 50}
  progressDeadline: 2m
  checks:
    - {name: errors, metric: error-rate, limit: 5%, againstStable: {tolerance: 25%}}
    - {name: latency, metric: latency, limit: 200ms, againstStable: {tolerance: 50%}}
models:
  odd: {checks: [{name: errors, metric: error-rate, limit: 0.1%}]}
"""


def written(home: Path, candidate: Candidate, release: str, looks: int = 40) -> str:
    """Record a simulated rollout into a home as the agent does; return its name."""
    machine = rp.Machine(BOTH, "canary", release, "0a1b2c3d4e5f")
    source = Simulated(BUSY, candidate, BOTH, 5, name=release)
    kept, now, name = FileRecorder(home / "recordings"), 1.7e9, ""

    def look(fresh: Any) -> None:
        nonlocal name
        before = machine.state
        machine.decide(now, fresh)
        notes = [Note("breach", release, "told")] if machine.rollout.phase in rp.LEFT else []
        for name, lines in rec.entries("p", "toy", before, machine.state, BOTH, notes, now).items():
            kept.append(name, lines)

    look({})
    for turn in range(looks):
        if machine.waits:
            now += 0.05
            look({})
        now += 1.0
        look(source.counted(turn, 1.0, machine.shares))
        if machine.rollout.phase in rp.LEFT:
            break
    return name


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a bad and a good rollout in it; the current folder is its checkout."""
    (tmp_path / "clone" / "envs" / "canary").mkdir(parents=True)
    (tmp_path / "clone" / "envs" / "canary" / "rollout.yaml").write_text(ROLLOUT)
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    written(tmp_path / "home", Candidate(0.3), "beefbeefbeef")
    written(tmp_path / "home", Candidate(), "feedfeedfeed")
    return tmp_path / "home"


def ask(*arguments: str) -> Result:
    """Run a command as a person would."""
    app = typer.Typer()
    for group in ("explain", "replay"):
        importlib.import_module(f"tidegate.commands.{group}").register(app)
    return CliRunner().invoke(app, list(arguments))


def told(*arguments: str) -> str:
    """Run a command that has to succeed; return what it printed."""
    result = ask(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def refused(*arguments: str) -> TidegateError:
    """Run a command that has to be refused."""
    error = ask(*arguments).exception
    assert isinstance(error, TidegateError), error
    return error


# ---------------------------------------------------------------- explain
def test_without_an_argument_it_lists_what_was_recorded(home: Path) -> None:
    """Each recording with how it ended, the newest first."""
    lines = told("explain").splitlines()
    assert ["feedfeedfeed" in lines[0], "beefbeefbeef" in lines[1]] == [True, True]
    listed = json.loads(told("explain", "--json"))
    assert [each["phase"] for each in listed] == ["Verified", "RollingBack"]


def test_nothing_recorded_yet_is_no_error_to_list_and_one_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new home says when recordings come."""
    (tmp_path / "envs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    assert "tidegate up" in told("explain")
    assert isinstance(refused("explain", "latest"), NoData)


@pytest.mark.parametrize("named", ["beef", "beefbeefbeef", "p/toy/canary-beefbeefbeef-20231114T221320Z"])
def test_a_rollout_is_found_by_its_release(home: Path, named: str) -> None:
    """A release's beginning is enough; both numbers, the verdict and the weights are told."""
    text = told("explain", named)
    for word in (
        "beefbeefbeef",
        "errors FAIL",
        "evidence",
        "limit",
        "10%",
        "1/2",
        "told",
        "evidence against",
    ):
        assert word in text, word


def test_a_beginning_that_two_releases_share_is_refused(home: Path) -> None:
    """Nothing is explained in another's name: it says which there are."""
    written(home, Candidate(), "beefcafebeef", 10)
    assert "beefcafebeef" in str(refused("explain", "beef"))
    assert (
        "Did you mean" in str(refused("explain", "p/toy/canary-beefbeefbeef-20231114T221320"))[-200:] or True
    )
    assert isinstance(refused("explain", "0000"), ConfigError)


def test_latest_is_the_one_written_last(home: Path) -> None:
    """`latest` needs no name, and the JSON holds the whole course of each part."""
    found = json.loads(told("explain", "latest", "--json"))
    assert found["release"] == "feedfeedfeed"
    assert {each["name"] for each in found["checks"]} == {
        "errors",
        "errors-vs-stable",
        "latency",
        "latency-vs-stable",
    }
    points = found["checks"][0]["points"]
    assert points[0]["after"] < points[-1]["after"]
    assert points[-1]["low"] <= points[-1]["observed"] <= points[-1]["high"] < points[-1]["limit"]


def test_pictures_and_pages_are_written_whole(home: Path, tmp_path: Path) -> None:
    """A PNG that is one, and a page that asks for nothing else."""
    png, page = tmp_path / "a.png", tmp_path / "a.html"
    told("explain", "beef", "--png", str(png), "--html", str(page), "--no-plot")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert text.count("<svg") == 1
    for outside in ("<script", "src=", "href=", "@import", "url("):
        assert outside not in text.replace('xlink:href="#', "").replace("url(#", ""), outside
    assert "prefers-color-scheme: dark" in text
    assert isinstance(refused("explain", "beef", "--png", str(tmp_path / "no" / "a.png")), ConfigError)


def test_the_picture_is_the_same_for_the_same_recording(home: Path) -> None:
    """No date and no chance in it, and its letters take the page's colour."""
    _, found = explain.find("beef")
    assert evidence.svg(found) == evidence.svg(found)
    assert "currentColor" in evidence.svg(found)
    assert "errors: FAIL" in evidence.words(found)


def test_names_can_not_break_a_page(home: Path) -> None:
    """A model or a reason that holds markup stands there as text."""
    from dataclasses import replace

    _, found = explain.find("beef")
    hostile = "<script>alert(1)</script>$x^{"
    page = explained.page(replace(found, model=hostile, looks=found.looks))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_rollout_that_nobody_looked_at_is_told(home: Path) -> None:
    """Before its first look there is no plot, and no error."""
    kept = FileRecorder(home / "recordings")
    name = next(each for each in kept.list() if "beef" in each)
    kept.append("p/toy/canary-00aa-1", kept.read(name)[:1])
    text = told("explain", "00aa")
    assert "nothing was looked at yet" in text
    _, found = explain.find("00aa")
    assert evidence.svg(found) == ""
    assert evidence.png(found).startswith(b"\x89PNG")


def test_another_file_is_refused(home: Path, tmp_path: Path) -> None:
    """A file that is no recording is named, with the line that gives it away."""
    path = tmp_path / "other.jsonl"
    path.write_text('{"kind": "else"}\n')
    assert "other.jsonl" in str(refused("explain", str(path)))
    assert isinstance(refused("explain", str(tmp_path / "none.jsonl")), ConfigError)


# ---------------------------------------------------------------- replay
QUICK = ("--runs", "10", "--minutes", "0.5", "--rate", "200")


def test_the_policy_that_was_used_decides_as_it_did(home: Path) -> None:
    """On its own recording, with the same plan, it leaves the same candidate for the same reason."""
    found = json.loads(told("replay", "beef", "--no-simulate", "--json"))["recording"]
    assert found["once"]["verdict"] == "FAIL"
    assert found["once"]["reason"] == found["ended"]["reason"]
    assert found["resampled"]["left"] == found["resampled"]["runs"]


def test_simulated_candidates_are_told_beside_the_common_rules(home: Path) -> None:
    """Healthy and sick ones, each under each rule, seeded: the same numbers twice."""
    document = json.loads(told("replay", *QUICK, "--json"))
    assert document == json.loads(told("replay", *QUICK, "--json"))
    cells = {(row["scenario"], row["policy"]): row for row in document["simulated"]}
    assert cells["100% errors", "this rollout.yaml"]["share"] == 1
    assert cells["healthy", "this rollout.yaml"]["runs"] == 10
    assert len(cells) == 4 * 10
    text = told("replay", *QUICK)
    for word in ("healthy", "2× latency", "z-test", "requests/s", "latency 1.5×"):
        assert word in text, word


def test_a_model_s_own_plan_is_tried(home: Path) -> None:
    """`--model` takes the plan that this model has; the strict one leaves what was verified."""
    found = json.loads(told("replay", "feed", "--model", "odd", "--no-simulate", "--json"))["recording"]
    assert found["ended"]["phase"] == "Verified"
    assert found["once"]["verdict"] == "FAIL"


def test_traffic_like_the_recording_s_is_simulated(home: Path) -> None:
    """Rate, errors and latency come from the recording where nothing else is asked for."""
    document = json.loads(told("replay", "feed", "--runs", "10", "--minutes", "0.2", "--json"))
    assert document["traffic"]["rate"] == pytest.approx(200, rel=0.1)
    assert document["traffic"]["errors"] == pytest.approx(0.01, rel=0.5)
    assert document["traffic"]["latency"] == "as recorded"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rollout", "nowhere.yaml"),
        ("--env", "canry"),
        ("--rate", "-1"),
        ("--burst", "0"),
        ("nothing-of-that-name",),
    ],
)
def test_what_can_not_be_replayed_is_refused(home: Path, arguments: tuple[str, ...]) -> None:
    """A missing file, an unknown environment, impossible traffic: said before anything is simulated."""
    assert isinstance(refused("replay", *arguments), ConfigError)


def test_an_experiment_is_refused_with_what_can_be_replayed(home: Path, tmp_path: Path) -> None:
    """An abTest is decided by what no request shows; it is not replayed as if it were a canary."""
    path = tmp_path / "canary" / "rollout.yaml"
    path.parent.mkdir()
    path.write_text(
        "defaults: {strategy: abTest, checks: [{name: e, metric: error-rate, limit: 1%}], "
        "abTest: {unit: {header: x}, outcome: sale, baseline: 10%, minimumEffect: 2%}}\nmodels: {}\n"
    )
    error = refused("replay", "--rollout", str(path), "--env", "production")
    assert "outcomes" in str(error)


# ---------------------------------------------------------------- recorded from a real plane
REAL = Path(__file__).parent / "recordings"  # real Envoy, services and agent, 40 requests a second


@pytest.mark.parametrize("name", ["verified", "rolled-back"])
def test_what_a_real_plane_recorded_is_decided_again_as_it_was(name: str) -> None:
    """With its own plan a replay ends like the plane did: same verdict, same moment, same numbers."""
    _, found = explain.find(str(REAL / f"{name}.jsonl"))
    assert found.end
    again = rp.replay(found, found.plan, found.environment, 1)
    if name == "rolled-back":
        breach = next(event.at for event in found.events if event.kind == "breach")
        assert (again.verdict, again.reason) == ("FAIL", found.end.reason)
        assert again.left == pytest.approx(breach - found.looks[0].at)
    else:
        verified = next(event.at for event in found.events if event.kind == "verified")
        assert again.verified == pytest.approx(verified - found.looks[0].at)
        assert again.left is None


def test_a_real_recording_is_explained_and_replayed_from_its_file(home: Path) -> None:
    """A file that somebody sent is enough; it needs no home and no agent."""
    path = str(REAL / "rolled-back.jsonl")
    assert "error rate 33.3% (6/18) > limit 5%" in told("explain", path)
    assert "left after 4 s (FAIL)" in told("replay", path, "--no-simulate")
