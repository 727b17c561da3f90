"""Retrying a rejected release: one reviewed change that forgives it and asks for it again, on real git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.builders import A, B, envs, release_yaml
from tidegate import promotion
from tidegate.core.promotion import Target
from tidegate.errors import Refused
from tidegate.ports import Pull

TARGET = Target("canary", "toy", B)
REJECTION = {"release": B, "environment": "canary", "at": "2026-11-22T08:00:00+00:00", "reason": "too slow"}


class Forge:
    """Notes what is opened."""

    def __init__(self) -> None:
        self.opened: list[Pull] = []

    def open(self, branch: str, title: str, body: str, author: str) -> Pull:
        """Keep it."""
        self.opened.append(Pull(1, branch, title, body, author, "open", "0" * 40))
        return self.opened[-1]


def git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    done = subprocess.run(["git", *who, *command], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def origin(tmp_path: Path) -> promotion.Origin:
    """A clone whose main has B in staging, A elsewhere, and a rejection of B."""
    remote, clone = tmp_path / "origin.git", tmp_path / "clone"
    git(tmp_path, "init", "--quiet", "--bare", "-b", "main", str(remote))
    git(tmp_path, "clone", "--quiet", str(remote), str(clone))
    git(clone, "checkout", "--quiet", "-B", "main")
    files = envs(A, A) | {"envs/staging/release.yaml": release_yaml({"toy": B})}
    files[TARGET.rejection] = yaml.safe_dump(REJECTION)
    for name, text in files.items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(text)
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "-m", "Start")
    git(clone, "push", "--quiet", "origin", "main")
    return promotion.Origin(clone)


def test_a_rejected_release_is_refused_unless_it_is_retried(origin: promotion.Origin) -> None:
    """A plain promotion of it never opens; a retry does, once asked for by name."""
    with pytest.raises(Refused, match="too slow"):
        promotion.promote(origin, Forge(), TARGET)  # type: ignore[arg-type]
    pull = promotion.promote(origin, Forge(), TARGET, again=True)  # type: ignore[arg-type]
    assert pull
    assert pull.branch == TARGET.branch


def test_a_retry_takes_the_rejection_away_and_changes_one_line(origin: promotion.Origin) -> None:
    """Its branch differs from main by the deleted rejection and the release's line, nothing else."""
    promotion.promote(origin, Forge(), TARGET, again=True)  # type: ignore[arg-type]
    changed = git(origin.checkout, "diff", "--name-status", "origin/main", f"origin/{TARGET.branch}")
    assert sorted(changed.split("\n")[:-1]) == [f"D\t{TARGET.rejection}", f"M\t{TARGET.path}"]
    assert origin.releases(f"origin/{TARGET.branch}")["canary"] == {"toy": B}


def test_a_retry_of_what_git_asks_for_already_takes_only_the_rejection(origin: promotion.Origin) -> None:
    """A person put the line back by hand, and the rejection still stands in its way: it goes."""
    path = origin.checkout / TARGET.path
    path.write_text(release_yaml({"toy": B}))
    git(origin.checkout, "commit", "--quiet", "--all", "-m", "By hand")
    git(origin.checkout, "push", "--quiet", "origin", "main")
    assert promotion.promote(origin, Forge(), TARGET, again=True)  # type: ignore[arg-type]
    changed = git(origin.checkout, "diff", "--name-status", "origin/main", f"origin/{TARGET.branch}")
    assert changed == f"D\t{TARGET.rejection}\n"


def test_the_release_that_was_rejected_last_is_found(origin: promotion.Origin) -> None:
    """By its time, of that environment only; a file that can't be read is none."""
    folder = origin.checkout / "envs/releases/toy"
    later = {**REJECTION, "release": A, "at": "2026-11-23T08:00:00+00:00"}
    (folder / f"{A}.rejected.yaml").write_text(yaml.safe_dump(later))
    (folder / f"{'0' * 12}.rejected.yaml").write_text("]")
    git(origin.checkout, "add", "--all")
    git(origin.checkout, "commit", "--quiet", "-m", "Reject another")
    git(origin.checkout, "push", "--quiet", "origin", "main")
    main = origin.look()
    assert origin.last_rejected(main, "canary", "toy") == A
    assert origin.last_rejected(main, "production", "toy") is None
