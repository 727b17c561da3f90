"""One git command: isolated from the caller's repository, bounded in time, never asking anybody.

The user's configuration is read only for reaching a remote (credentials, proxies, certificates);
what decides a commit's content (identity, hooks, signing, tags) is set here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tidegate import plumbing
from tidegate.errors import PlatformError

LOCAL_TIMEOUT = 30.0  # seconds, for a command that stays on this machine
ASK_TIMEOUT = 15.0  # for a question to a remote
REMOTE_TIMEOUT = 60.0  # for a fetch or a push
_KEPT = re.compile(r"GIT_(SSH|SSL|HTTP|PROXY|ASKPASS)")  # how to reach a remote, and nothing else
_SETTINGS = (
    "core.hooksPath=/dev/null",  # a person's pre-push hook is not the agent's
    "core.quotePath=false",
    "gc.autoDetach=false",  # nothing goes on after the command that started it
    "maintenance.autoDetach=false",
    "i18n.commitEncoding=utf-8",
    "i18n.logOutputEncoding=utf-8",
    "push.followTags=false",
    "push.gpgSign=false",
    "log.showSignature=false",
    "core.fsync=committed",
)


class GitFailed(Exception):
    """A command's own failure, before it is known what it means; never leaves this adapter."""

    def __init__(self, arguments: Sequence[str], code: int | None, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.command = arguments[0] if arguments else ""
        super().__init__(self.text)

    @property
    def text(self) -> str:
        """The line of git's output that says most, for a person."""
        if self.code is None:
            return f"git {self.command} did not end in time"
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        named = [line for line in lines if line.startswith(("fatal:", "error:", "remote: error"))]
        return (named or lines or [f"git {self.command} ended with {self.code}"])[0]


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what a hook or a person set for another repository."""
    kept = {key: value for key, value in os.environ.items() if _KEPT.match(key)}
    return plumbing.environment({**kept, **extra})


def _scratch() -> IO[bytes]:
    """Where a command's output goes: memory, so that a full disk can't hide what git says."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("git"), "w+b")
    return tempfile.TemporaryFile()


def git(
    *arguments: str,
    folder: Path | None = None,
    data: str | bytes = b"",
    timeout: float = LOCAL_TIMEOUT,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Run git (`folder`: its `-C`) and return its output; raises GitFailed, PlatformError without git.

    Output goes to files, not pipes: a process that a remote's hook leaves behind would hold a pipe
    open, and the caller would wait for it.
    """
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    command = ["git", *settings, *(["-C", str(folder)] if folder else []), *arguments]
    with _scratch() as out, _scratch() as err, _scratch() as given:
        given.write(data.encode() if isinstance(data, str) else data)
        given.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=given,
                stdout=out,
                stderr=err,
                env=_environment(environment or {}),
                start_new_session=True,
            )
        except OSError as error:
            raise PlatformError(f"git can't be run: {error}", "Install git 2.38 or newer.") from error
        code = _wait(process, timeout)
        out.seek(0)
        err.seek(0)
        said = out.read()
        if code != 0:
            told = err.read().decode(errors="replace")
            raise GitFailed(arguments, code, said.decode(errors="replace"), told)
        return said


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """Return the exit code, or None after killing a command that took too long."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def line(
    *arguments: str,
    folder: Path | None = None,
    data: str | bytes = b"",
    timeout: float = LOCAL_TIMEOUT,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run git and return its output as stripped text."""
    said = git(*arguments, folder=folder, data=data, timeout=timeout, environment=environment)
    return said.decode(errors="replace").strip()
