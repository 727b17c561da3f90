"""Which addresses Prometheus asks: one file a plane, as its `file_sd` reads them.

All planes' files lie in one folder, since Prometheus takes a `*` in a file's name only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from tidegate.files import write_atomic
from tidegate.machine.placements import Placed

log = logging.getLogger(__name__)


class Targets:
    """The file of one plane, whose name is the file's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed = False

    def tell(self, placed: Iterable[Placed]) -> None:
        """Write down each replica's address with its model, release and plane, if anything changed.

        A disk that takes nothing is told once and spoils no look: Prometheus goes on with the old file.
        """
        text = json.dumps([self._entry(found) for found in placed], indent=1) + "\n"
        try:
            if not self._path.is_file() or self._path.read_text() != text:
                write_atomic(self._path, text)
                self._path.chmod(0o644)  # Prometheus is often another user's
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("Prometheus does not learn of changes: can't write %s: %s", self._path, error)
            self._failed = True

    def _entry(self, found: Placed) -> dict[str, object]:
        labels = {"model": found.record.model, "release": found.release, "plane": self._path.stem}
        return {"targets": [f"127.0.0.1:{port}" for port in found.ports], "labels": labels}
