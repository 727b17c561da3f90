"""Envoy's journal of requests: read on from where one left off, and begun anew before it fills the disk."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import datetime
from pathlib import Path

from tidegate.core import xds
from tidegate.errors import NoData, TidegateError, Unreachable
from tidegate.machine import unix_http
from tidegate.outcomes import Entry, Place

LARGE = 64 * 1024 * 1024  # bytes of one file before it is rotated
LONGEST = 200  # characters of a request id: no outcome can name a longer one
PART = 1024 * 1024  # bytes read at once: about 5,000 lines


class EnvoyJournal:
    """`outcomes.Journal` of the file at `path`; `admin` is the socket of the Envoy that writes it.

    A rotation renames the file and has Envoy open a new one. Envoy writes to the renamed one until it has
    done so, hence that one is read to its end, and deleted, only when a new one is there.
    """

    def __init__(self, path: Path, admin: Path, large: int = LARGE) -> None:
        self._path, self._admin, self._large = path, admin, large
        self._old = path.with_name(path.name + ".1")

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self._path)

    def read(self, place: Place) -> tuple[list[Entry], Place]:
        """Return the next entries and where they end."""
        try:
            old, new = _inode(self._old), _inode(self._path)
            if old:
                # Not begun with it: its first byte is the next. The renamed file comes before the new one.
                at = place.offset if place.inode == old else 0 if place.inode != new else None
                if at is not None:
                    entries, end = self._part(self._old, at)
                    if end > at or not new:
                        return entries, Place(old, end)
            if not new:
                raise NoData(f"no request was journaled in {self._path}", "Is the plane up? Send a request.")
            entries, end = self._part(self._path, place.offset if place.inode == new else 0)
            return entries, Place(new, end)
        except OSError as error:
            raise Unreachable(
                f"{self._path} can't be read: {error.strerror}", "It is tried again."
            ) from error

    def tidy(self, place: Place) -> None:
        """Drop the old file once it was read, rename a large one, and have Envoy open a new one."""
        with contextlib.suppress(OSError):
            old, new = _inode(self._old), _inode(self._path)
            if old and new and place.inode == new:
                self._old.unlink()
            elif not old and new and place.inode == new and place.offset >= self._large:
                os.rename(self._path, self._old)
                self._reopen()
            elif old and not new:  # Envoy did not hear of it, or has not got round to it
                self._reopen()

    def _reopen(self) -> None:
        with contextlib.suppress(TidegateError):  # a dead Envoy opens it anew when it starts
            unix_http.post(self._admin, "/reopen_logs")

    def _part(self, path: Path, at: int) -> tuple[list[Entry], int]:
        """Return the entries from `at` on, to the last whole line of a part, and where they end."""
        with path.open("rb") as file:
            if at > os.fstat(file.fileno()).st_size:
                at = 0  # it was emptied
            file.seek(at)
            part = file.read(PART)
        whole = part.rfind(b"\n") + 1
        if not whole:
            return [], at + (len(part) if len(part) == PART else 0)  # no line is that long
        return [e for line in part[:whole].splitlines() if (e := entry(line))], at + whole


def _inode(path: Path) -> int:
    """Return the file's number; 0 when there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def entry(line: bytes) -> Entry | None:
    """Return one line's entry; None for what is none."""
    try:
        found = json.loads(line)
        model, release = xds.split_name(found["cluster"])
        at = datetime.fromisoformat(found["at"]).timestamp()
        request, unit = found["id"], found.get("unit")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not (isinstance(request, str) and request not in ("", "-") and len(request) <= LONGEST and release):
        return None
    return Entry(request, model, release, unit if isinstance(unit, str) and unit != "-" else "", at)
