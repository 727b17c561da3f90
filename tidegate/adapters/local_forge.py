"""Pull requests inside a bare repository's own folder: JSON files, a lock, and refs/pull/<n>/head."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tidegate import plumbing
from tidegate.config import parse_release_file
from tidegate.errors import ConfigError, Conflict, PlatformError, Refused
from tidegate.files import write_atomic
from tidegate.ports import Pull

FOLDER = "tidegate"  # inside the bare repository
FOLLOW = "TIDEGATE_FOLLOW"  # "0": the hook starts its runs and returns at once


class LocalForge:
    """The port `Forge` over a bare repository made by `tidegate forge init` (or any other)."""

    def __init__(self, path: Path, base: str = "main") -> None:
        if not (path / "objects").is_dir():
            raise ConfigError(
                f"{path} is not a bare repository",
                "Make one: `tidegate forge init DIR`; or set forge.adapter: github in envs/platform.yaml.",
            )
        self.path = path.absolute()
        self.base = base
        self._pulls = self.path / FOLDER / "pulls"

    def open(self, branch: str, title: str, body: str, author: str) -> Pull:
        """Open a pull request of a pushed branch, or update the open one. Raises Conflict if not pushed.

        Older open promotions of the same model to the same environment are closed.
        """
        head = self._head(branch)
        if head is None:
            raise Conflict(f"branch {branch} is not on the forge", "Push it, then open the pull request.")
        with self._lock():
            found = next((p for p in self._read_all() if p.branch == branch and p.state == "open"), None)
            if found:
                pull = replace(found, title=title, body=body, head=head)
            else:
                number = max((p.number for p in self._read_all()), default=0) + 1
                url = f"{self.path.as_uri()}#pull-{number}"
                pull = Pull(number, branch, title, body, author, "open", head, url)
            self._write(pull)
            for older in [self._current(p) for p in self._read_all() if pull.supersedes(p)]:
                self._write(replace(older, state="closed", reason=f"superseded by {pull.number}"))
                self._drop_branch(older)
        return pull

    def list(self) -> Sequence[Pull]:
        """Return all pull requests, newest first; an open one's head is its branch as pushed last."""
        return [self._current(pull) for pull in reversed(self._read_all())]

    def comment(self, number: int, marker: str, body: str) -> None:
        """Write a comment, or replace the one that carries the same marker."""
        with self._lock():
            document = self._document(number)
            document.setdefault("comments", {})[marker] = body
            self._store(number, document)

    def comments(self, number: int) -> dict[str, str]:
        """Return a pull request's comments, marker → text."""
        return dict(self._document(number).get("comments", {}))

    def merge(self, number: int, approver: str, reason: str) -> str:
        """Merge by a commit of two parents, pushed as any other so that the hook runs, and return it.

        Does not wait for the runs that it starts. Raises Refused, or Conflict when main or the branch moved.
        """
        with self._lock():
            pull = self._current(self._pull(number))
            self._check(pull, approver, reason)
            main = self._head(self.base)
            if main is None:
                raise Conflict(f"there is no branch {self.base} yet", f"Push {self.base} first.")
            self._refuse_rejected(main, pull.head)
            merged = self._push_merge(pull, main, approver, reason)
            self._write(replace(pull, state="merged", merged_by=approver, reason=reason))
            self._drop_branch(pull)
        return merged

    # ------------------------------------------------------------ rules
    def _check(self, pull: Pull, approver: str, reason: str) -> None:
        if pull.state != "open":
            why = f": {pull.reason}" if pull.reason else ""
            state = f"pull request {pull.number} is {pull.state}{why}"
            raise Refused(state, "Promote again to open a new one.")
        if _mail(approver) == _mail(pull.author):
            raise Refused(
                f"{approver} opened pull request {pull.number} and can't approve it",
                "Let somebody else merge it: `tidegate pr merge N --as 'Name <mail>' --reason TEXT`.",
            )
        if not reason.strip() or not approver.strip():
            raise Refused("a merge needs an approver and a reason", "Give both: --as NAME --reason TEXT.")

    def _refuse_rejected(self, main: str, head: str) -> None:
        """Refuse a head that sets a release which main has rejected."""
        changed = plumbing.git(self.path, "diff", "--name-only", f"{main}...{head}", "--", "envs/").split(
            "\n"
        )
        for path in changed:
            if not path.endswith("/release.yaml"):
                continue
            old = parse_release_file(plumbing.read(self.path, main, path) or "", path)
            new = parse_release_file(plumbing.read(self.path, head, path) or "", path)
            for model, release in new.items():
                file = f"envs/releases/{model}/{release}.rejected.yaml"
                if old.get(model) != release and plumbing.resolve(self.path, f"{main}:{file}"):
                    raise Refused(
                        f"release {release} of {model} was rejected (see {file})",
                        "Promote another release, or delete that file by a reviewed change to try it again.",
                    )

    def _push_merge(self, pull: Pull, main: str, approver: str, reason: str) -> str:
        title = f"Merge pull request {pull.number}: {pull.title}"
        text = f"{title}\n\n{_one_line(reason)}\n\nTidegate-Pull: {pull.number}\n"
        text += f"Tidegate-Author: {_one_line(pull.author)}\nTidegate-Approved-By: {_one_line(approver)}\n"
        text += f"Tidegate-Reason: {_one_line(reason)}\n"
        with tempfile.TemporaryDirectory(prefix="tidegate-merge-") as name:
            folder = Path(name)
            plumbing.git(folder, "init", "--quiet", "--bare", ".")
            (folder / "objects" / "info" / "alternates").write_text(f"{self.path / 'objects'}\n")
            try:
                merged = plumbing.git(folder, "merge-tree", "--write-tree", main, pull.head).split("\n")[0]
            except PlatformError as error:
                if "CONFLICT" not in str(error):  # git is too old, an object is missing, the disk is full
                    raise
                raise Conflict(
                    f"pull request {pull.number} does not merge with {self.base}",
                    "Promote again: the branch is made anew from main.",
                ) from error
            commit = plumbing.commit(folder, merged, (main, pull.head), text, approver)
            target = f"{commit}:refs/heads/{self.base}"
            plumbing.git(folder, "push", "--quiet", str(self.path), target, env={FOLLOW: "0"})
        return commit

    def _drop_branch(self, pull: Pull) -> None:
        # refs/pull keeps the commits; a branch left behind would stand in the next promotion's way.
        with contextlib.suppress(Conflict):
            plumbing.git(self.path, "update-ref", "-d", f"refs/heads/{pull.branch}", pull.head)

    # ------------------------------------------------------------ storage
    def _head(self, branch: str) -> str | None:
        return plumbing.resolve(self.path, f"refs/heads/{branch}")

    def _current(self, pull: Pull) -> Pull:
        head = self._head(pull.branch) if pull.state == "open" else None
        return replace(pull, head=head) if head else pull

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self._pulls.mkdir(parents=True, exist_ok=True)
        with (self._pulls / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _document(self, number: int) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads((self._pulls / f"{number}.json").read_text())
        except FileNotFoundError as error:
            raise Refused(f"there is no pull request {number}", "See `tidegate pr list`.") from error
        return document

    def _pull(self, number: int) -> Pull:
        return Pull(**self._document(number)["pull"])

    def _read_all(self) -> Sequence[Pull]:
        numbers = sorted(int(p.stem) for p in self._pulls.glob("*.json") if p.stem.isdigit())
        return [self._pull(number) for number in numbers]

    def _write(self, pull: Pull) -> None:
        known = self._pulls / f"{pull.number}.json"
        document = self._document(pull.number) if known.exists() else {}
        self._store(pull.number, {**document, "pull": asdict(pull)})
        plumbing.git(self.path, "update-ref", f"refs/pull/{pull.number}/head", pull.head)

    def _store(self, number: int, document: dict[str, Any]) -> None:
        write_atomic(self._pulls / f"{number}.json", json.dumps(document, indent=1))


def _mail(who: str) -> str:
    """Return what identifies a person: the mail address if there is one."""
    return who.rpartition("<")[2].rstrip("> ").strip().casefold()


def _one_line(text: str) -> str:
    """Join lines: a line break in a trailer would forge another trailer."""
    return " ".join(text.split())


HOOK = """#!/bin/sh
# Written by `tidegate forge init`. Runs the workflows of pushed branches through act.
pushed=$(grep ' refs/heads/')
[ -n "$pushed" ] || exit 0                             # status documents and the like start nothing
[ "${TIDEGATE_RUN:-}" = {path} ] && exit 0            # a run never triggers runs of its own forge
unset $(git rev-parse --local-env-vars)
echo "tidegate: received"
printf '%s\\n' "$pushed" | {tidegate} forge receive {path} || echo "tidegate: the workflows were not started"
exit 0
"""


def init(path: Path, tidegate: Path) -> None:
    """Make a bare repository whose hook calls `tidegate forge receive`; safe to repeat."""
    path = path.absolute()
    if not (path / "objects").is_dir():
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise Refused(f"{path} is not empty and not a bare repository", "Name a new folder.")
        plumbing.git(path, "init", "--quiet", "--bare", "--initial-branch=main", ".")
    # The reflog keeps what a forced push would lose; a merge's commits live in refs/pull.
    plumbing.git(path, "config", "core.logAllRefUpdates", "true")
    plumbing.git(path, "config", "receive.denyDeletes", "false")
    hook = path / "hooks" / "post-receive"
    text = HOOK.replace("{path}", _quote(path)).replace("{tidegate}", _quote(tidegate))
    write_atomic(hook, text)
    os.chmod(hook, 0o755)  # noqa: S103 - a hook must be executable


def _quote(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"
