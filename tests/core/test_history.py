"""History: what ran when, from revisions alone; and from a real repository through git's log."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tidegate.adapters.git import log_releases
from tidegate.core.history import Kind, Revision, entries, iso, parse_moment, running_at
from tidegate.errors import ConfigError, PlatformError

OLD, NEW, BAD = "aaaaaaaaaaa1", "bbbbbbbbbbb2", "ccccccccccc3"


def revision(at: float, models: dict[str, str] | None, **more) -> Revision:
    """A revision named by its time."""
    return Revision(f"commit-{at:g}", at, more.pop("author", "Ada"), models=models, **more)


# ---------------------------------------------------------------- pure
def test_each_stretch_ends_where_the_next_begins():
    """A promotion ends the stretch before it; the last one lasts."""
    found = entries("production", [revision(1, {"m": OLD}), revision(5, {"m": NEW})])
    assert [(e.release, e.start, e.end, e.kind) for e in found] == [
        (OLD, 1, 5, Kind.PROMOTED),
        (NEW, 5, None, Kind.PROMOTED),
    ]


def test_going_back_is_a_rollback_with_its_numbers():
    """A revert's entry is a rollback that says verdict and both numbers, and who approved what."""
    trailers = {
        "Tidegate-Verdict": "FAIL",
        "Tidegate-Reason": "errors over the limit",
        "Tidegate-Observed": "31%",
        "Tidegate-Limit": "2%",
    }
    found = entries(
        "canary",
        [
            revision(1, {"m": OLD}, trailers={"Tidegate-Approved-By": "Grace"}),
            revision(2, {"m": BAD}),
            revision(3, {"m": OLD}, trailers=trailers),
        ],
    )
    assert found[0].approved_by == "Grace"
    back = found[2]
    assert (back.kind, back.release, back.verdict) == (Kind.ROLLED_BACK, OLD, "FAIL")
    assert back.why == "errors over the limit; observed 31%, limit 2%"


def test_going_back_by_hand_is_a_rollback_too():
    """A person's plain revert has no trailers; that the release ran before says what it is."""
    found = entries(
        "production",
        [revision(1, {"m": OLD}), revision(2, {"m": BAD}), revision(3, {"m": OLD}, subject='Revert "x"')],
    )
    assert (found[2].kind, found[2].why) == (Kind.ROLLED_BACK, 'Revert "x"')


def test_a_first_release_that_fails_leaves_nothing():
    """When the only release is taken out by a bad verdict, nothing runs, and that is a rollback."""
    found = entries(
        "canary", [revision(1, {"m": BAD}), revision(2, {}, trailers={"Tidegate-Verdict": "INCONCLUSIVE"})]
    )
    assert [(e.release, e.kind) for e in found] == [(BAD, Kind.PROMOTED), (None, Kind.ROLLED_BACK)]
    assert running_at(found, 3) == []


def test_taking_a_model_out_is_no_rollback():
    """A model that a person removes is removed, not rolled back."""
    found = entries("production", [revision(1, {"m": OLD}), revision(2, {})])
    assert found[1].kind is Kind.REMOVED


def test_an_unreadable_revision_changes_nothing():
    """What can't be read ends no stretch: the agent goes on with the last good state."""
    broken = revision(2, None, problem="envs/production/release.yaml:1: is not YAML")
    found = entries("production", [revision(1, {"m": OLD}), broken, revision(3, {"m": NEW})])
    assert [(e.release, e.end) for e in found] == [(OLD, 3), (NEW, None)]


def test_models_have_stretches_of_their_own():
    """A change of one model neither ends nor repeats another model's stretch."""
    found = entries("production", [revision(1, {"a": OLD, "b": OLD}), revision(2, {"a": NEW, "b": OLD})])
    assert [(e.model, e.release, e.end) for e in found] == [("a", OLD, 2), ("b", OLD, None), ("a", NEW, None)]


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e9),
            st.none() | st.dictionaries(st.sampled_from("ab"), st.sampled_from([OLD, NEW, BAD])),
        ),
        max_size=12,
    )
)
def test_at_any_moment_each_model_has_at_most_one_release(made):
    """Whatever the commits and their clocks, a model's stretches neither overlap nor leave a hole."""
    found = entries("production", [revision(at, models) for at, models in made])
    for model in "ab":
        own = sorted((e for e in found if e.model == model), key=lambda e: (e.start, e.end or 1e18))
        for before, after in itertools.pairwise(own):
            assert before.start <= before.end == after.start
        for moment in [at for at, _ in made] + [2e9]:
            assert len([e for e in running_at(own, moment) if e.model == model]) <= 1
    readable = [models for _, models in made if models is not None]
    assert {e.model: e.release for e in running_at(found, 2e9)} == (readable[-1] if readable else {})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-11-20", "2026-11-20T23:59:59Z"),
        ("20261120", "2026-11-20T23:59:59Z"),
        ("2026-11-20T14:30", "2026-11-20T14:30:00Z"),
        ("2026-11-20 14:30:05", "2026-11-20T14:30:05Z"),
        ("2026-11-20T14:30:00+02:00", "2026-11-20T12:30:00Z"),
        ("2026-11-20T14:30:00Z", "2026-11-20T14:30:00Z"),
    ],
)
def test_a_date_means_the_end_of_that_day_in_utc(text, meant):
    """A date is the last moment of its day; a time without a zone is in UTC."""
    assert iso(parse_moment(text)) == meant


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "20-11-2026"])
def test_what_is_no_date_is_said(text):
    """What can't be read as a date raises ValueError, never a guess."""
    with pytest.raises(ValueError):
        parse_moment(text)


# ---------------------------------------------------------------- from a repository
class Story:
    """A repository in which production's release.yaml changes, at set times, by several hands."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "-q", "-b", "main")
        for environment in ("staging", "canary", "production"):
            folder = root / "envs" / environment
            folder.mkdir(parents=True)
            (folder / "platform.yaml").write_text("plane: p\n")
        self.path = root / "envs" / "production" / "release.yaml"

    def git(self, *arguments: str, day: int = 1, author: str = "Ada") -> str:
        env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        at = f"2026-11-{day:02d}T12:00:00+00:00"
        env |= {"GIT_COMMITTER_DATE": at, "GIT_AUTHOR_DATE": at, "GIT_AUTHOR_NAME": author}
        env |= {"GIT_AUTHOR_EMAIL": "a@b.c", "GIT_COMMITTER_NAME": author, "GIT_COMMITTER_EMAIL": "a@b.c"}
        done = subprocess.run(
            ["git", *arguments], cwd=self.root, env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, text: str | None, day: int, message: str = "Edit", author: str = "Ada") -> str:
        if text is None:
            self.path.unlink()
        else:
            self.path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message, day=day, author=author)
        return self.git("rev-parse", "HEAD")

    def merge(self, text: str, day: int, author: str, approver: str) -> str:
        """A promotion: a branch by `author`, merged by `approver` two days later."""
        self.git("checkout", "-q", "-b", f"promote/{day}")
        self.commit(text, day, f"Promote\n\nTidegate-Release: {NEW}", author=author)
        self.git("checkout", "-q", "main")
        message = f"Merge promotion\n\nTidegate-Approved-By: {approver}"
        self.git("merge", "-q", "--no-ff", f"promote/{day}", "-m", message, day=day + 2, author=approver)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def story(tmp_path: Path) -> Story:
    made = Story(tmp_path)
    made.commit(f"models: {{m: {OLD}}}\n", 2)
    return made


def test_a_merge_counts_when_it_lands(story):
    """A promotion runs from its merge, not from its branch's commit; its author and approver are named."""
    merge = story.merge(f"models: {{m: {NEW}}}\n", 5, author="pipeline", approver="Grace")
    found = entries("production", log_releases(story.root, "production"))
    assert [(e.release, iso(e.start)) for e in found] == [
        (OLD, "2026-11-02T12:00:00Z"),
        (NEW, "2026-11-07T12:00:00Z"),
    ]
    assert (found[1].commit, found[1].author, found[1].approved_by) == (merge, "pipeline", "Grace")


def test_commits_that_do_not_change_it_are_not_in_it(story):
    """Only commits that touch the environment's release.yaml are read."""
    (story.root / "other").write_text("x")
    story.git("add", "-A")
    story.git("commit", "-q", "-m", "Other", day=3)
    assert len(log_releases(story.root, "production")) == 1
    assert log_releases(story.root, "canary") == []


def test_a_broken_commit_does_not_stop_the_history(story):
    """A commit with a release.yaml that can't be read, or without one, is named with its reason."""
    story.commit("models: [", 3)
    story.commit(None, 4)
    story.commit(f"models: {{m: {NEW}}}\n", 5)
    found = log_releases(story.root, "production")
    assert [r.models for r in found] == [{"m": OLD}, None, None, {"m": NEW}]
    assert "release.yaml:" in found[1].problem
    assert "missing" in found[2].problem


def test_the_remote_s_branch_is_what_counts(story):
    """Commits that were not pushed are no history: the remote-tracking branch is read when there is one."""
    story.git("update-ref", "refs/remotes/origin/main", "HEAD")
    story.commit(f"models: {{m: {NEW}}}\n", 5)
    assert [r.models for r in log_releases(story.root, "production")] == [{"m": OLD}]


def test_a_cut_off_clone_is_said(story, tmp_path_factory):
    """A shallow clone can't know what ran: an error with the way out, not a short history."""
    story.commit(f"models: {{m: {NEW}}}\n", 5)
    clone = tmp_path_factory.mktemp("clone")
    story.git("clone", "-q", "--depth=1", f"file://{story.root}", str(clone))
    with pytest.raises(ConfigError, match="unshallow"):
        log_releases(clone, "production")


def test_a_folder_without_a_repository_is_said(tmp_path):
    """Outside of a repository there is no history to read, and the error says so."""
    with pytest.raises(PlatformError, match="clone"):
        log_releases(tmp_path, "production")


def test_the_command_says_what_ran_then(story, monkeypatch):
    """`history --at DATE --json` names the release that ran at the end of that day, and no other."""
    import typer

    from tidegate.commands import history as command

    story.merge(f"models: {{m: {NEW}}}\n", 5, author="pipeline", approver="Grace")
    story.commit("models: [", 9)
    monkeypatch.chdir(story.root)
    app = typer.Typer()
    command.register(app)

    def ask(*arguments: str) -> dict:
        done = CliRunner().invoke(app, ["history", "--json", "--no-fetch", *arguments])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert [e["release"] for e in ask("--at", "2026-11-06")["entries"]] == [OLD]
    assert [e["release"] for e in ask("--at", "2026-11-07")["entries"]] == [NEW]
    assert ask("--at", "2026-11-01")["entries"] == []
    assert [e["release"] for e in ask()["entries"]] == [OLD, NEW]
    assert ask("--model", "other")["entries"] == []
    assert len(ask()["problems"]) == 1


def test_the_table_says_who_and_why(story, monkeypatch):
    """Without --json, a line names release, kind, author, approver and commit in full."""
    import typer

    from tidegate.commands import history as command

    merge = story.merge(f"models: {{m: {NEW}}}\n", 5, author="pipeline", approver="Grace")
    monkeypatch.chdir(story.root)
    app = typer.Typer()
    command.register(app)
    done = CliRunner().invoke(app, ["history", "--no-fetch"])
    assert done.exit_code == 0, done.output
    row = next(line for line in done.stdout.splitlines() if NEW in line)
    assert all(word in row for word in ("promoted", "pipeline, approved by Grace", merge[:8], "now"))
