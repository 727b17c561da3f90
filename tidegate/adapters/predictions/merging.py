"""Small files of a day become one, sorted by time: a query opens few, and skips other hours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.adapters.predictions.files import Files, Part, merged_name

SMALL_BYTES = 64 * 1024 * 1024  # a larger Parquet file is left as it is
MERGE_BYTES = 128 * 1024 * 1024  # of files that are merged into one
FEW = 16  # files of a day that is not over yet, from which they are merged


def groups(files: Files, now: float) -> Iterator[list[Part]]:
    """Return files to be merged: of one model, day and shape, not too many bytes at once."""
    today = datetime.fromtimestamp(now, UTC).date().isoformat()
    shapes: dict[tuple[str, str, str], list[Part]] = {}
    for part in files.parts():
        if part.path.stat().st_size < SMALL_BYTES:
            shape = str(pq.read_schema(part.path).remove_metadata())
            shapes.setdefault((part.model, part.day, shape), []).append(part)
    for (_, day, _), found in shapes.items():
        least = FEW if day >= today else 2
        yield from (group for group in _sized(found) if len(group) >= least)


def _sized(found: Sequence[Part]) -> Iterator[list[Part]]:
    group: list[Part] = []
    size = 0
    for part in found:
        group.append(part)
        size += part.path.stat().st_size
        if size >= MERGE_BYTES:
            yield group
            group, size = [], 0
    yield group


def merge(files: Files, group: Sequence[Part]) -> None:
    """Make one file of several, which go once it is there."""
    paths = [part.path for part in group]
    whole = pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])
    whole = whole.replace_schema_metadata(None).sort_by("time")
    names = [path.name for path in paths]
    folder = paths[0].parent
    temporary = files.write(folder, whole, names)
    files.put([(temporary, folder / merged_name(names))], paths)
