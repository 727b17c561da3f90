"""Where the parts of one plane lie on this machine.

{home}/planes/<plane>/
  supervisord.conf      envoy and agent; workloads/*.conf are the started releases
  ports.json            where the plane answers, chosen once
  envoy/                bootstrap.json, and the xDS files that the router adapter writes
  logs/                 one rotated file a program
  podman/, docker/      the started releases where containers serve them; their engine keeps their logs
{home}/targets/<plane>.json is what Prometheus is told of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tidegate import config

# What every process of a plane carries in its environment.
INSTANCE, PLANE = "TIDEGATE_INSTANCE", "TIDEGATE_PLANE"


@dataclass(frozen=True)
class Layout:
    """Where the parts of one plane lie."""

    home: config.Home
    plane: str

    @property
    def folder(self) -> Path:
        """The plane's folder."""
        return self.home.plane(self.plane)

    @property
    def conf(self) -> Path:
        """supervisord's configuration."""
        return self.folder / "supervisord.conf"

    @property
    def envoy(self) -> Path:
        """Envoy's files."""
        return self.folder / "envoy"

    @property
    def supervisor(self) -> Path:
        """supervisord's socket."""
        return self.home.sockets / f"{self.plane}.supervisor"

    @property
    def admin(self) -> Path:
        """Envoy's admin socket."""
        return self.home.sockets / f"{self.plane}.envoy"

    @property
    def targets(self) -> Path:
        """The addresses that Prometheus asks."""
        return self.home.root / "targets" / f"{self.plane}.json"

    @property
    def port(self) -> int | None:
        """Where Envoy answers on 127.0.0.1; None before the plane's first start."""
        try:
            return int(json.loads((self.folder / "ports.json").read_text())["router"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def log(self, name: str) -> Path:
        """The log of one program."""
        return self.folder / "logs" / f"{name}.log"
