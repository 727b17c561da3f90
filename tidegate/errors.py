"""Every error that Tidegate raises on purpose.

    TidegateError                 printed as one line, exit code 1; never a traceback
    ├── Fatal                     trying again changes nothing: a person must act
    │   ├── ConfigError           a file says something that can't be meant (file and line named)
    │   ├── ReleaseNotFound       Git names a release that is not on this machine
    │   ├── Refused               a rule of the toolkit says no (rejected release, own approval, ...)
    │   ├── PlatformError         something this machine needs is missing, taken or broken
    │   └── LeaseLost             another agent holds this plane; this one must stop writing
    └── Retryable                 the same call may succeed later
        ├── Unreachable           a remote, a socket or a server did not answer
        ├── Conflict              somebody else wrote first; read again, then decide again
        └── NoData                the question was answered, and there is nothing to count

Adapters translate foreign exceptions into the most specific of these. Each carries `action`, what to
do next; `str()` ends with it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TidegateError(Exception):
    """Base of the tree: a message for a person and the next action."""

    def __init__(self, message: str, action: str = "") -> None:
        self.message = message
        self.action = action
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.action}" if self.action else self.message


class Fatal(TidegateError):
    """Trying again changes nothing."""


class ConfigError(Fatal):
    """A file says something that cannot be meant; `where` is `path` or `path:line`."""

    def __init__(self, message: str, action: str = "", *, where: str = "") -> None:
        self.where = where
        super().__init__(f"{where}: {message}" if where else message, action)


class ReleaseNotFound(Fatal):
    """A release is named whose record or Bento is not here."""


class Refused(Fatal):
    """A rule of the toolkit forbids it."""


class PlatformError(Fatal):
    """The machine lacks something, or something on it is broken or taken."""


class LeaseLost(Fatal):
    """Another agent holds the plane's lease."""


class Retryable(TidegateError):
    """The same call may succeed later."""


class Unreachable(Retryable):
    """No answer from a remote, a socket or a server."""


class Conflict(Retryable):
    """Somebody else wrote first."""


class NoData(Retryable):
    """Answered, and there is nothing to count."""


def suggest(name: str, known: Iterable[str], otherwise: str = "Known: {}.") -> str:
    """Return the next action for a name that is none of `known`: the closest one, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean `{close[0]}`?" if close else otherwise.format(", ".join(names) or "none")
