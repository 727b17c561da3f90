"""Git by its command-line program: the agent's mirror of one branch, and what commands read.

`command` runs git, `repository` is the port's adapter, `reading` answers questions about a checkout.
"""

from __future__ import annotations

from tidegate.adapters.git.reading import log_releases, probe, read_published, refresh, remote_url
from tidegate.adapters.git.repository import GitRepository

__all__ = ["GitRepository", "log_releases", "probe", "read_published", "refresh", "remote_url"]
