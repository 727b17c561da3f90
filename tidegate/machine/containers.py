"""A release as containers on this machine: its verified image, what it may write, and by what it is found."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.core.containers import Container, Limits, Mount, exposed, run_words, runs_as_root
from tidegate.core.images import difference, image_name
from tidegate.core.release import ReleaseRecord
from tidegate.errors import ConfigError, PlatformError, ReleaseNotFound
from tidegate.machine.engine import ENGINES, Engine, Image
from tidegate.machine.placements import STOP_GRACE

AT = "tidegate.at"  # label: the home and plane that a container is of
NAME = "tidegate.name"  # label: what a plane calls the replica
PORT = "tidegate.port"  # label: its port on this machine
LISTENS = 3000  # where an image's service listens that does not say where
INSIDE = "/tidegate"  # what is mounted, in a container


@dataclass(frozen=True)
class Recipe:
    """How an environment's containers run: the engine, its own options, limits, and places by variable.

    `places` is what `TIDEGATE_PREDICTIONS`, `TIDEGATE_FEATURES` and `TIDEGATE_CACHE` say on this machine.
    """

    engine: Engine
    limits: Limits = Limits()
    options: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """The image's variant that it runs."""
        return "gpu" if self.limits.gpus else "cpu"

    def image(self, record: ReleaseRecord) -> Image:
        """Return a release's image, which is the recorded one.

        Raises ReleaseNotFound with the command that builds it, ConfigError for one that runs as root.
        """
        name, variant = image_name(record, self.variant), self.variant
        recorded = (record.images or {}).get(variant)
        found = (self.engine.image(recorded.id) if recorded else None) or self.engine.image(name)
        if found is None and recorded:
            build = f"tidegate image {record.model} --release {record.id} --variant {variant}"
            raise ReleaseNotFound(
                f"the image {name} is not here",
                f"Build it: `{build}`, or load it into {self.engine.program}.",
            )
        differs = difference(record, variant, found.id if found else "", found.labels if found else None)
        if found is None or differs:
            raise ReleaseNotFound(*(differs or (f"the image {name} is not here", "Build it.")))
        if runs_as_root(found.user):
            raise ConfigError(
                f"the image {name} runs as root", "Build it again: `tidegate image` names a user."
            )
        return found

    def run(self, made: Container) -> None:
        """Start a container."""
        self.engine.run(run_words(self.engine.program, made, self.options))

    def environment(self, record: ReleaseRecord, plane: str) -> tuple[dict[str, str], list[Mount]]:
        """Return the variables of a replica, and the folders that they name inside it.

        Each is the least that will do: of the log only the model's own segments, the features to read only.
        """
        said = {
            "TIDEGATE_RELEASE": record.id,
            "TIDEGATE_MODEL_VERSION": str(record.registry.version),
            "TIDEGATE_ARTIFACT": record.artifact,
        }
        said |= {"TIDEGATE_PLANE": plane} if plane else {}
        mounts: list[Mount] = []
        if log := self.places.get("TIDEGATE_PREDICTIONS"):
            own = f"segments/{record.model}"
            mounts.append(Mount(str(shared(Path(log) / own)), f"{INSIDE}/predictions/{own}", writable=True))
            said["TIDEGATE_PREDICTIONS"] = f"{INSIDE}/predictions"
        address = self.places.get("TIDEGATE_FEATURES", "")
        if address.startswith("sqlite:"):
            file = Path(address.removeprefix("sqlite:///"))
            mounts.append(Mount(str(file.parent), f"{INSIDE}/features"))
            said["TIDEGATE_FEATURES"] = f"sqlite:///{INSIDE}/features/{file.name}"
        elif address:
            said["TIDEGATE_FEATURES"] = address
        if cache := self.places.get("TIDEGATE_CACHE"):
            said["TIDEGATE_CACHE"] = cache
        return said, mounts


def container(
    recipe: Recipe,
    image: Image,
    *,
    name: str,
    port: int,
    labels: Mapping[str, str],
    environment: Mapping[str, str],
    mounts: Sequence[Mount] = (),
    grace: int,
    restart: bool = True,
) -> Container:
    """Return what the engine is told of one replica. Raises ConfigError for a folder that it can't name."""
    for mount in mounts:
        if "," in mount.source or '"' in mount.source:  # what options of a mount are parted and quoted by
            raise ConfigError(
                f"no container can see {mount.source}: its name has a comma or a quotation mark",
                "Set TIDEGATE_HOME, or the store's address in envs/platform.yaml, to another folder.",
            )
    return Container(
        name=name,
        image=image.id,
        port=port,
        inside=exposed(image.ports) or LISTENS,
        labels={**labels, PORT: str(port)},
        environment=environment,
        mounts=mounts,
        limits=recipe.limits,
        # What it writes is the agent's to read: as the agent's own user, or, since root reads everything, as
        # the image's, which is nobody here.
        owner="" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}",
        grace=grace,
        restart=restart,
    )


def mark(home: Path, plane: str) -> str:
    """Return the value of the label AT of all containers of a plane."""
    return f"{home}:{plane}"


def called(at: str, name: str) -> str:
    """Return a container's name, which is one on the whole machine."""
    plane = at.rpartition(":")[2]
    return f"tidegate-{hashlib.sha256(at.encode()).hexdigest()[:8]}-{plane}-{name}"


def shared(folder: Path) -> Path:
    """Make a folder that a container may write to, whoever it runs as, and nobody on this machine; return it.

    The folder above lets only its owner in, so only what it is mounted into gets to it; sticky, so that
    nobody there removes another's files. Raises PlatformError.
    """
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.parent.stat().st_mode & 0o077:
            folder.parent.chmod(0o700)
        folder.mkdir(exist_ok=True)
        if os.getuid() == 0:
            folder.chmod(0o1777)
    except OSError as error:
        raise PlatformError(f"can't make {folder}: {error.strerror}", "Give access to it.") from error
    return folder


def end(folder: Path, at: str) -> int:
    """End the containers of the plane `at`, whose folder is `folder`; returns how many there were.

    An engine that the plane never used is not asked. Raises PlatformError for one that can't be removed.
    """
    ended = 0
    for program in ENGINES:
        if not (folder / program).is_dir():
            continue
        engine, label = Engine(program), f"{AT}={at}"
        names = [one.name for one in engine.containers(label)]
        engine.stop(names, STOP_GRACE)
        engine.remove(names)
        if left := engine.containers(label):
            text = f"{program} did not remove {', '.join(one.name for one in left)}"
            raise PlatformError(text, f"Try `{program} rm --force NAME`, then `tidegate down` again.")
        ended += len(names)
    return ended
