"""podman or docker by its command line: what both understand, and their answers in one form."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.errors import PlatformError, Unreachable

ENGINES = ("podman", "docker")
PATIENCE = 60.0  # seconds for an answer, beside what a container takes to stop
# What an engine finds its images, settings and daemon by. Nothing else of this process reaches it: it leaves
# a process of its own behind (conmon), which whoever ends a plane or a run by its mark would end, too.
_PASSED = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PASSED_PREFIXES = ("XDG_", "CONTAINERS_", "CONTAINER_HOST", "DOCKER_", "DBUS_", "REGISTRY_AUTH_FILE")
_AWAY = ("cannot connect", "is the docker daemon running", "connection refused", "unable to connect")


@dataclass(frozen=True)
class Seen:
    """One container. `state` is the engine's word, `pid` 0 when nothing runs, `code` how it ended last."""

    name: str
    labels: Mapping[str, str]
    state: str
    pid: int
    code: int
    restarts: int
    error: str = ""


@dataclass(frozen=True)
class Image:
    """An image: its id, labels, the user it runs as, the ports that it says it listens on, its bytes."""

    id: str
    labels: Mapping[str, str]
    user: str
    ports: Mapping[str, Any]
    size: int = 0


class Engine:
    """One engine of this machine. Raises PlatformError, and Unreachable when it does not answer."""

    def __init__(self, program: str) -> None:
        self.program = program

    def containers(self, label: str) -> list[Seen]:
        """Return the containers that carry a label, `key=value`, whatever their state."""
        said = self._ask("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}")
        ids = said.split()
        if not ids:
            return []
        # One that is removed between the two questions is left out of the answer, and makes it fail.
        done = self._call(["container", "inspect", *ids])
        return [_seen(one) for one in self._parsed(done)]

    def process(self, name: str) -> int:
        """Return the id of a container's first process, as this machine counts them; 0 when none runs."""
        found = self._parsed(self._call(["container", "inspect", name]))
        return _seen(found[0]).pid if found else 0

    def image(self, name: str) -> Image | None:
        """Return an image by id or name; None when it is not here."""
        done = self._call(["image", "inspect", name])
        if done.returncode and "no such" not in done.stderr.lower() and "not known" not in done.stderr:
            raise self._problem(["image", "inspect"], done)
        found = self._parsed(done)
        if not found:
            return None
        config = found[0].get("Config") or {}
        return Image(
            id=str(found[0]["Id"]),
            labels=config.get("Labels") or {},
            user=str(config.get("User") or ""),
            ports=config.get("ExposedPorts") or {},
            size=int(found[0].get("Size") or 0),
        )

    def run(self, words: Sequence[str]) -> str:
        """Start a container by `core.containers.run_words`; returns its id."""
        return self._ask(*words).strip()

    def stop(self, names: Collection[str], grace: int) -> None:
        """Ask containers to end, and kill those that have not after `grace` seconds; nothing for none."""
        if names:
            self._call(["stop", "--time", str(grace), *sorted(names)], PATIENCE + grace)

    def remove(self, names: Collection[str]) -> None:
        """Remove containers, killing those that run; nothing for none. What is left, `containers` tells."""
        if names:
            self._call(["rm", "--force", "--volumes", *sorted(names)])

    def words(self, name: str, lines: int = 5) -> list[str]:
        """Return the last lines that a container said; none when it is gone."""
        done = self._call(["logs", "--tail", str(lines), name])
        if done.returncode:
            return []
        said = (line.strip() for line in (done.stdout + done.stderr).splitlines())
        return [line for line in said if line][-lines:]

    def version(self) -> str:
        """Return what answers: a version, and for docker its daemon's."""
        field = "{{.Server.Version}}" if self.program == "docker" else "{{.Client.Version}}"
        return f"{self.program} {self._ask('version', '--format', field).strip()}"

    # ---------------------------------------------------------------- the command line
    def _ask(self, *words: str) -> str:
        done = self._call(words)
        if done.returncode:
            raise self._problem(words, done)
        return done.stdout

    def _call(self, words: Sequence[str], patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        command = [self.program, *words]
        try:
            done = subprocess.run(
                command,
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=patience,
            )
        except FileNotFoundError as error:
            text = f"the program `{self.program}` is not here"
            raise PlatformError(text, f"Install it (apt install {_package(self.program)}).") from error
        except subprocess.TimeoutExpired as error:
            text = f"`{self.program} {words[0]}` took longer than {patience:.0f} s"
            raise Unreachable(text, f"Try `{self.program} ps`.") from error
        if done.returncode and any(word in done.stderr.lower() for word in _AWAY):
            raise Unreachable(
                f"{self.program} does not answer: {_last(done.stderr)}", f"Start it; try `{self.program} ps`."
            )
        return done

    def _problem(self, words: Sequence[str], done: subprocess.CompletedProcess[str]) -> PlatformError:
        text = f"{self.program} refused {words[0]}: {_last(done.stderr) or f'exit {done.returncode}'}"
        return PlatformError(text, f"Try `{self.program} info`; docs/containers.md names what it needs.")

    def _parsed(self, done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
        try:
            found = json.loads(done.stdout or "[]")
        except ValueError as error:
            raise PlatformError(f"{self.program} said no JSON: {done.stdout[:80]!r}", "Update it.") from error
        return list(found)


def here(program: str) -> bool:
    """Tell whether an engine's program is on PATH."""
    return shutil.which(program) is not None


def environment() -> dict[str, str]:
    """Return the variables that an engine's program gets of this process's."""
    return {k: v for k, v in os.environ.items() if k in _PASSED or k.startswith(_PASSED_PREFIXES)}


def _seen(found: Mapping[str, Any]) -> Seen:
    state = found["State"]
    return Seen(
        name=str(found["Name"]).removeprefix("/"),  # docker says `/name`
        labels=found["Config"].get("Labels") or {},
        state=str(state["Status"]).lower(),
        pid=int(state.get("Pid") or 0),
        code=int(state.get("ExitCode") or 0),
        restarts=int(found.get("RestartCount") or 0),
        error=str(state.get("Error") or ""),
    )


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ") if lines else ""


def _package(program: str) -> str:
    return "docker.io" if program == "docker" else "podman netavark aardvark-dns runc catatonit iptables"
