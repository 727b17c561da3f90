"""The agent's view of one branch of a remote, on a shallow bare mirror.

A local folder is never trusted: a mirror that git can't use is thrown away and made again.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tidegate.adapters.git.command import ASK_TIMEOUT, REMOTE_TIMEOUT, GitFailed, git, line
from tidegate.documents import MAX_BYTES
from tidegate.errors import ConfigError, Conflict, PlatformError, Refused, TidegateError, Unreachable
from tidegate.ports import Change

DOCUMENT = "status.json"
T = TypeVar("T")
_HEAD = "refs/tidegate/head"  # keeps what was fetched from being pruned
_MOVED = re.compile(r"stale info|fetch first|non-fast-forward|cannot lock ref|incorrect old value")
_DECLINED = re.compile(r"\[remote rejected\].*\((.*(?:declined|protected|prohibited|denied).*)\)")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")
_NO_OBJECT = "0" * 40


def message(change: Change) -> str:
    """Return a commit's message: subject, body, and trailers as the last paragraph, a line each."""
    trailers = "\n".join(f"{key}: {' '.join(value.split())}" for key, value in change.trailers.items())
    parts = [" ".join(change.subject.split()), change.body.strip(), trailers]
    return "\n\n".join(part for part in parts if part).replace("\0", "") + "\n"


class GitRepository:
    """`ports.Repository` of `branch` at `url`; one process at a time uses `folder`, by any threads."""

    def __init__(
        self,
        url: str,
        branch: str,
        folder: Path,
        *,
        committer: tuple[str, str] = ("tidegate agent", "agent@tidegate.invalid"),
    ) -> None:
        self._url = url
        self._branch = f"refs/heads/{branch}"
        self._folder = folder
        name, email = committer
        self._identity = {
            "GIT_AUTHOR_NAME": name,
            "GIT_AUTHOR_EMAIL": email,
            "GIT_COMMITTER_NAME": name,
            "GIT_COMMITTER_EMAIL": email,
        }
        self._head = ""  # the newest commit that is known to be whole in the mirror
        self._read: tuple[str, dict[str, str]] = ("", {})
        self._published: dict[str, str] = {}
        # One call at a time: no thread loses the mirror to another's repair, nor learns an older commit
        # after a newer one.
        self._lock = threading.RLock()

    # ------------------------------------------------------------ reading
    def fetch(self) -> str:
        """Return the newest commit; asks the remote for one name, and fetches only when it moved."""
        with self._lock:
            commit = self._ask()
            if commit != self._head:
                if not self._has(commit):
                    self._download(commit)
                self._head = commit
            return commit

    def _ask(self) -> str:
        try:
            found = line("ls-remote", "--", self._url, self._branch, timeout=ASK_TIMEOUT)
        except GitFailed as failure:
            raise self._unreachable(failure) from failure
        if not found:
            name = self._branch.removeprefix("refs/heads/")
            raise Unreachable(f"{self._url} has no branch {name}", f"Push it: git push origin {name}.")
        return found.split()[0]

    def files(self, commit: str) -> Mapping[str, str]:
        """Return path → text under envs/.

        Raises Conflict when the commit left the remote, ConfigError for what is no text or too large.
        """
        with self._lock:
            if self._read[0] != commit:
                self._read = (commit, self._on_whole(commit, lambda: self._read_files(commit)))
            return dict(self._read[1])

    def _read_files(self, commit: str) -> dict[str, str]:
        listing = git("ls-tree", "-r", "-z", "--long", commit, "--", "envs/", folder=self._folder).decode()
        rows = [row.split("\t", 1) for row in listing.split("\0") if row]
        wanted = [(path, *meta.split()[2:]) for meta, path in rows if meta.startswith("100")]
        for path, _, size in wanted:
            if int(size) > MAX_BYTES:
                raise ConfigError(f"is larger than {MAX_BYTES // 1024} KiB", "Split it.", where=path)
        names = "".join(f"{blob}\n" for _, blob, _ in wanted)
        data = git("cat-file", "--batch", folder=self._folder, data=names) if wanted else b""
        files, at = {}, 0
        for path, blob, size in wanted:
            start = data.find(b"\n", at) + 1
            if data[at : start - 1] != f"{blob} blob {size}".encode():
                raise GitFailed(["cat-file"], 1, "", f"object {blob} of {path} is missing")
            at = start + int(size) + 1
            try:
                files[path] = data[start : at - 1].decode()
            except UnicodeDecodeError as error:
                raise ConfigError("is not UTF-8 text", "Save it as UTF-8.", where=path) from error
        return files

    # ------------------------------------------------------------ writing
    def commit(self, change: Change) -> str:
        """Commit and push in one step that fails when the branch is not at `parent` any more.

        Returns `parent` and pushes nothing when the files say all of it already. Raises Conflict;
        Unreachable (the push may have arrived: fetch to know); Refused when the remote's rules say no.
        """
        with self._lock:
            commit = self._on_whole(change.parent, lambda: self._write(change))
            if commit != change.parent:
                # With lease: a compare-and-swap, so that a branch set back on purpose stays set back.
                lease = f"--force-with-lease={self._branch}:{change.parent}"
                self._push(f"{commit}:{self._branch}", lease)
                self._head = commit
            return commit

    def publish(self, name: str, document: Mapping[str, Any]) -> None:
        """Push `document` as status.json of refs/tidegate/<name>; nothing if it is what was pushed last.

        The agent has one such name; who reads it uses `read_published`.
        """
        if not _NAME.fullmatch(name):
            raise Refused(f"`{name}` can't name a published document", "Use a-z, 0-9, - and /.")
        text = json.dumps(document, sort_keys=True, indent=1) + "\n"

        def write() -> str:
            blob = line("hash-object", "-w", "--stdin", folder=self._folder, data=text)
            tree = line("mktree", folder=self._folder, data=f"100644 blob {blob}\t{DOCUMENT}\n")
            return self._commit_tree(tree, f"Publish {name}\n")

        with self._lock:
            if self._published.get(name) != text:
                self._push(f"+{self._healed(write)}:refs/tidegate/{name}")
                self._published[name] = text

    def _write(self, change: Change) -> str:
        """Write a change's commit into the mirror; its parent when nothing differs."""
        rows = []
        for path, text in change.files.items():
            blob = _NO_OBJECT
            if text is not None:
                blob = line("hash-object", "-w", "--stdin", folder=self._folder, data=text)
            rows.append(f"{'0' if text is None else '100644'} {blob}\t{path}\0")
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="index-") as room:
            own = {"GIT_INDEX_FILE": str(Path(room) / "index")}  # nobody else's index is touched
            git("read-tree", change.parent, folder=self._folder, environment=own)
            git(
                *("update-index", "-z", "--index-info"),
                folder=self._folder,
                data="".join(rows),
                environment=own,
            )
            tree = line("write-tree", folder=self._folder, environment=own)
        if tree == line("rev-parse", f"{change.parent}^{{tree}}", folder=self._folder):
            return change.parent
        return self._commit_tree(tree, message(change), "-p", change.parent)

    def _commit_tree(self, tree: str, text: str, *parents: str) -> str:
        return line(
            *("commit-tree", tree, *parents, "-F", "-"),
            folder=self._folder,
            data=text,
            environment=self._identity,
        )

    def _push(self, spec: str, *options: str) -> None:
        always = ("--porcelain", "--no-verify", "--no-follow-tags")
        try:
            # The local forge's hook runs workflows and shows them to a person; the agent must not wait.
            git(
                *("push", *always, *options, "--", self._url, spec),
                folder=self._folder,
                timeout=REMOTE_TIMEOUT,
                environment={"TIDEGATE_FOLLOW": "0"},
            )
        except GitFailed as failure:
            said = failure.out + failure.err
            declined = _DECLINED.search(said)
            if _MOVED.search(said):
                raise Conflict(f"{self._url} moved while writing", "Fetch, then decide again.") from failure
            if declined:
                raise Refused(
                    f"{self._url} does not take the push: {declined[1]}", "Open a pull request instead."
                ) from failure
            raise self._unreachable(failure) from failure

    # ------------------------------------------------------------ the mirror
    def _has(self, commit: str) -> bool:
        """Whether the mirror holds the commit and everything in its tree."""
        if not (self._folder / "HEAD").is_file():
            return False
        try:
            git("rev-list", "--objects", "--quiet", "--max-count=1", commit, "--", folder=self._folder)
        except GitFailed:
            return False
        return True

    def _download(self, commit: str) -> None:
        """Fetch the branch's tip; a mirror in which that fails is made again, once."""
        try:
            self._fetch_tip()
            if self._has(commit):
                return
        except GitFailed as failure:
            if failure.code is None:
                raise self._unreachable(failure) from failure
        self._remake()

    def _remake(self) -> None:
        self._head = ""
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            self._fetch_tip()
        except GitFailed as failure:
            raise self._unreachable(failure) from failure

    def _fetch_tip(self) -> None:
        if not (self._folder / "HEAD").is_file():
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PlatformError(f"cannot write {self._folder}: {error}", "Make it writable.") from error
            git("init", "--quiet", "--bare", "--template=", str(self._folder))
        # Depth 1: the agent needs the tip's files and a parent for its own commits, never the history.
        options = ("--quiet", "--no-tags", "--depth=1", "--no-write-fetch-head", "--no-recurse-submodules")
        spec = f"+{self._branch}:{_HEAD}"
        git("fetch", *options, "--", self._url, spec, folder=self._folder, timeout=REMOTE_TIMEOUT)

    def _on_whole(self, commit: str, action: Callable[[], T]) -> T:
        """Do what needs a commit; Conflict when neither mirror nor remote has it."""

        def guarded() -> T:
            if commit != self._head and not self._has(commit) and self.fetch() != commit:
                gone = f"{self._url} is not at {commit[:12]} any more"
                raise Conflict(gone, "Fetch, then decide again.")
            return action()

        return self._healed(guarded)

    def _healed(self, action: Callable[[], T]) -> T:
        """Do what needs the mirror; where git fails, make the mirror again and try once more."""
        try:
            return action()
        except (GitFailed, FileNotFoundError):
            self._remake()
        try:
            return action()
        except (GitFailed, OSError) as failure:
            raise self._broken(str(failure)) from failure

    # ------------------------------------------------------------ failures
    def _unreachable(self, failure: GitFailed) -> TidegateError:
        if "No space left" in failure.err or "Disk quota" in failure.err:
            return self._broken(failure.text)
        return Unreachable(f"{self._url}: {failure.text}", "Check the remote; it is tried again.")

    def _broken(self, text: str) -> TidegateError:
        self._head = ""
        return PlatformError(f"git cannot use {self._folder}: {text}", "Make room, or delete that folder.")
