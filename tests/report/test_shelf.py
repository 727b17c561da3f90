"""Pages kept in Git: found again, made of the same, linked; and never in a promotion's way."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.builders import record
from tidegate import packaging, pages, plumbing, promotion, report, shelf
from tidegate.commands import report as commands
from tidegate.core import gate
from tidegate.core.changes import Changes, Parameter
from tidegate.core.promotion import Target, facts
from tidegate.core.verdict import Verdict
from tidegate.errors import NoData
from tidegate.report.page import Material, Rollout, Words, page

ROOT = Path(__file__).parents[2]
RELEASE = "aaaabbbbcccc"
WHO = {f"GIT_{role}_{what}": "t" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def passed(name: str = "quality", release: str = RELEASE) -> report.Report:
    """A gate's report about a release, made from a file that is nowhere else."""
    source = report.Source(f"tidegate gate run {name} toy", {"data/x": "sha256:0"}, release=release)
    return report.Report(name, "toy", (gate.at_least("auc", 0.8, 0.7),), {"rows": 3}, source=source)


def material(*reports: report.Report) -> Material:
    """What a page of the release may be made of."""
    found = Changes("ddddeeeeffff", "1" * 40, "2" * 40, (Parameter("models.toy.rounds", "1", "2"),))
    went = Rollout(
        "canary", "Verified", [{"name": "errors", "verdict": "PASS", "observed": 0.0, "limit": 0.1}]
    )
    return Material("toy", reports or (passed(),), release=RELEASE, changes=found, rollouts=(went,))


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> promotion.Origin:
    """A clone with envs/ of a bare repository, as the current folder."""
    bare, clone = tmp_path / "origin.git", tmp_path / "clone"
    plumbing.git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    plumbing.git(tmp_path, "clone", "--quiet", str(bare), str(clone))
    shutil.copytree(ROOT / "envs", clone / "envs", ignore=shutil.ignore_patterns("releases"))
    for environment in ("staging", "canary", "production"):
        (clone / "envs" / environment / "release.yaml").write_text("models: {}\n")
    plumbing.git(clone, "add", "-A")
    plumbing.git(clone, "commit", "--quiet", "-m", "First", env=WHO)
    plumbing.git(clone, "push", "--quiet", "origin", "HEAD:main")
    monkeypatch.chdir(clone)
    return promotion.Origin(clone)


def test_what_is_kept_is_found_again(origin: promotion.Origin) -> None:
    """A page is drawn of the same reports, changes and rollouts wherever the remote is."""
    shelf.put(origin, material(), RELEASE, {"report.md": "told"})
    again = shelf.take(origin, "toy", RELEASE)
    assert again is not None
    assert report.draw(page(again)) == report.draw(page(material()))
    assert shelf.take(origin, "toy", "000011112222") is None


def test_keeping_the_same_again_is_no_new_commit(origin: promotion.Origin) -> None:
    """A rerun writes nothing; another page stands on the one before, whose address stays good."""
    first = shelf.put(origin, material(), RELEASE, {"report.md": "one"})
    assert shelf.put(origin, material(), RELEASE, {"report.md": "one"}) == first
    second = shelf.put(origin, material(), RELEASE, {"report.md": "two"})
    assert plumbing.git(origin.checkout, "rev-parse", f"{second}^") == first


def test_a_kept_report_of_another_release_is_an_error(origin: promotion.Origin) -> None:
    """Whatever lies there under a release's name, numbers of another one decide nothing."""
    shelf.put(origin, material(passed(release="999999999999")), RELEASE, {})
    again = shelf.take(origin, "toy", RELEASE)
    assert again is not None
    assert page(again).verdict is Verdict.ERROR


def test_a_body_has_the_page_and_leads_to_the_whole(origin: promotion.Origin) -> None:
    """Verdict first, then what merging does, then how to see the plots, from any clone."""
    told = facts(Target("production", "toy", RELEASE), {"commit": "c" * 40}, None)
    body = pages.body(origin, Target("production", "toy", RELEASE), material())(told)
    lines = [line for line in body.splitlines() if line]
    assert lines[0].startswith("**✅ PASS** **toy**")
    assert lines[1] == f"Merging this lets toy {RELEASE} into production."
    assert f"`tidegate report show {RELEASE} --open`" in lines[2]
    assert "### Rollout in canary: Verified" in body
    model, commit = shelf.find(origin, RELEASE)
    assert model == "toy"
    assert "<table" in shelf.drawn(origin, commit, "report.html")


def test_on_github_the_body_links_to_the_commit(origin: promotion.Origin) -> None:
    """The address names the commit, so it shows what the reviewer was shown, whatever comes later."""
    platform = origin.checkout / "envs" / "platform.yaml"
    github = "adapter: github\n  repository: owner/name"
    platform.write_text(platform.read_text().replace("adapter: local", github))
    words = pages.keep(origin, material(), RELEASE)
    _, commit = shelf.find(origin, RELEASE)
    line = report.draw(page(replace(material(), links=words)))
    assert f"[report.html](https://github.com/owner/name/raw/{commit}/report.html)" in line
    assert f"[report.md](https://github.com/owner/name/blob/{commit}/report.md)" in line


def test_a_remote_that_takes_no_pages_stops_nothing(origin: promotion.Origin) -> None:
    """The promotion has its page all the same, and says that the one with plots is not there."""
    hook = Path(plumbing.git(origin.checkout, "remote", "get-url", "origin")) / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho no pages here >&2\nexit 1\n")
    os.chmod(hook, 0o755)
    words = pages.keep(origin, material(), RELEASE)
    assert isinstance(words, Words)
    assert "could not be kept on origin" in str(words.parts[0])


def test_without_any_report_the_body_says_error(origin: promotion.Origin) -> None:
    """A release of which nothing is known here or on origin is not taken for one that passed."""
    known = pages.known(origin, Target("canary", "toy", RELEASE))
    assert page(known).verdict is Verdict.ERROR


def test_the_rollouts_of_all_stages_add_up(origin: promotion.Origin) -> None:
    """Production's promotion shows the gates that ran in staging, and how each stage before it went."""
    staging, canary = Rollout("staging", "Healthy", []), Rollout("canary", "Verified", [])
    shelf.put(origin, replace(material(), rollouts=(staging,)), RELEASE, {})
    known = pages.known(origin, Target("production", "toy", RELEASE), canary)
    assert [rollout.environment for rollout in known.rollouts] == ["staging", "canary"]
    assert [each.gate for each in known.reports] == ["quality"]


def test_show_prints_writes_and_refuses(origin: promotion.Origin, tmp_path: Path) -> None:
    """`report show` prints the Markdown, writes the HTML, gives JSON, and names what it does not find."""
    pages.keep(origin, material(), RELEASE)
    ask = CliRunner()
    assert ask.invoke(commands.report, ["show", RELEASE]).stdout.startswith("**✅ PASS** **toy**")
    path = tmp_path / "page.html"
    assert ask.invoke(commands.report, ["show", RELEASE, "--html", str(path)]).exit_code == 0
    assert path.read_text().startswith("<!DOCTYPE html>")
    found = json.loads(ask.invoke(commands.report, ["show", RELEASE, "--json"]).stdout)
    assert [each["verdict"] for each in found["reports"]] == ["PASS"]
    unknown = ask.invoke(commands.report, ["show", "000011112222"])
    assert isinstance(unknown.exception, NoData)


def test_build_writes_both_and_exits_as_the_worst_gate(origin: promotion.Origin) -> None:
    """`report build` leaves report.md and report.html, and a stale report is an ERROR."""
    folder = origin.checkout / "build" / "toy" / "gates"
    report.write(passed(release=""), folder)
    done = CliRunner().invoke(commands.report, ["build", "toy"])
    assert done.exit_code == Verdict.ERROR.exit_code
    text = (folder.parent / "report.md").read_text()
    assert "this report was made from data/x, which is not here" in text
    assert (folder.parent / "report.html").is_file()


def test_the_record_of_the_page_is_the_packaged_one(origin: promotion.Origin) -> None:
    """The page names the release that was packaged here."""
    made = record(1)
    layout = packaging.Layout(origin.checkout, made.model)
    (layout.build / "gates").mkdir(parents=True)
    (layout.build / "release.yaml").write_text(packaging.record_text(made))
    assert pages.gather(origin.checkout, made.model).release == made.id


def test_beyond_staging_a_gate_that_did_not_run_is_an_error(origin: promotion.Origin) -> None:
    """What is pending on the way into staging has no excuse on the way out of it."""
    waiting = replace(material(), pending={"load": pages.UNSTAGED}, rollouts=())
    shelf.put(origin, waiting, RELEASE, {})
    assert "load" in pages.known(origin, Target("staging", "toy", RELEASE)).pending
    late = pages.known(origin, Target("canary", "toy", RELEASE))
    assert late.pending == {}
    assert [each.gate for each in late.reports if each.verdict is Verdict.ERROR] == ["load"]
