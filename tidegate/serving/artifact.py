"""The model's files, verified, and what runs them; knows no protocol."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.files import digest_folder
from tidegate.serving.provider import Running, Sessions
from tidegate.serving.settings import Settings

MANIFEST = "artifact.json"  # beside model/ in a Bento: {"model", "version", "digest"}


def artifact(service_file: Path, model: str) -> Path:
    """Return the verified folder of the model's files for the service defined in `service_file`.

    In a Bento that is `model/` beside `services/`, in a checkout `build/<model>/model`. Its digest must
    be the one in the Bento's manifest, and the one in TIDEGATE_ARTIFACT where that is set. Raises
    RuntimeError otherwise: a service with another model than its release names must never be ready.
    """
    root = service_file.resolve().parents[2]
    manifest = root / MANIFEST
    folder = root / "model" if manifest.is_file() else root / "build" / model / "model"
    expected = {}
    if manifest.is_file():
        expected["the Bento"] = json.loads(manifest.read_text())["digest"]
    if os.environ.get("TIDEGATE_ARTIFACT"):
        expected["the release"] = os.environ["TIDEGATE_ARTIFACT"]
    found = digest_folder(folder)
    for who, digest in expected.items():
        if digest != found:
            raise RuntimeError(
                f"model {model} is not the one that {who} names: {found} is here, not {digest}"
            )
    return folder


def own_version(root: Path) -> str:
    """Return the version that the Bento was built of, or "" in a checkout: `bentoml serve` tells none."""
    try:
        return str(json.loads((root / MANIFEST).read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def identity() -> dict[str, str]:
    """Return who answers: part of each answer."""
    version = os.environ.get("TIDEGATE_MODEL_VERSION") or own_version(Path(__file__).resolve().parents[2])
    return {"model_version": version, "release": os.environ.get("TIDEGATE_RELEASE", "")}


class Holdout(msgspec.Struct, frozen=True):
    """What the rows looked like that the model was judged by, beside which callers' are seen."""

    score: float | None = None  # the mean
    range: tuple[float, float] | None = None  # the least and the greatest score
    missing: dict[str, float] = {}  # feature → share of the rows without it

    @classmethod
    def of(cls, path: Path) -> Holdout:
        """Read what the model brings along; raises msgspec.ValidationError for anything else."""
        return msgspec.json.decode(path.read_bytes(), type=cls) if path.is_file() else cls()


class OnnxModel:
    """An ONNX model; more throughput is more processes: one thread, unless `settings` say more.

    `settings` say which of its files is run and on what; `running` tells which it is. Raises RuntimeError
    when a file or a GPU that they ask for is not there.
    """

    def __init__(
        self, folder: Path, settings: Settings | None = None, *, output: str = "probabilities"
    ) -> None:
        self._sessions = Sessions(folder, settings or Settings())
        self._run = self._first
        self._input = self._sessions.session.get_inputs()[0].name
        self._outputs = [output]
        self.examples: list[dict[str, Any]] = json.loads((folder / "examples.json").read_text())
        self.holdout = Holdout.of(folder / "holdout.json")

    @property
    def running(self) -> Running:
        """What runs it, and which of its files."""
        return self._sessions.running

    def __call__(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the model's output for float32 rows [n, features]."""
        result: npt.NDArray[np.float32] = self._run(self._outputs, {self._input: rows})[0]
        return result

    def _first(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        """Run it for the first time: from then on by the session that could."""
        found = self._sessions.run(outputs, feed)
        self._run = self._sessions.session.run
        return found
