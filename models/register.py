"""Register a trained model whose gates passed, and write build/<model>/register.json.

The number depends on the model's digest alone: registering the same files again gives it again.

Run it as `python -m models.register flight-delay`.
"""

from __future__ import annotations

import json
import sys

from models.layout import Layout
from models.tracking import commit
from tidegate import wiring
from tidegate.errors import TidegateError
from tidegate.files import digest_file, digest_folder, write_atomic


def register(layout: Layout) -> dict[str, object]:
    """Register build/<model>/model/ and return `{"name", "version", "digest"}`."""
    root = layout.root.absolute()
    registry = wiring.registry(wiring.platform(root, "production"), wiring.home(root))
    digest = digest_folder(layout.artifact)
    tags = {"digest": digest, "commit": commit(root)}
    lock = layout.root / "dvc.lock"
    if lock.is_file():  # not yet, when the stage is tried out by hand
        tags["pipeline"] = digest_file(lock)
    version = registry.register(layout.model, layout.artifact, tags)
    return {"name": layout.model, "version": version, "digest": digest}


def main() -> int:
    """Register the model that the command line names."""
    if len(sys.argv) != 2:
        print("usage: python -m models.register MODEL", file=sys.stderr)
        return 2
    layout = Layout(sys.argv[1])
    try:
        registered = register(layout)
    except (TidegateError, FileNotFoundError) as error:
        print(f"register: {error}", file=sys.stderr)
        return 1
    write_atomic(layout.build / "register.json", json.dumps(registered, indent=1) + "\n")
    print(f"{registered['name']} version {registered['version']}, {registered['digest']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
