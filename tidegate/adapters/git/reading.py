"""What commands and workflows ask of a checkout: its remote, published documents, and its history."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tidegate.adapters.git.command import ASK_TIMEOUT, REMOTE_TIMEOUT, GitFailed, git, line
from tidegate.adapters.git.repository import DOCUMENT
from tidegate.config import parse_release_file
from tidegate.core.history import Revision
from tidegate.errors import ConfigError, PlatformError, Unreachable

# One commit of `git log`: fields end with 0x1f, commits with 0x1e; neither occurs in what people write.
_FIELDS = "%H%x1f%P%x1f%ct%x1f%an%x1f%s%x1f%(trailers:only=true,unfold=true)%x1f%x1e"


def remote_url(checkout: Path, remote: str) -> str:
    """Return where a checkout's remote is: a URL, or an absolute path for one on this machine."""
    try:
        url = line("remote", "get-url", remote, folder=checkout)
    except GitFailed as failure:
        raise ConfigError(
            f"{checkout} has no remote `{remote}`",
            f"Make a local forge (tidegate forge init DIR), or: git remote add {remote} URL.",
        ) from failure
    return _absolute(url, checkout)


def _absolute(url: str, checkout: Path) -> str:
    if url.startswith("file://"):
        return unquote(urlsplit(url).path)
    if "://" in url or ":" in url.split("/", 1)[0]:  # https://…, git@host:owner/name
        return url
    return str((checkout / Path(url).expanduser()).resolve())


def probe(url: str, branch: str) -> str:
    """Return a line that says where the remote's branch is; raises Unreachable."""
    try:
        found = line("ls-remote", "--", url, f"refs/heads/{branch}", timeout=ASK_TIMEOUT)
    except GitFailed as failure:
        raise Unreachable(f"{url}: {failure.text}", "Check the address and your access to it.") from failure
    if not found:
        raise Unreachable(f"{url} has no branch {branch}", f"Push it: git push origin {branch}.")
    return f"{url}, {branch} at {found[:8]}"


def read_published(where: str | Path, name: str, remote: str = "origin") -> dict[str, Any] | None:
    """Return the document published as `name`, or None when there is none.

    `where` is a remote's address, or a checkout whose `remote` is asked. Raises Unreachable when the
    remote does not answer, PlatformError when the document is not JSON.
    """
    here = Path(where)
    url = remote_url(here, remote) if (here / ".git").exists() else str(where)
    ref = f"refs/tidegate/{name}"
    try:
        found = line("ls-remote", "--", url, ref, timeout=ASK_TIMEOUT)
        if not found:
            return None
        with tempfile.TemporaryDirectory() as room:
            folder = Path(room)
            git("init", "--quiet", "--bare", "--template=", ".", folder=folder)
            git("fetch", "--quiet", "--depth=1", "--", url, ref, folder=folder, timeout=REMOTE_TIMEOUT)
            text = git("show", f"FETCH_HEAD:{DOCUMENT}", folder=folder)
    except GitFailed as failure:
        raise Unreachable(f"{url}: {failure.text}", "Check the remote, then try again.") from failure
    try:
        document = json.loads(text)
    except ValueError as error:
        raise PlatformError(
            f"{ref} is not JSON: {error}", "The next change of the plane heals it."
        ) from error
    if not isinstance(document, dict):
        raise PlatformError(f"{ref} is not a JSON object", "The next change of the plane heals it.")
    return document


def refresh(checkout: Path, remote: str, branch: str) -> None:
    """Update the checkout's remote-tracking branch, and nothing else of it; raises Unreachable."""
    spec = f"+refs/heads/{branch}:refs/remotes/{remote}/{branch}"
    options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-gc")
    try:
        git("fetch", *options, "--", remote, spec, folder=checkout, timeout=ASK_TIMEOUT)
    except GitFailed as failure:
        raise Unreachable(f"{remote}: {failure.text}", "What was fetched before is shown.") from failure


def log_releases(
    checkout: Path, environment: str, *, remote: str = "origin", branch: str = "main"
) -> list[Revision]:
    """Return the commits of the branch's first-parent line that changed the release.yaml, oldest first.

    Reads the remote-tracking branch, else the local one, else HEAD. Author and trailers of a merge are
    those of the merged commit, with the merge's own trailers over them. Raises PlatformError when
    `checkout` is no repository, ConfigError when the line is cut off (a shallow clone).
    """
    path = f"envs/{environment}/release.yaml"
    try:
        start = _branch_head(checkout, remote, branch)
        if line("rev-parse", "--is-shallow-repository", folder=checkout) == "true":
            raise ConfigError(f"{checkout} holds only the newest commits", "Run: git fetch --unshallow")
        said = git("log", "--first-parent", f"--format={_FIELDS}", start, "--", path, folder=checkout)
        commits = _parse(said)
        merged = {parents[1]: None for _, parents, *_ in commits if len(parents) > 1}
        origins = {}
        if merged:
            names = "".join(f"{commit}\n" for commit in merged)
            shown = git(
                "log", "--no-walk=unsorted", f"--format={_FIELDS}", "--stdin", folder=checkout, data=names
            )
            origins = {found[0]: found for found in _parse(shown)}
        texts = _texts(checkout, [commit for commit, *_ in commits], path)
    except GitFailed as failure:
        raise PlatformError(
            f"{checkout}: {failure.text}", "Run it in a clone of your repository."
        ) from failure
    revisions = []
    for (commit, parents, at, author, subject, trailers), text in zip(commits, texts, strict=True):
        origin = origins.get(parents[1]) if len(parents) > 1 else None
        if origin is not None:
            author, trailers = origin[3], {**origin[5], **trailers}
        author = trailers.get("Tidegate-Author", author)  # who asked for it, where a forge merged it
        revisions.append(_revision(commit, at, author, subject, trailers, text, path))
    return revisions[::-1]


_Commit = tuple[str, list[str], float, str, str, dict[str, str]]


def _parse(said: bytes) -> list[_Commit]:
    found: list[_Commit] = []
    # Not strip() nor splitlines(): Python takes both separators for white space.
    for record in said.decode(errors="replace").split("\x1e"):
        if record.strip("\n"):
            commit, parents, at, author, subject, trailers, _ = record.strip("\n").split("\x1f")
            pairs = [row.split(":", 1) for row in trailers.split("\n") if ":" in row]
            said_by = {key.strip(): value.strip() for key, value in pairs}
            found.append((commit, parents.split(), float(at), author, subject, said_by))
    return found


def _branch_head(checkout: Path, remote: str, branch: str) -> str:
    for name in (f"refs/remotes/{remote}/{branch}", f"refs/heads/{branch}"):
        try:
            return line("rev-parse", "--verify", "--quiet", name, folder=checkout)
        except GitFailed:
            continue
    return line("rev-parse", "--verify", "HEAD", folder=checkout)


def _texts(checkout: Path, commits: Iterable[str], path: str) -> list[str | None]:
    """Return the file at each commit; None where it is not there."""
    asked = "".join(f"{commit}:{path}\n" for commit in commits)
    if not asked:
        return []
    data = git("cat-file", "--batch", folder=checkout, data=asked)
    texts: list[str | None] = []
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        words = data[at:end].split()
        at = end + 1
        if words[-1] == b"missing":
            texts.append(None)
            continue
        size = int(words[-1])
        texts.append(data[at : at + size].decode(errors="replace"))
        at += size + 1
    return texts


def _revision(
    commit: str, at: float, author: str, subject: str, trailers: dict[str, str], text: str | None, path: str
) -> Revision:
    if text is None:  # deleted: the agent keeps what it has, as it does for a file that it can't read
        return Revision(commit, at, author, subject, trailers, None, f"{path}: is missing")
    try:
        return Revision(commit, at, author, subject, trailers, parse_release_file(text, path))
    except ConfigError as error:
        return Revision(commit, at, author, subject, trailers, None, str(error))
