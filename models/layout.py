"""Where a model's parameters, data and results lie; the same for every model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tidegate import params
from tidegate.documents import convert
from tidegate.errors import ConfigError, TidegateError

SPLITS = ("train", "holdout", "live")


@dataclass(frozen=True)
class Layout:
    """One model's places, relative to the checkout (scripts run in its root, as DVC does)."""

    model: str
    root: Path = Path()

    def data(self, split: str) -> Path:
        """Return the parquet file of a split."""
        return self.root / "data" / self.model / f"{split}.parquet"

    @property
    def package(self) -> str:
        """The model's folder in models/ and services/."""
        return params.package(self.root, self.model)

    @property
    def build(self) -> Path:
        """Everything that the pipeline makes of the data."""
        return self.root / "build" / self.model

    @property
    def artifact(self) -> Path:
        """The folder that is registered and served; its digest is the model's identity."""
        return self.build / "model"

    def parameters(self, stage: str, shape: type[Any]) -> Mapping[str, Any]:
        """Return a stage's parameters from params.yaml, with the defaults of `shape`, a msgspec Struct.

        Raises ConfigError, with the line, for a section or key that is missing, unknown or of a wrong type.
        """
        read = params.load(self.root)
        read.known(self.model)
        section = read.document["models"][self.model].get(stage)
        at = f"$.models.{self.model}.{stage}"
        if section is None:
            raise ConfigError(f"has no section `{at.removeprefix('$.')}`", "Add it.", where=params.FILE)
        found = convert(section, shape, where=params.FILE, lines=read.lines, at=at)
        checked: Mapping[str, Any] = msgspec.to_builtins(found)
        return checked


def run(stage: Callable[[], None]) -> None:
    """Run a stage's `main`; an error that was meant is one line on stderr.

    Exits with 3 for a file that says what can't be meant, as gates do, else with 1.
    """
    try:
        stage()
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    except TidegateError as error:
        sys.exit(str(error))
