"""Where a model's parameters, data and results lie; the same for every model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.documents import read_yaml
from tidegate.errors import ConfigError, TidegateError

PARAMETERS = "params.yaml"
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
    def build(self) -> Path:
        """Everything that the pipeline makes of the data."""
        return self.root / "build" / self.model

    @property
    def artifact(self) -> Path:
        """The folder that is registered and served; its digest is the model's identity."""
        return self.build / "model"

    def parameters(self, stage: str) -> Mapping[str, Any]:
        """Return a stage's parameters from params.yaml; raises ConfigError when there are none."""
        path = self.root / PARAMETERS
        try:
            content, _ = read_yaml(path.read_text(), PARAMETERS)
        except FileNotFoundError as error:
            raise ConfigError(
                "is missing", "Run this in the root of the checkout.", where=PARAMETERS
            ) from error
        section = ((content or {}).get("models") or {}).get(self.model) or {}
        if not isinstance(section.get(stage), Mapping):
            raise ConfigError(f"has no section `models.{self.model}.{stage}`", "Add it.", where=PARAMETERS)
        found: Mapping[str, Any] = section[stage]
        return found


def run(stage: Callable[[], None]) -> None:
    """Run a stage's `main`; an error that was meant is one line on stderr and exit code 1."""
    try:
        stage()
    except TidegateError as error:
        sys.exit(str(error))
