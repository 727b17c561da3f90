"""Where a fault is planted: a throwaway checkout that shares the real one's files until it changes them.

A room is made of real things: the rows that `dvc repro` prepared, the model that it trained, the Bento that
it packaged, served as in staging. What a fault does not touch is a link to the original; `edit`
replaces it by a copy first, so nothing outside the room ever changes.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tidegate import bentos, gating, params, wiring
from tidegate.config import Home, merge, read_record
from tidegate.core.release import BentoRef, ReleaseRecord
from tidegate.core.task import Declaration
from tidegate.core.verdict import Verdict
from tidegate.errors import NoData
from tidegate.machine import copies
from tidegate.packaging import record_text

SHARED = ("data", "gates", "models", "services", "tidegate", "dvc.lock", "requirements.lock", ".git")


@dataclass(frozen=True)
class Fault:
    """One seeded fault of one gate: what it breaks in a room, and the verdict that must come of it.

    `make` plants it. `settings` are laid over the gate's own, for this fault (short durations). The verdict
    is never PASS; FAIL is the release's fault, INCONCLUSIVE too little to decide on, ERROR nobody could look.
    Where the model can't have it, `make` raises NotApplicable, and nothing is tried.
    """

    gate: str
    name: str
    expected: Verdict
    make: Callable[[Room], None]
    settings: Mapping[str, Any] = field(default_factory=dict)


class NotApplicable(Exception):
    """A fault that this model can't have, with the reason: it counts neither as caught nor as missed."""


def as_it_is(room: Room) -> None:
    """Break nothing: the fault is in its settings."""


@dataclass
class Room:
    """A throwaway checkout of one model. `endpoint` is what stands for staging's address of the model.

    `home` is the real checkout's, whose stores are read. `shared` and `lasting` outlive the room: what is
    costly and changed by no fault (a healthy served copy) is made once for all rooms of a gate, kept in
    `shared` and closed with `lasting`. `closing` is closed with the room.
    """

    source: Path
    root: Path
    model: str
    home: Home
    endpoint: str = ""
    release: str = ""
    arguments: list[str] = field(default_factory=list)  # further options of the gate
    environment: dict[str, str] = field(default_factory=dict)  # with one, the gate is a process of its own
    closing: ExitStack = field(default_factory=ExitStack)
    shared: dict[str, Any] = field(default_factory=dict)
    lasting: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def make(
        cls,
        source: Path,
        root: Path,
        model: str,
        *,
        home: Home | None = None,
        shared: dict[str, Any] | None = None,
        lasting: ExitStack | None = None,
    ) -> Room:
        """Lay a room out: links to the real files, copies of what is small and often changed.

        Without `lasting`, what would last is closed with the room.
        """
        root.mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            if (source / name).exists():
                (root / name).symlink_to(source / name)
        shutil.copytree(source / "envs", root / "envs")
        for name in ("params.yaml", "dvc.yaml", "pyproject.toml"):
            shutil.copy(source / name, root / name)
        build = root / "build" / model
        build.mkdir(parents=True)
        for path in sorted((source / "build" / model).iterdir()):
            if path.name == "gates":
                shutil.copytree(path, build / "gates")
            else:
                (build / path.name).symlink_to(path)
        home = home or wiring.home(source)
        stores = home.root / "mlflow"
        if stores.is_dir():  # the registry is read, never written: gates register nothing
            (root / ".tidegate").mkdir()
            (root / ".tidegate" / "mlflow").symlink_to(stores)
        room = cls(source, root, model, home)
        room.shared = {} if shared is None else shared
        room.lasting = room.closing if lasting is None else lasting
        return room

    def close(self) -> None:
        """Stop what a fault started."""
        self.closing.close()

    # ------------------------------------------------------------ the model
    @property
    def declared(self) -> Declaration:
        """What the room's params.yaml says the model is for."""
        return params.load(self.root).declared(self.model)

    @property
    def package(self) -> str:
        """The model's folder in models/ and services/."""
        return params.package(self.root, self.model)

    def declare(self, **keys: Any) -> None:
        """Change what the room's params.yaml says the model is for."""
        path = self.root / params.FILE
        value = yaml.safe_load(path.read_text())
        value["models"][self.model] |= keys
        path.write_text(yaml.safe_dump(value))

    # ------------------------------------------------------------ files
    def edit(self, name: str) -> Path:
        """Return a file or folder of the room to change or delete: a copy in place of the link.

        The folders on the way become folders of links. Raises NoData when there is nothing of that name.
        """
        here = self.root
        for part in Path(name).parts:
            self._own(here)
            here = here / part
        if not here.exists():
            raise NoData(f"{name} is not in this room", "Run `dvc repro` first.")
        if here.is_symlink():
            target = here.resolve()
            here.unlink()
            shutil.copytree(target, here) if target.is_dir() else shutil.copy2(target, here)
        return here

    def _own(self, folder: Path) -> None:
        """Turn a link to a folder into a folder of links."""
        if not folder.is_symlink():
            return
        target = folder.resolve()
        folder.unlink()
        folder.mkdir()
        for path in target.iterdir():
            if path.name != "__pycache__":
                (folder / path.name).symlink_to(path)

    def frame(self, split: str) -> Any:
        """Return a split (or a parquet file of build/, by its path) as a data frame."""
        import pandas as pd

        return pd.read_parquet(self.root / self._parquet(split))

    def write(self, split: str, frame: Any) -> None:
        """Put a data frame in the place of a split (or of a parquet file of build/, by its path)."""
        path = self.edit(self._parquet(split))
        frame.to_parquet(path, index=False)

    def _parquet(self, split: str) -> str:
        return split if split.endswith(".parquet") else f"data/{self.model}/{split}.parquet"

    def settings(self, gate: str, over: Mapping[str, Any]) -> None:
        """Lay settings over the model's own of a gate in params.yaml."""
        path = self.root / "params.yaml"
        value = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(merge(value, {"models": {self.model: {"gates": {gate: over}}}})))

    # ------------------------------------------------------------ releases
    @property
    def store(self) -> Path:
        """The folder of Bentos that the room's gates start copies from (BENTOML_HOME)."""
        return self.root / ".tidegate" / "bentoml"

    @property
    def original(self) -> ReleaseRecord:
        """The release that is packaged in the real checkout. Raises NoData when there is none."""
        path = self.source / "build" / self.model / "release.yaml"
        if not path.is_file():
            raise NoData(f"no release of {self.model} is packaged here", "Make one with `dvc repro`.")
        return read_record(path.read_text(), path.name)

    def bento(
        self, version: str, edit: Callable[[Path], None] = lambda path: None, **record: Any
    ) -> ReleaseRecord:
        """Copy the packaged Bento as another version, change it, and return the record of that release.

        `edit` gets its folder (`src/services/…`, `src/model/…`), `record` other fields.
        """
        real = self.original
        store = wiring.bentos_path(wiring.platform(self.source, "staging"), self.home)
        name = real.bento.tag.partition(":")[0]
        tag = f"{name}:{version}"
        copy = bentos.bento_path(self.store, tag)
        shutil.copytree(
            bentos.bento_path(store, real.bento.tag), copy, ignore=shutil.ignore_patterns("__pycache__")
        )
        described = copy / bentos.DESCRIPTION
        lines = described.read_text().splitlines(keepends=True)
        described.write_text(
            "".join(f"version: {version}\n" if line.startswith("version:") else line for line in lines)
        )
        edit(copy)
        fresh = {"bento": BentoRef(tag, bentos.bento_digest(copy)), **record}
        return msgspec.structs.replace(real, **fresh)

    def candidate(self, record: ReleaseRecord) -> None:
        """Make a release the room's candidate: build/<model>/release.yaml, and `--release`."""
        path = self.root / "build" / self.model / "release.yaml"
        path.unlink(missing_ok=True)
        path.write_text(record_text(record))
        self.release = record.id

    def in_production(self, record: ReleaseRecord | None) -> None:
        """Make a release, or none, what production wants; its record lies in envs/releases/."""
        named = {}
        if record is not None:
            path = self.root / "envs" / "releases" / self.model / f"{record.id}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(record_text(record))
            named = {self.model: record.id}
        (self.root / "envs/production/release.yaml").write_text(yaml.safe_dump({"models": named}))

    def staged(self, record: ReleaseRecord, environment: Mapping[str, str] | None = None) -> copies.Copy:
        """Serve a release until the room is closed, and make it what answers at `endpoint`."""
        copy = self.closing.enter_context(copies.serve(self.store, record, extra=environment))
        self.endpoint = copy.url
        return copy

    # ------------------------------------------------------------ running
    def run(self, gate: str, settings: Mapping[str, Any] | None = None) -> int:
        """Run a gate of the real checkout on this room; its report lies in build/<model>/gates/."""
        if settings:
            self.settings(gate, settings)
        found = gating.load(self.source, gate)
        arguments: Sequence[str] = [self.model, *self.arguments]
        if found.needs == "endpoint":
            arguments = [*arguments, "--endpoint", self.endpoint or "http://127.0.0.1:9"]
        if found.needs != "files" and self.release:
            arguments = [*arguments, "--release", self.release]
        if self.environment:
            return self._apart(gate, arguments)
        with _only(self.root):
            return found.main(arguments, self.root)

    def _apart(self, gate: str, arguments: Sequence[str]) -> int:
        """Run a gate's script: what a dynamic linker reads of the environment, it reads once."""
        script = self.source / "gates" / f"{gate.replace('-', '_')}.py"
        environment = {**os.environ, "PYTHONPATH": str(self.source), **self.environment}
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
        )
        print(done.stdout, done.stderr)
        return done.returncode


@contextmanager
def _only(root: Path) -> Iterator[None]:
    """Let the packages of a checkout (models/, services/) be imported from `root`, and from there alone."""
    path, kept = list(sys.path), _forget()
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        _forget()
        sys.path[:] = path
        sys.modules.update(kept)
        importlib.invalidate_caches()


def _forget() -> dict[str, Any]:
    names = [name for name in sys.modules if name.partition(".")[0] in ("models", "services")]
    return {name: sys.modules.pop(name) for name in names}
