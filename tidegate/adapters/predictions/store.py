"""What can be done with the log of predictions: convert, compact, find, erase, forget."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.adapters.predictions import sql
from tidegate.adapters.predictions.erasing import (
    Tombstone,
    Tombstones,
    kept,
    refuse_unknown,
    staying,
    without,
)
from tidegate.adapters.predictions.files import DAMAGED, PART, PATIENCE, Files, Part
from tidegate.adapters.predictions.merging import groups, merge
from tidegate.adapters.predictions.tables import Row, predictions, tables
from tidegate.core.predictions import Match, Prediction, by_value
from tidegate.core.segments import Segment
from tidegate.errors import NoData
from tidegate.outcomes import Seen


@dataclass(frozen=True)
class Converted:
    """What a conversion did: predictions and segments, bytes that a crash had cut short, damaged files."""

    predictions: int = 0
    segments: int = 0
    lost_bytes: int = 0
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compacted:
    """How many files became how many."""

    before: int = 0
    after: int = 0


@dataclass(frozen=True)
class Erased:
    """How many predictions of a subject went, or would go, from how many files, and outcomes with them."""

    predictions: int
    files: int
    outcomes: int = 0


class PredictionStore:
    """The log in `folder`; `outcomes` is the file of outcomes that predictions are joined with, if any.

    `forget` is told which requests were erased, before they are, and says how many outcomes went with them.
    Raises PlatformError where the disk refuses, Unreachable while another process is at work.
    """

    def __init__(
        self,
        folder: Path,
        outcomes: Path | None = None,
        now: Callable[[], float] = time.time,
        forget: Callable[[Sequence[str]], int] = lambda requests: 0,
    ) -> None:
        self.folder, self._outcomes, self._now = folder, outcomes, now
        self._files, self._stones, self._forget = Files(folder), Tombstones(folder), forget

    # ------------------------------------------------------------ asking
    def query(
        self, text: str, *, rows: int = 10_000, seconds: float = 30.0, megabytes: int = 1024
    ) -> sql.Table:
        """Answer one SELECT over `predictions`, `outcomes` and `labelled` (both joined by request id).

        At most `rows` are returned, and the result says whether there are more. What is not converted yet is
        seen as well. Nothing else can be read, and nothing written. Raises ConfigError for SQL that means
        nothing (with the columns there are), Refused for what is no SELECT or takes over `seconds`.
        """
        with self._files.reading():
            return sql.ask(text, self._sources(), sql.Limits(rows, seconds, megabytes))

    def find(self, request_id: str) -> list[Prediction]:
        """Return the predictions of a request, by its id or by that of one of its rows (`<id>/<number>`).

        Several where it had several rows, or where several releases answered it (a mirror); none if unknown.
        """
        with self._files.reading():
            found: list[Prediction] = []
            for path in sql.holding([part.path for part in self._files.parts()], request_id):
                found += predictions(Part(path).model, _of_request(path, request_id))
            for segment in self._segments():
                for table in self._fresh(segment, request_id).values():
                    found += predictions(segment.head.model, table)
        return sorted(found, key=lambda each: (each.at, _number(each.request_id)))

    def seen(self, ids: Collection[str]) -> dict[str, Seen]:
        """Return those of `ids` that are requests, or rows of them: who answered, and when (the last time).

        Raises NoData where nothing is logged.
        """
        asked = set(ids)
        with self._files.reading():
            parts = [part.path for part in self._files.parts()]
            segments = list(self._segments())
            if not parts and not segments:
                raise NoData("no prediction is logged here", "Start a plane: tidegate up")
            rows = sql.seen(parts, asked) if asked else []
            found = {each: Seen(model, at) for each, model, at in rows}
            for segment in segments:
                for record in segment.records:
                    found |= {each: Seen(segment.head.model, record[2]) for each in asked & _names(record)}
        return found

    def known(self, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that are requests, or rows of requests, which were answered."""
        try:
            return set(self.seen(ids))
        except NoData:
            return set()

    def _sources(self) -> sql.Sources:
        fresh = [
            _placed(table, segment.head.model, day)
            for segment in self._segments()
            for day, table in self._fresh(segment).items()
        ]
        return sql.Sources([part.path for part in self._files.parts()], fresh, self._outcomes)

    def _fresh(self, segment: Segment, request_id: str = "") -> Mapping[str, pa.Table]:
        """Return a segment's predictions by day, but those of erased subjects; of one request if named."""
        keep = kept(segment, self._stones.all(), self._stones.salt)
        if request_id:
            return tables(segment, lambda row: _is(row.request_id, request_id) and keep(row))
        return tables(segment, keep)

    def _segments(self) -> Iterator[Segment]:
        for path in self._files.segments():
            segment = self._files.read(path)
            if segment is not None:
                yield segment

    # ------------------------------------------------------------ work
    def convert(self, *, settle: float = 0.0, wait: float = PATIENCE) -> Converted:
        """Turn segments into Parquet, all that were begun over `settle` seconds ago.

        May be killed at any point, and run by several processes: no record is lost or doubled.
        """
        with self._files.working(wait):
            return self._convert(settle)

    def compact(self, *, wait: float = PATIENCE) -> Compacted:
        """Merge the small files of each day into one, sorted by time; of today only when there are many."""
        with self._files.working(wait):
            self._begin()
            before = after = 0
            for group in groups(self._files, self._now()):
                merge(self._files, group)
                before, after = before + len(group), after + 1
            return Compacted(before, after)

    def retain(self, days: float, *, wait: float = PATIENCE) -> int:
        """Forget predictions of days that ended over `days` days ago; returns how many files went."""
        first = datetime.fromtimestamp(self._now(), UTC) - timedelta(days=days)
        with self._files.working(wait):
            self._begin()
            old = [part.path for part in self._files.parts() if part.day < first.date().isoformat()]
            if old:
                self._files.put((), old)
            self._files.forget_damaged(first.timestamp())
            for folder in {path.parent for path in old}:
                if not any(folder.iterdir()):
                    folder.rmdir()
            return len(old)

    def erase(self, model: str, key: str, value: str, *, dry_run: bool = False) -> Erased:
        """Erase a model's predictions whose field `key` (`plane.year` for an inner one) has a value.

        The key may be `request_id`. Segments are converted first, those under way included; a record that is
        still in a service's memory is dropped when it arrives. What stays is when, how many, and a keyed
        hash. Raises ConfigError when no prediction has such a field, or the model has none.
        """
        with self._files.working():
            self._convert(0.0)
            mine = [part for part in self._files.parts() if part.model == model]
            refuse_unknown(model, key, mine, self._files.parts())
            if dry_run:
                counts = [staying(part.path, by_value(key, value)).count(False) for part in mine]
                return Erased(sum(counts), sum(map(bool, counts)))
            return self._erase(self._stones.begin(self._now(), model, key, value), by_value(key, value))

    def _begin(self) -> None:
        """Put right what a killed process left half done."""
        self._files.tidy()
        for stone in self._stones.all():
            if stone.erased is None:
                self._erase(stone, stone.match(self._stones.salt()))

    def _convert(self, settle: float) -> Converted:
        self._begin()
        self._files.close(self._now() - settle if settle else float("inf"))
        stones = self._stones.all()
        count = segments = lost = 0
        damaged = []
        for path in self._files.segments(growing=False):
            segment = self._files.read(path)
            if segment is None and path.stat().st_size:
                damaged.append(path.name)
                path.rename(path.with_suffix(DAMAGED))
                continue
            count += self._place(path, segment, stones) if segment else 0
            lost += segment.lost if segment else 0
            segments += 1
            self._files.put((), [path])
        return Converted(count, segments, lost, tuple(damaged))

    def _place(self, path: Path, segment: Segment, stones: Sequence[Tombstone]) -> int:
        """Write a segment's Parquet files and take it away."""
        keep = kept(segment, stones, self._stones.salt)
        made, count, erased = [], 0, list[str]()

        def stays(row: Row) -> bool:
            if not keep(row):
                erased.append(row.request_id)
                return False
            return True

        for day, table in tables(segment, stays).items():
            folder = self._files.place(segment.head.model, day)
            made.append((self._files.write(folder, table), folder / f"{PART}{path.stem}.parquet"))
            count += len(table)
        if erased:
            self._forget(erased)
        self._files.put(made, [path])
        return count

    # ------------------------------------------------------------ erasing
    def _erase(self, stone: Tombstone, match: Match) -> Erased:
        count = files = outcomes = 0

        def forget(requests: list[str]) -> None:
            nonlocal outcomes
            outcomes += self._forget(requests)

        for part in self._files.parts():
            if part.model == stone.model:
                gone = without(self._files, part.path, match, stone.at, forget)
                count, files = count + gone, files + bool(gone)
        self._stones.end(stone, count)
        return Erased(count, files, outcomes)


def _of_request(path: Path, request_id: str) -> pa.Table:
    table = pq.read_table(path, partitioning=None)
    return table.filter(pa.array([_is(each, request_id) for each in table.column("request_id").to_pylist()]))


def _placed(table: pa.Table, model: str, day: str) -> pa.Table:
    """Return a table with the columns that its place would say of a file."""
    models, days = [model] * len(table), [date.fromisoformat(day)] * len(table)
    table = table.append_column("model", pa.array(models, pa.string()))
    return table.append_column("day", pa.array(days, pa.date32()))


def _is(found: str, asked: str) -> bool:
    return found == asked or (found.startswith(asked) and found[len(asked) : len(asked) + 1] == "/")


def _names(record: Sequence[Any]) -> set[str]:
    """The names by which one record's predictions are known."""
    request = record[1]
    return {request, *(f"{request}/{row}" for row in range(record[10]))} if len(record) > 10 else {request}


def _number(request_id: str) -> tuple[int, str]:
    tail = request_id.rpartition("/")[2]
    return (int(tail) if tail.isdigit() and tail.isascii() else -1), request_id
