"""A replica as a container: what its engine is told, word by word. Pure: values in, arguments out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PROCESSES = 512  # of one container: far more threads than a service has, far fewer than a machine
SCRATCH = "/tmp:rw,nosuid,nodev,mode=1777,size=256m"  # noqa: S108 - inside, where nothing else can be written
LOG = "max-size=5m"  # kept by the engine of what a replica says
RESTARTS = 10  # by the engine alone, at once; after that the agent starts it, with a growing pause


@dataclass(frozen=True)
class Mount:
    """A folder of the machine inside a container."""

    source: str
    target: str
    writable: bool = False

    def words(self) -> str:
        """Return it as `--mount` takes it."""
        return f"type=bind,source={self.source},target={self.target}" + ("" if self.writable else ",readonly")


@dataclass(frozen=True)
class Limits:
    """What a container may take: `memory` as `512m` or `2g`, `cpus` cores, `gpus` `all` or `0,1`.

    "" and 0 are no limit, and no GPU.
    """

    memory: str = ""
    cpus: float = 0.0
    gpus: str = ""


@dataclass(frozen=True)
class Container:
    """One replica. `image` is an id, `port` is on the machine's loopback, `inside` the container's own.

    `owner` is the user and group (`1000:1000`) whose files the mounts are, where the engine or the agent is
    not root; "" leaves the image's own user. `restart` is off for what somebody waits for.
    """

    name: str
    image: str
    port: int
    inside: int
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    limits: Limits = Limits()
    owner: str = ""
    grace: int = 15  # seconds that the requests in flight have
    restart: bool = True


def run_words(engine: str, made: Container, options: Sequence[str] = ()) -> list[str]:
    """Return the arguments that start a container by `podman` or `docker`; `options` come last and win."""
    words = ["run", "--detach", "--pull=never", "--name", made.name]
    words += ["--publish", f"127.0.0.1:{made.port}:{made.inside}"]
    words += ["--read-only", "--tmpfs", SCRATCH, "--cap-drop", "all"]
    words += ["--security-opt", "no-new-privileges", "--pids-limit", str(PROCESSES)]
    words += ["--restart", f"on-failure:{RESTARTS}" if made.restart else "no"]
    words += ["--stop-timeout", str(made.grace), "--log-opt", LOG]
    if made.owner:
        words += ["--user", made.owner]
        words += ["--userns", "keep-id"] if engine == "podman" else []
    words += _limits(engine, made.limits)
    for key, value in sorted(made.labels.items()):
        words += ["--label", f"{key}={value}"]
    for key, value in sorted(made.environment.items()):
        words += ["--env", f"{key}={value}"]
    for mount in made.mounts:
        words += ["--mount", mount.words()]
    return [*words, *options, made.image]


def _limits(engine: str, limits: Limits) -> list[str]:
    words = ["--memory", limits.memory] if limits.memory else []
    words += ["--cpus", f"{limits.cpus:g}"] if limits.cpus else []
    if not limits.gpus:
        return words
    if engine == "docker":
        wanted = "all" if limits.gpus == "all" else f'"device={limits.gpus}"'
        return [*words, "--gpus", wanted]
    # By the Container Device Interface, which `nvidia-ctk cdi generate` writes down.
    return [*words, *(w for one in limits.gpus.split(",") for w in ("--device", f"nvidia.com/gpu={one}"))]


def runs_as_root(user: str) -> bool:
    """Tell whether an image's user (`uid`, `name`, `uid:gid` or nothing) is root."""
    return user.partition(":")[0] in ("", "0", "root")


def exposed(ports: Mapping[str, object] | None) -> int | None:
    """Return the one TCP port that an image says it listens on, as `{"3000/tcp": {}}`; None for another form.

    Of several the lowest counts: a service's HTTP, beside which other protocols may have ports of their own.
    """
    numbers = [int(port) for port, _, kind in (p.partition("/") for p in ports or {}) if kind in ("", "tcp")]
    return min(numbers, default=None)
