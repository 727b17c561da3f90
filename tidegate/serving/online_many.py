"""Online features of many rows: a key is looked up once, however many of the rows ask for it."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.serving.arrays import Array, array
from tidegate.serving.columns import Form, Rows
from tidegate.serving.online import Lookups, template
from tidegate.serving.redis_link import Away

TOGETHER = 256  # keys of one look-up

Places = npt.NDArray[np.int64]


class Wanted(msgspec.Struct):
    """What rows ask for: of each feature the keys that there are, and which of them each row has."""

    rows: Array  # True where the store is asked: where a caller says nothing
    keys: dict[str, tuple[list[str | None], Places]]  # by the feature's name


class ManyLookups:
    """Lays into columns what `Lookups` lays into single requests, by the same rules."""

    def __init__(self, lookups: Lookups, form: Form) -> None:
        self._lookups, self._form = lookups, form
        self._fields = {column.field: name for name, column in form.columns.items() if not column.group}

    def wanted(self, rows: Rows) -> Wanted | None:
        """Return what rows ask for; None where nothing is looked up."""
        lookup = self._lookups.lookup
        if lookup is None:
            return None
        asking = self._form.lacking(rows)[self._group]
        return Wanted(asking, {name: self._keys(text, rows) for name, text in lookup.keys.items()})

    async def found(self, wanted: Wanted) -> dict[str, bytes]:
        """Return what the store knows, by key; nothing when it is away."""
        asked = {
            key
            for keys, places in wanted.keys.values()
            for key in (keys[place] for place in np.unique(places[wanted.rows]).tolist())
            if key is not None
        }
        keys = sorted(asked)
        found: dict[str, bytes] = {}
        for first in range(0, len(keys), TOGETHER):
            some = keys[first : first + TOGETHER]
            try:
                values = await self._lookups.store.get(some)
            except Away:
                self._lookups.errors += 1
                break
            found |= {key: value for key, value in zip(some, values, strict=False) if value is not None}
        return found

    def filled(self, rows: Rows, wanted: Wanted, found: Mapping[str, bytes]) -> Rows:
        """Return the rows with what was found, and defaults for the rest; counted by rows."""
        columns = dict(rows.columns)
        for name, (keys, places) in wanted.keys.items():
            column = self._form.columns[".".join((*self._group, self._encoded(name)))]
            values, known = self._values(name, keys, found)
            laid = columns[column.name].copy()
            laid[wanted.rows] = array(column.kind, values)[places[wanted.rows]]
            columns[column.name] = laid
            count = np.bincount(known[places[wanted.rows]], minlength=3).tolist()
            self._lookups.hits[name] += count[2]
            self._lookups.missing[name] += count[1]
        return Rows(columns, rows.absent - {name for name in columns if self._inside(name)}, rows.count)

    def _values(
        self, name: str, keys: Sequence[str | None], found: Mapping[str, bytes]
    ) -> tuple[list[Any], Places]:
        """Return the value of each key, and 2 where it was found, 1 where it is missing, 0 without a key."""
        lookups = self._lookups
        decode = lookups.decode[lookups.names.index(name)]
        values, known = [], []
        for key in keys:
            value, kind = lookups.default[name], 0 if key is None else 1
            data = found.get(key) if key is not None else None
            if data is not None:
                try:
                    value, kind = decode(data), 2
                except msgspec.MsgspecError:
                    lookups.spoilt += 1
            values.append(value)
            known.append(kind)
        return values, np.array(known, dtype=np.int64)

    def _keys(self, text: str, rows: Rows) -> tuple[list[str | None], Places]:
        """Return the keys that rows have by a template, and the place of each row's among them."""
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        lists = [self._plain(rows.columns[self._fields[name]]) for name in names]
        told = list(zip(*lists, strict=True)) if names else [()] * rows.count
        distinct = {values: place for place, values in enumerate(dict.fromkeys(told))}
        fill = template(text)
        keys = [fill(SimpleNamespace(**dict(zip(names, values, strict=True)))) for values in distinct]
        return keys, np.fromiter(map(distinct.__getitem__, told), np.int64, rows.count)

    @staticmethod
    def _plain(values: Array) -> list[Any]:
        plain = values.tolist()
        return [None if v != v else v for v in plain] if values.dtype.kind == "f" else plain

    @property
    def _group(self) -> tuple[str, ...]:
        return next(g.path for g in self._form.groups if g.field == self._lookups.into and len(g.path) == 1)

    def _encoded(self, name: str) -> str:
        group = self._group
        return next(c.key for c in self._form.columns.values() if c.group == group and c.field == name)

    def _inside(self, name: str) -> bool:
        return self._form.columns[name].group[:1] == self._group
