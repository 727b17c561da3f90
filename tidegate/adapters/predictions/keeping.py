"""What an agent does for the log of predictions beside its looks: convert, merge, forget, each when due."""

from __future__ import annotations

import logging

from tidegate.adapters.predictions.store import PredictionStore
from tidegate.errors import Unreachable

COMPACT_SECONDS, RETAIN_SECONDS = 600.0, 3600.0

log = logging.getLogger(__name__)


class Keeping:
    """Keeps a log in order: segments older than `settle` seconds become Parquet, days older than `days` go.

    Two agents, or one and a person, may do so at once: whoever comes second leaves it to the first.
    """

    def __init__(self, store: PredictionStore, *, settle: float, days: float) -> None:
        self._store, self._settle, self._days = store, settle, days
        self._compacted = self._retained = float("-inf")

    def __call__(self, now: float) -> None:
        """Do what is due at `now`. Raises PlatformError where the disk refuses."""
        if not self._store.folder.is_dir():
            return
        try:
            done = self._store.convert(settle=self._settle, wait=0.0)
            if done.damaged:
                log.warning("segments that can't be read were set aside: %s", ", ".join(done.damaged))
            if not 0 <= now - self._compacted < COMPACT_SECONDS:
                self._store.compact(wait=0.0)
                self._compacted = now
            if not 0 <= now - self._retained < RETAIN_SECONDS:
                self._store.retain(self._days, wait=0.0)
                self._retained = now
        except Unreachable:  # somebody else is at work: it's done, or the next time
            return
