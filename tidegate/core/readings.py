"""Counters that others keep, followed from a first sight on, so that nothing is ever counted twice. Pure.

A counter is older than the rollout that asks for it, may be out of sight for a while, and begins anew when
its process does. What is told of it is what was surely added while it was watched: never more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

Row = tuple[int, ...]
ROLLOUTS = 2000  # watched at once; beyond that the one that was asked for longest ago is forgotten
SOURCES = 256  # of one rollout
DROPS = 64  # of one row of counters that are remembered


@dataclass(frozen=True)
class Followed:
    """A row of counters: the `last` reading, what was `counted`, and by how much each drop fell (`owed`).

    What fell away may be a part of a sum that is out of sight, and would come back as a whole.
    """

    last: Row
    counted: Row
    owed: tuple[Row, ...] = ()


def follow(before: Followed | None, row: Row, *, fresh: bool = False) -> Followed:
    """Return what is known after one more reading of a row of counters.

    The first reading is where counting begins, unless all of it is `fresh`. After a drop counting goes on
    from below. A rise that is at least as large as an earlier drop, in every counter of the row, may be the
    part that fell away: so much of it is not new, once. A smaller one can't be: all of it is new.
    """
    if before is None or len(before.last) != len(row):
        return Followed(row, row if fresh else (0,) * len(row))
    rise = _less(row, before.last)
    if min(rise, default=0) < 0:
        return Followed(row, before.counted, (*before.owed, _less(before.last, row))[-DROPS:])
    owed = []
    for part in sorted(before.owed, key=sum, reverse=True):
        if min(_less(rise, part)) < 0:
            owed.append(part)
        else:
            rise = _less(rise, part)
    counted = tuple(known + new for known, new in zip(before.counted, rise, strict=True))
    return Followed(row, counted, tuple(owed))


def _less(row: Row, other: Row) -> Row:
    return tuple(mine - theirs for mine, theirs in zip(row, other, strict=True))


class Readings:
    """What one reader has seen since it began, by rollout and source.

    `life` names the reader: it is part of each key that it tells, since another one begins at another sight.
    """

    def __init__(self, life: str) -> None:
        self.life = life
        self._seen: OrderedDict[Hashable, OrderedDict[str, Followed]] = OrderedDict()

    def take(self, rollout: Hashable, source: str, row: Row, *, fresh: bool = False) -> Row:
        """Note a reading and return what was counted of its source for this rollout."""
        mine = self._seen.setdefault(rollout, OrderedDict())
        self._seen.move_to_end(rollout)
        mine[source] = follow(mine.get(source), row, fresh=fresh)
        mine.move_to_end(source)
        while len(mine) > SOURCES:
            mine.popitem(last=False)
        while len(self._seen) > ROLLOUTS:
            self._seen.popitem(last=False)
        return mine[source].counted

    def known(self, rollout: Hashable, source: str) -> Row | None:
        """Return what was counted until now, of a source that is out of sight."""
        mine = self._seen.get(rollout)
        found = mine.get(source) if mine else None
        return found.counted if found else None

    def sources(self, rollout: Hashable) -> tuple[str, ...]:
        """Return every source that was seen for a rollout, in sight or not."""
        return tuple(self._seen.get(rollout) or ())

    def key(self, name: str, source: str) -> str:
        """Return the key of a count, `name@source.life`."""
        return f"{name}@{source}.{self.life}"
