"""BentoML's containerization, asked for its container file; nothing is built here.

BentoML writes a container file by what a Bento's description says of its image. The release's own Bento stays
as it is: a stand-in of the same name with other options is described in a store of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tidegate.bentos import DESCRIPTION, bento_path
from tidegate.errors import PlatformError

TIMEOUT = 120
_ASK = (
    "import sys; from bentoml.container import get_containerfile;"
    " get_containerfile(sys.argv[1], output_path=sys.argv[2], enable_buildkit=False)"
)
# What BentoML's reader wants of a description, for one that says less.
_LEAST = {"service": "", "creation_time": "1980-01-01T00:00:00+00:00", "labels": {}, "models": []}


def generate(tag: str, image: Mapping[str, Any]) -> str:
    """Return the container file that BentoML generates for a Bento with these `image` options.

    Raises PlatformError with BentoML's own words.
    """
    name, _, version = tag.partition(":")
    with tempfile.TemporaryDirectory(prefix="tidegate-image-") as folder:
        store = Path(folder)
        stand_in = bento_path(store, tag)
        stand_in.joinpath("env", "docker").mkdir(parents=True)
        described = {
            **_LEAST,
            "name": name,
            "version": version,
            "bentoml_version": metadata.version("bentoml"),
            "spec": 2,
            "image": dict(image),
        }
        (stand_in / DESCRIPTION).write_text(yaml.safe_dump(described, sort_keys=False))
        out = store / "Containerfile"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("BENTOML_")}
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", _ASK, tag, str(out)],
                env={**kept, "BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "True"},
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            text = f"BentoML wrote no container file within {TIMEOUT} s"
            raise PlatformError(text, "Look at the machine's load.") from error
        if done.returncode or not out.is_file():
            words = done.stderr.strip().splitlines()[-1:] or ["no container file"]
            raise PlatformError(f"BentoML wrote no container file: {words[0]}", "Run `make setup` again.")
        return out.read_text()
