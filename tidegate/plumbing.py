"""Git as a command: one runner that says what failed, and keeps a caller's git environment out."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tidegate.errors import Conflict, PlatformError, Refused, TidegateError, Unreachable

ZERO = "0" * 40
TIMEOUT = 120.0  # seconds: a remote that says nothing for so long is not there
_CONFLICT = ("non-fast-forward", "stale info", "[rejected]", "fetch first", "cannot lock ref")
# A rule of the remote, e.g. GitHub's for protected branches; asking again changes nothing.
_DECLINED = re.compile(r"\[remote rejected\].*\((.*(?:declined|protected|prohibited|denied).*)\)")
_UNREACHABLE = (
    "Could not read from remote",
    "unable to access",
    "Could not resolve",
    "Connection",
    "timed out",
)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without GIT_* (a hook's would point git elsewhere)."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return {**kept, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8", **_credentials(kept), **(extra or {})}


def _credentials(known: Mapping[str, str]) -> dict[str, str]:
    """Return what lets git push in a GitHub job: the token as a header, in memory and never in a file."""
    token, server = known.get("GITHUB_TOKEN"), known.get("GITHUB_SERVER_URL")
    if not token or not server:
        return {}
    basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{server}/.extraheader",
        "GIT_CONFIG_VALUE_0": f"AUTHORIZATION: basic {basic}",
    }


def git(
    folder: Path,
    *arguments: str,
    text: str | None = None,
    env: Mapping[str, str] | None = None,
    keep_newline: bool = False,
    timeout: float = TIMEOUT,
) -> str:
    """Run git in a folder and return what it printed, without the last newline unless it is kept.

    Raises Conflict when a ref moved, Refused when the remote's rules say no, Unreachable when the remote did
    not answer within `timeout` seconds or at all, PlatformError else.
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            input=text,
            env=environment(env),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise Unreachable(
            f"git {arguments[0]}: no end after {timeout:g} s",
            "Check the remote's address and the network, then repeat.",
        ) from error
    except FileNotFoundError as error:
        missing = "git" if folder.is_dir() else str(folder)
        raise PlatformError(f"{missing} is not there", "Run `tidegate doctor`.") from error
    if done.returncode == 0:
        return done.stdout if keep_newline else done.stdout.removesuffix("\n")
    raise _translate(arguments, done.stderr.strip() or done.stdout.strip())


def _translate(arguments: tuple[str, ...], said: str) -> TidegateError:
    first = f"git {arguments[0]}: {said.splitlines()[-1] if said else 'failed'}"
    declined = _DECLINED.search(said)
    if declined:
        return Refused(
            f"git {arguments[0]}: the remote does not take it: {declined[1]}",
            "Open a pull request, or give the account the right to push (README, On GitHub).",
        )
    if any(mark in said for mark in (*_CONFLICT, "[remote rejected]")):
        return Conflict(first, "Fetch, look again, and repeat.")
    if any(mark in said for mark in _UNREACHABLE):
        return Unreachable(first, "Check the remote's address and the network, then repeat.")
    return PlatformError(f"git {' '.join(arguments[:3])}: {said or 'failed'}", "Run it by hand to see more.")


def resolve(folder: Path, name: str) -> str | None:
    """Return the object that a ref or revision names, or None."""
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", name if ":" in name else f"{name}^{{object}}"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() if done.returncode == 0 else None


def is_ancestor(folder: Path, older: str, newer: str) -> bool:
    """Tell whether `newer` is `older` or a commit made on top of it."""
    return not git(folder, "rev-list", "--max-count=1", older, f"^{newer}")


def tree(folder: Path, base: str, files: Mapping[str, str | None]) -> str:
    """Return the tree of `base` with files replaced (None removes one); index and working tree stay."""
    index = folder_index(folder)
    env = {"GIT_INDEX_FILE": str(index)}
    try:
        git(folder, "read-tree", base, env=env)
        for path, content in files.items():
            if content is None:
                git(folder, "update-index", "--force-remove", path, env=env)
                continue
            blob = git(folder, "hash-object", "-w", "--stdin", text=content)
            git(folder, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=env)
        return git(folder, "write-tree", env=env)
    finally:
        index.unlink(missing_ok=True)


def folder_index(folder: Path) -> Path:
    """Return a name for a temporary index of this process, in the repository's own folder."""
    base = Path(git(folder, "rev-parse", "--absolute-git-dir"))
    return base / f"tidegate-index-{os.getpid()}"


def commit(folder: Path, tree_id: str, parents: tuple[str, ...], message: str, who: str) -> str:
    """Write a commit object and return its id; `who` is `Name <mail>`."""
    name, _, mail = who.partition("<")
    identity = {}
    for role in ("AUTHOR", "COMMITTER"):
        identity[f"GIT_{role}_NAME"] = name.strip() or "unknown"
        identity[f"GIT_{role}_EMAIL"] = mail.rstrip("> ") or "unknown"
    flags = [flag for parent in parents for flag in ("-p", parent)]
    return git(folder, "commit-tree", tree_id, *flags, "-F", "-", text=message, env=identity)


def read(folder: Path, commit_id: str, path: str) -> str | None:
    """Return the text of a file at a commit, or None when there is none."""
    name = f"{commit_id}:{path}"
    if not resolve(folder, name):
        return None
    return git(folder, "cat-file", "blob", name, keep_newline=True)
