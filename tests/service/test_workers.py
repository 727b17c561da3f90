"""How many processes `bentoml serve` starts is what the model's settings say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

SERVICE = """
import bentoml, msgspec
from tidegate.serving import ModelService

class Row(msgspec.Struct):
    x: float

@bentoml.service(name="toy", service_class=ModelService{options})
class Toy:
    request = response = Row
"""


def made(folder: Path, name: str, settings: str, options: str = "") -> ModuleType:
    """Import a service that lies beside these settings."""
    (folder / f"{name}.py").write_text(SERVICE.format(options=options))
    (folder / "settings.yaml").write_text(settings)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


@pytest.mark.parametrize(
    ("name", "settings", "options", "expected"),
    [
        ("toy_one", "threads: 1\n", "", None),  # BentoML's own: one
        ("toy_three", "workers: 3\n", "", 3),
        ("toy_own", "workers: 3\n", ", workers=2", 2),  # said in the code, which is nearer
    ],
)
def test_workers_come_from_the_settings(
    tmp_path: Path, name: str, settings: str, options: str, expected: int | None
) -> None:
    """BentoML is told before it counts; a service that says a number itself keeps it."""
    assert made(tmp_path, name, settings, options).Toy.config.get("workers") == expected


def test_settings_that_can_not_be_meant_stop_the_import(tmp_path: Path) -> None:
    """A Bento of them can't even be built."""
    with pytest.raises(RuntimeError, match=r"settings\.yaml: .*Did you mean `workers`\?"):
        made(tmp_path, "toy_wrong", "worker: 3\n")
