"""Which workflows a push starts, as a table of GitHub's rules."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core import triggers
from tidegate.core.triggers import BadWorkflow, matches, selected, triggered


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        # From GitHub's filter pattern cheat sheet.
        ("main", "main", True),
        ("main", "mainline", False),
        ("feature/*", "feature/my-branch", True),
        ("feature/*", "feature/beta-a/my-branch", False),
        ("feature/**", "feature/beta-a/my-branch", True),
        ("*", "main", True),
        ("*", "releases/one", False),
        ("**", "every/branch/name", True),
        ("*feature", "ver-10-feature", True),
        ("v2*", "v2.9", True),
        ("v[12].[0-9]+.[0-9]+", "v1.10.1", True),
        ("v[12].[0-9]+.[0-9]+", "v3.10.1", False),
        ("*.jsx?", "page.js", True),
        ("*.jsx?", "page.jsx", True),
        ("*.jsx?", "page.jsxx", False),
        ("**.js", "src/js/app.js", True),
        ("*.js", "src/app.js", False),
        ("docs/*", "docs/file.txt", True),
        ("docs/*", "docs/a/file.txt", False),
        ("docs/**", "docs/a/b/file.txt", True),
        ("docs/**/*.md", "docs/hello.md", True),
        ("docs/**/*.md", "docs/a/hello.md", True),
        ("docs/**/*.md", "dir/docs/hello.md", False),
        ("**/docs/**", "dir/docs/a.txt", True),
        ("**/docs/**", "docs/a.txt", True),
        ("**/README.md", "js/README.md", True),
        ("**/README.md", "README.md", True),
        ("**/*src/**", "a/src/app.js", True),
        ("**/*-post.md", "path/their-post.md", True),
        ("a.b", "axb", False),
        (r"a\*", "a*", True),
        (r"a\*", "ab", False),
        ("envs/*/release.yaml", "envs/canary/release.yaml", True),
        ("envs/*/release.yaml", "envs/releases/m/release.yaml", False),
    ],
)
def test_pattern(pattern: str, name: str, expected: bool) -> None:
    """A filter pattern matches what GitHub's cheat sheet says that it matches."""
    assert matches(pattern, name) is expected


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        (["releases/**", "!releases/**-alpha"], "releases/10", True),
        (["releases/**", "!releases/**-alpha"], "releases/beta/3-alpha", False),
        (["docs/**", "!docs/private/**", "docs/private/open.md"], "docs/private/open.md", True),
        (["!main"], "other", False),
        ([], "main", False),
    ],
)
def test_last_pattern_wins(patterns: list[str], name: str, expected: bool) -> None:
    """The last pattern that matches decides, and `!` alone selects nothing."""
    assert selected(name, patterns) is expected


MAIN = "refs/heads/main"


@pytest.mark.parametrize(
    ("on", "event", "ref", "changed", "expected"),
    [
        ("on: push", "push", MAIN, [], True),
        ("on: push", "pull_request", MAIN, ["a"], False),
        ("on: [push, pull_request]", "pull_request", MAIN, ["a"], True),
        ("on: {push: }", "push", "refs/heads/x", [], True),
        ("on: {workflow_dispatch: }", "push", MAIN, ["a"], False),
        ("on: {push: {branches: [main]}}", "push", MAIN, ["a"], True),
        ("on: {push: {branches: [main]}}", "push", "refs/heads/x", ["a"], False),
        ("on: {push: {branches: main}}", "push", MAIN, ["a"], True),
        ("on: {push: {branches-ignore: ['promote/**']}}", "push", "refs/heads/promote/a/b/c", ["a"], False),
        ("on: {push: {branches-ignore: ['promote/**']}}", "push", "refs/heads/topic", ["a"], True),
        ("on: {push: {branches: ['**']}}", "push", "refs/tags/v1", ["a"], False),
        ("on: {push: {tags: ['v*']}}", "push", MAIN, ["a"], False),
        ("on: {push: {tags: ['v*']}}", "push", "refs/tags/v1", [], True),
        ("on: {push: {tags: ['v*'], branches: [main]}}", "push", MAIN, ["a"], True),
        ("on: {push: {tags: ['v*'], paths: ['docs/**']}}", "push", "refs/tags/v1", ["src/a"], True),
        ("on: {push: {paths: ['models/**']}}", "push", MAIN, ["models/a.py", "x"], True),
        ("on: {push: {paths: ['models/**']}}", "push", MAIN, ["envs/a.yaml"], False),
        ("on: {push: {paths: ['models/**']}}", "push", MAIN, [], False),
        ("on: {push: {paths: ['**', '!envs/**']}}", "push", MAIN, ["envs/a.yaml"], False),
        ("on: {push: {paths: ['**', '!envs/**']}}", "push", MAIN, ["envs/a.yaml", "a.py"], True),
        ("on: {push: {paths-ignore: ['docs/**']}}", "push", MAIN, ["docs/a.md"], False),
        ("on: {push: {paths-ignore: ['docs/**']}}", "push", MAIN, ["docs/a.md", "b"], True),
        ("on: {push: {branches: [x], paths: ['a']}}", "push", MAIN, ["a"], False),
        ("on: {pull_request: {branches: [main]}}", "pull_request", MAIN, ["a"], True),
        ("on: {pull_request: {types: [closed]}}", "pull_request", MAIN, ["a"], False),
        ("on: {pull_request: {types: [opened, synchronize]}}", "pull_request", MAIN, ["a"], True),
    ],
)
def test_triggered(on: str, event: str, ref: str, changed: list[str], expected: bool) -> None:
    """A workflow starts exactly on the events, refs and paths that its filters say."""
    assert triggered(yaml.safe_load(on), event, ref, changed) is expected


def test_key_on_as_text_and_as_true() -> None:
    """The key `on` is found as PyYAML reads it (True) and as a YAML 1.2 parser does."""
    assert triggered({True: "push"}, "push", MAIN, [])
    assert triggered({"on": "push"}, "push", MAIN, [])
    assert not triggered({}, "push", MAIN, [])


def test_both_kinds_of_filter_are_refused() -> None:
    """`paths` beside `paths-ignore` raises instead of letting one of them win."""
    with pytest.raises(BadWorkflow, match="can't be used together"):
        triggered({"on": {"push": {"paths": ["a"], "paths-ignore": ["b"]}}}, "push", MAIN, ["a"])


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_pattern_is_answered_or_refused(pattern: str, name: str) -> None:
    """No pattern makes matching fail in any other way than BadWorkflow."""
    try:
        matches(pattern, name)
    except BadWorkflow:
        assert any(c in pattern for c in "[]?+\\")


@given(st.lists(st.sampled_from(["a", "b", "dir"]), min_size=1, max_size=4).map("/".join))
def test_two_stars_match_every_path(path: str) -> None:
    """`**` matches every path, and a path without special characters matches itself."""
    assert matches("**", path)
    assert matches(path, path)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Fix it\n", False),
        ("Fix it [skip ci]\n", True),
        ("Roll back\n\nTidegate-Release: a\nTidegate-Verdict: FAIL\n", True),
        ("Explain the trailer `Tidegate-Verdict: FAIL`\n", False),
    ],
)
def test_skipped(message: str, expected: bool) -> None:
    """A commit of the agent, and one that says so, starts nothing."""
    assert triggers.skipped(message) is expected


def test_order_of_one_push() -> None:
    """Checks and training come before a release, and promotions last."""
    assert triggers.in_order(["promote", "own", "release", "train", "ci"]) == [
        *("ci", "train", "release", "own", "promote"),
    ]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, None),
        ("release", "release"),
        ({"group": "train-${{ github.ref }}"}, "train-refs/heads/main"),
        ({"group": "${{github.workflow}}-${{ github.sha }}"}, "w-c0ffee"),
    ],
)
def test_group(spec: object, expected: str | None) -> None:
    """A concurrency group's name is filled in; without one there is none."""
    assert triggers.group({"concurrency": spec}, "w", MAIN, "c0ffee") == expected


@pytest.mark.parametrize("event", ["push", "pull_request"])
def test_a_push_and_its_pull_request_share_a_group(event: str) -> None:
    """`head_ref || ref_name` is the branch for both events; `head_ref` alone is empty for a push."""
    spec = {"concurrency": "train-${{ github.head_ref || github.ref_name }}"}
    assert triggers.group(spec, "train", "refs/heads/topic", "c0ffee", event) == "train-topic"
    alone = triggers.group({"concurrency": "x${{ github.head_ref }}"}, "w", "refs/heads/topic", "c", event)
    assert alone == ("xtopic" if event == "pull_request" else "x")


@pytest.mark.parametrize(
    "text", ["${{ github.head_ref || github.actor }}", "${{ github.actor }}", "${{ inputs.x || 'a' }}"]
)
def test_unknown_group_is_refused(text: str) -> None:
    """An expression that can't be filled in raises: two runs must not share a lock by accident."""
    with pytest.raises(BadWorkflow):
        triggers.group({"concurrency": text}, "w", MAIN, "c0ffee")


def test_minutes_add_up() -> None:
    """A run's limit is the sum of its jobs' limits, with the default for a job that has none."""
    assert triggers.minutes({"jobs": {"a": {"timeout-minutes": 5}, "b": {}}}, 60) == 65
    assert triggers.minutes({}, 60) == 60


@pytest.mark.parametrize(
    ("jobs", "problem"),
    [
        ({"a": {"runs-on": "ubuntu-latest"}}, None),
        ({"a": {"runs-on": ["ubuntu-latest"]}}, None),
        ({"a": {"runs-on": "windows-latest"}}, "windows-latest"),
        ({"a": {"runs-on": ["self-hosted", "gpu"]}}, "gpu"),
        ({"a": {"runs-on": "${{ matrix.os }}"}}, "matrix"),
        ({"a": {}}, "runs on"),
        ({"a": {"runs-on": "ubuntu-latest", "services": {"db": {}}}}, "services"),
        ({"a": {"runs-on": "ubuntu-latest", "container": "x"}}, "container"),
        ({"a": {"uses": "./.github/workflows/x.yml"}}, "reusable"),
        ({}, "no jobs"),
    ],
)
def test_unmapped(jobs: dict[str, object], problem: str | None) -> None:
    """A job that act would skip silently, or that needs Docker, is named."""
    found = triggers.unmapped({"jobs": jobs}, ["ubuntu-latest"])
    assert (found == []) if problem is None else problem in "; ".join(found)


def test_a_runner_of_ones_own_is_this_machine() -> None:
    """A job that runs on `self-hosted`, as it must on GitHub, runs on the local forge too."""
    assert triggers.unmapped({"jobs": {"a": {"runs-on": "self-hosted"}}}, triggers.LABELS) == []
    assert triggers.unmapped({"jobs": {"a": {"runs-on": ["self-hosted"]}}}, triggers.LABELS) == []
