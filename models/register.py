"""Register a trained model whose gates passed, and write build/<model>/register.json.

The number depends on the model's digest alone: registering the same files again gives it again.

Run it as `python -m models.register flight-delay`.
"""

from __future__ import annotations

import json
import sys

from models.layout import Layout, run
from models.tracking import commit
from tidegate import wiring
from tidegate.errors import NoData
from tidegate.files import digest_folder, write_atomic
from tidegate.packaging import Layout as Packaged
from tidegate.packaging import pipeline_digest
from tidegate.report import read_report


def register(layout: Layout) -> dict[str, object]:
    """Register build/<model>/model/ and return `{"name", "version", "digest"}`; raises NoData without it.

    `rows`, too, where the data gate has counted those of each split: the release's record will name them.
    """
    root = layout.root.absolute()
    registry = wiring.registry(wiring.platform(root, "production"), wiring.home(root))
    try:
        digest = digest_folder(layout.artifact)
    except FileNotFoundError as error:
        raise NoData(f"{layout.model} has no trained model: {error}", "Run `dvc repro`.") from error
    tags = {"digest": digest, "commit": commit(root)}
    if (layout.root / "dvc.lock").is_file():  # not yet, when the stage is tried out by hand
        tags["pipeline"] = pipeline_digest(Packaged(root, layout.model))
    version = registry.register(layout.model, layout.artifact, tags)
    found: dict[str, object] = {"name": layout.model, "version": version, "digest": digest}
    rows = read_report(layout.build / "gates" / "data.json").measurements.get("rows")
    return {**found, "rows": rows} if rows else found


def main() -> None:
    """Register the model that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m models.register MODEL")
    layout = Layout(sys.argv[1])
    registered = register(layout)
    write_atomic(layout.build / "register.json", json.dumps(registered, indent=1) + "\n")
    print(f"{registered['name']} version {registered['version']}, {registered['digest']}")


if __name__ == "__main__":
    run(main)
