"""Say which registry and which Bento store this checkout works with, in build/stores.json.

`register` and `package` claim that something is in a store outside of Git and DVC. A committed dvc.lock
or a cached result would repeat that claim in front of an empty store, so both stages depend on this file:
another home, or one that was emptied, has another identity, and they run again.

Run it as `python -m models.stores`; it takes a moment, and DVC runs it each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import uuid
from pathlib import Path

try:
    from tidegate import wiring
    from tidegate.files import write_atomic
except ModuleNotFoundError as error:  # the first stage that runs: say it here once, in one line
    sys.exit(
        f"{sys.executable} has no {error.name}: put this repository's Python first, "
        "as in `PATH=$PWD/.venv/bin:$PATH dvc repro` (`make setup` makes it)"
    )

IDENTITY = ".identity"


def identity(address: str) -> str:
    """Return what a store is known by: a random id kept inside of a local one, else its address's digest.

    A SQLite registry without its database gets a new id at each look, since nothing can be in it.
    """
    path = Path(address.removeprefix("sqlite:///").partition("#")[0])
    if not path.is_absolute():  # a server or a bucket
        return hashlib.sha256(address.encode()).hexdigest()[:32]
    database = path if address.startswith("sqlite:") else None
    folder = path.parent if database else path
    file = folder / IDENTITY
    if database and not database.exists():
        file.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "w") as new:
            new.write(f"{uuid.uuid4().hex}\n")
        os.link(name, file)  # fails when another process was first: then its id is the one
    except FileExistsError:
        pass
    finally:
        os.unlink(name)
    return file.read_text().strip()


def main() -> None:
    """Write the identities of this checkout's stores."""
    root = Path.cwd()
    home, stores = wiring.home(root), wiring.platform(root, "production").stores
    content = {
        "registry": identity(home.address(stores.registry)),
        "bentos": identity(home.address(stores.bentos)),
    }
    path, text = root / "build" / "stores.json", json.dumps(content, indent=1) + "\n"
    if not path.is_file() or path.read_text() != text:
        write_atomic(path, text)


if __name__ == "__main__":
    main()
