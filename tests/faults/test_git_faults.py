"""Git goes away, goes back, is rewritten or moves at a bad moment: what runs is what it says in the end."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.rig import eventually
from tests.faults.plane import MODEL, FaultPlane
from tests.faults.stories import NAMES, Properties, Story
from tidegate.core.release import ReleaseRecord
from tidegate.core.release_file import set_release
from tidegate.packaging import record_text

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
SEED = 20260103
STORIES = pytest.mark.parametrize("story", NAMES)
CANARY = "envs/canary/release.yaml"
AWAY = float(os.environ.get("FAULT_AWAY", "6"))  # seconds that origin is gone


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultPlane]:
    with FaultPlane(tmp_path_factory.mktemp("git")).running() as plane:
        yield plane


@pytest.fixture
def plane(started: FaultPlane) -> FaultPlane:
    """The plane at rest."""
    started.rest()
    return started


@STORIES
def test_an_origin_that_is_away(plane: FaultPlane, properties: Properties, story: str, run: int) -> None:
    """Gone in mid-rollout: traffic leaves a bad release all the same, and Git is told when it is back."""
    told = Story(plane, story, "origin unreachable")
    told.begin()
    time.sleep(random.Random(f"{SEED} {story} {run}").uniform(0.3, 2.5))
    away = plane.origin.with_name("away.git")
    plane.origin.rename(away)
    try:
        time.sleep(AWAY)
        if story == "rollback":
            assert plane.onlooker.share(told.new.id) == 0, "it has left without Git"
    finally:
        away.rename(plane.origin)
    told.watch.over()
    told.outcome(properties)


def test_an_origin_that_is_set_back(plane: FaultPlane, properties: Properties, run: int) -> None:
    """The branch is set back to before a promotion: the candidate is dropped."""
    new = plane.made.fresh()
    watch = plane.watch("origin rewound", new)
    before = plane.push({}, "Before")
    plane.canary(new)
    eventually(lambda: plane.onlooker.share(new.id), "it is tried")
    plane.bare("update-ref", "refs/heads/main", before)
    watch.over()
    watch.converge(lambda: plane.weights() == {plane.stable.id: 100}, "it is dropped")
    assert plane.rejection(new.id) == {}, "it failed nothing"
    watch.outcome(properties)


def test_an_origin_whose_history_is_rewritten(plane: FaultPlane, properties: Properties, run: int) -> None:
    """Another history is pushed over main and the old one is pruned: what it names is what runs."""
    first, second = plane.made.fresh(), plane.made.fresh()
    watch = plane.watch("origin force-pushed", first, second)
    plane.canary(first)
    eventually(lambda: plane.onlooker.share(first.id), "it is tried")
    files = asked(plane, second)
    plane.git("checkout", "--quiet", "--orphan", "rewritten")
    for name, text in files.items():
        (plane.clone / name).write_text(text)
    plane.git("add", "--all")
    plane.git("commit", "--quiet", "-m", "Rewrite history")
    plane.git("push", "--quiet", "--force", "origin", "HEAD:main")
    plane.bare("reflog", "expire", "--expire=now", "--all")
    plane.bare("gc", "--quiet", "--prune=now")
    watch.over()
    watch.converge(plane.tried(second), "what the new history names is tried")
    plane.git("checkout", "--quiet", "-B", "main")
    watch.outcome(properties)


def asked(plane: FaultPlane, record: ReleaseRecord) -> dict[str, str]:
    """Return the files of a promotion to canary."""
    return {
        f"envs/releases/{MODEL}/{record.id}.yaml": record_text(record),
        CANARY: set_release(plane.says(CANARY), MODEL, record.id),
    }


# ---------------------------------------------------------------- at the moment of the revert
@pytest.mark.parametrize("whose", ["elsewhere", "same line"])
def test_a_commit_at_the_moment_of_the_revert(
    plane: FaultPlane, properties: Properties, whose: str, run: int
) -> None:
    """Somebody pushes while the agent's revert is on its way: it is written on top of that, once."""
    bad, next_one = plane.made.fresh("dead"), plane.made.fresh()
    watch = plane.watch(f"conflicting commit at the revert ({whose})", bad, next_one)
    watch.blamed = [bad.id]
    plane.canary(bad)
    with Held(plane) as held:
        eventually(held.arrived, "the revert is on its way")
        # The agent's push waits in a hook; main moves under it, without a hook.
        files = asked(plane, next_one) if whose == "same line" else {"envs/note.md": "Meanwhile\n"}
        held.slip_in(files)
    watch.over()
    done = plane.tried(next_one) if whose == "same line" else plane.left(bad)
    watch.converge(lambda: bool(plane.rejection(bad.id)) and done(), "both are heeded")
    assert plane.says("envs/note.md") or whose == "same line"
    watch.outcome(properties)


class Held:
    """A pre-receive hook on origin that keeps the agent's next push until told."""

    def __init__(self, plane: FaultPlane) -> None:
        self.plane = plane
        self.mark, self.go = plane.origin / "held", plane.origin / "go"
        self.hook = plane.origin / "hooks" / "pre-receive"

    def __enter__(self) -> Held:
        self.hook.parent.mkdir(exist_ok=True)
        self.hook.write_text(
            f"#!/bin/sh\ngrep -q refs/heads/main || exit 0\ntouch '{self.mark}'\n"
            f"n=0; while [ ! -e '{self.go}' ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n+1)); done\n"
        )
        self.hook.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.unlink()
        self.go.touch()
        time.sleep(0.2)  # the hook looks at it each 0.05 s
        self.mark.unlink(missing_ok=True)
        self.go.unlink()

    def arrived(self) -> bool:
        return self.mark.exists()

    def slip_in(self, files: dict[str, str]) -> None:
        """Commit on main as a person does, past the hook."""
        self.plane.git("fetch", "--quiet", "origin")
        self.plane.git("reset", "--quiet", "--hard", "origin/main")
        for name, text in files.items():
            (self.plane.clone / name).parent.mkdir(parents=True, exist_ok=True)
            (self.plane.clone / name).write_text(text)
        self.plane.git("add", "--all")
        self.plane.git("commit", "--quiet", "-m", "Meanwhile")
        self.plane.bare("fetch", "--quiet", str(self.plane.clone), "+HEAD:refs/heads/main")


def test_a_rollback_while_a_promotion_is_merged(plane: FaultPlane, properties: Properties, run: int) -> None:
    """A bad canary is promoted to production while it is being rolled back: it gets there nowhere."""
    bad = plane.made.fresh("dead")
    watch = plane.watch("rollback while its promotion is merged", bad, blamed=True)
    plane.canary(bad)
    eventually(lambda: plane.onlooker.share(bad.id), "it is tried")
    time.sleep(random.Random(f"{SEED} {run}").uniform(0.0, 0.5))
    plane.promote(bad, "production")
    watch.over()
    watch.converge(plane.left(bad), "it has left, and Git says so everywhere")
    watch.outcome(properties)


# ---------------------------------------------------------------- many at once
def test_twenty_promotions_racing(plane: FaultPlane, properties: Properties, run: int) -> None:
    """Twenty people merge another release each at once: the one that Git names last runs in the end."""
    records = [plane.made.fresh() for _ in range(20)]
    watch = plane.watch("20 promotions racing", *records)
    at_once, clones = threading.Barrier(5), itertools.count()

    def people(mine: list[ReleaseRecord]) -> None:
        clone = Clone(plane, plane.origin.with_name(f"person-{run}-{next(clones)}"))
        at_once.wait(30)
        for record in mine:
            clone.promote(record)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(people, [records[n::5] for n in range(5)]))
    watch.over()
    last = next(r for r in records if r.id == plane.wanted("canary"))
    watch.converge(plane.tried(last), "the last one is tried")
    eventually(lambda: sum(bool(plane.replicas(r.id)) for r in records) == 1, "all others have stopped", 40)
    watch.outcome(properties)


class Clone:
    """A person's clone."""

    def __init__(self, plane: FaultPlane, folder: Path) -> None:
        self.plane, self.folder = plane, folder
        self._git("clone", "--quiet", "--shared", str(plane.origin), str(folder), at=plane.origin)

    def _git(self, *words: str, at: Path | None = None) -> bool:
        command = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *words]
        done = subprocess.run(command, cwd=at or self.folder, capture_output=True, timeout=60)
        return done.returncode == 0

    def promote(self, record: ReleaseRecord) -> None:
        """Commit and push until it is taken."""
        for _ in range(100):
            self._git("fetch", "--quiet", "origin")
            self._git("reset", "--quiet", "--hard", "origin/main")
            text = set_release((self.folder / CANARY).read_text(), MODEL, record.id)
            (self.folder / CANARY).write_text(text)
            releases = self.folder / "envs" / "releases" / MODEL
            releases.mkdir(parents=True, exist_ok=True)
            (releases / f"{record.id}.yaml").write_text(record_text(record))
            self._git("add", "--all")
            self._git("commit", "--quiet", "-m", f"Promote {record.id}")
            if self._git("push", "--quiet", "origin", "HEAD:main"):
                return
        raise AssertionError(f"{record.id} never got in")
