"""What mirrored requests were answered by both releases: the services' own journals, read as they grow.

Each service process appends to `<release>.<pid>.jsonl` in the plane's folder of answers, and keeps one
older file beside it (`….jsonl.1`). A container has a folder of its own there: its process id is 1.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tidegate.core.answers import Answer, Join, Pair, Side, Summary, event, silent, summary
from tidegate.core.plan import PAIRED, Check, Plan
from tidegate.errors import NoData, Unreachable
from tidegate.ports import Asked, Measured

CHUNK = 256 * 1024
BUDGET = 8 * 1024 * 1024  # bytes of one read: a look must not wait for a backlog
SHOWN = 4 * 1024 * 1024  # bytes at each file's end that a summary is made of
LONGEST = 64 * 1024  # of a line; a longer one is garbage
ROLLOUTS = 200  # followed at once
KEPT = 2 * 86400.0  # seconds after which a file that nobody writes any more is removed
SWEEP = 3600.0
COMPARED = {"disagreement": "decision", "score-difference": "score"}  # what a service's class must name
_decode = msgspec.json.Decoder(Answer).decode


@dataclass
class Tail:
    """One file of answers, known by its inode, since a name changes when the file is full."""

    path: Path
    side: Side
    offset: int
    rest: bytes = b""
    clock: float = -math.inf  # when the last answer read here was given

    def read(self, inode: int, most: int) -> tuple[list[Answer], int]:
        """Return the next answers and how many bytes were read; a line that is none is passed over."""
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_ino != inode:  # renamed since it was listed: the next look finds it
                return [], 0
            file.seek(self.offset)
            data = file.read(most)
        self.offset += len(data)
        whole, newline, rest = (self.rest + data).rpartition(b"\n")
        self.rest = rest if len(rest) <= LONGEST else b""
        found = list(_answers(whole)) if newline else []
        self.clock = found[-1].at if found else self.clock
        return found, len(data)


def _answers(lines: bytes) -> Iterator[Answer]:
    for line in lines.split(b"\n"):
        try:
            answer = _decode(line)
        except (ValueError, RecursionError):
            continue
        if math.isfinite(answer.at):
            yield answer


@dataclass
class _Followed:
    """What one rollout's answers have come to; `life` names this reading of them from its beginning on."""

    life: str
    tails: dict[int, Tail] = field(default_factory=dict)
    join: Join = field(default_factory=Join)
    trials: Counter[tuple[str, float]] = field(default_factory=Counter)
    events: Counter[tuple[str, float]] = field(default_factory=Counter)
    told: Counter[tuple[str, bool]] = field(default_factory=Counter)  # good pairs by (metric, silent)
    begun: bool = False


class AnswerMeasures:
    """`ports.Measures` of the answers in `folder`.

    Reading begins at the files' ends, whenever a rollout is first asked for: an agent that was restarted
    counts nothing twice, and loses the pairs of the time in which nobody read.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._life = f"{os.getpid():x}-{time.time_ns():x}"
        self._begun = 0
        self._swept = -math.inf
        self._followed: OrderedDict[Hashable, _Followed] = OrderedDict()
        self._lock = threading.Lock()

    def names(self, plan: Plan) -> tuple[str, ...]:
        """Return the plan's checks of mirrored answers."""
        return tuple(check.name for check in plan.checks if check.metric in PAIRED)

    def read(self, asked: Asked) -> dict[str, Measured]:
        """Return the pairs counted so far, on the candidate's arm.

        Raises Unreachable, and NoData without a file or where no answer names what a check compares.
        """
        checks = [check for check in asked.plan.checks if check.metric in PAIRED]
        with self._lock:
            found = self._of(asked)
            self._follow(asked, found, checks)
            self._sweep()
            if not any(tail.side == "candidate" for tail in found.tails.values()):
                raise NoData(
                    f"{asked.model} {asked.release} has written down no answer yet",
                    "Send requests; a Bento that was built before it could has to be built anew.",
                )
            for metric in {check.metric for check in checks}:
                if found.told[metric, True] and not found.told[metric, False]:
                    raise _nothing_named(asked, metric)
            return {asked.release: Measured(dict(self._tallies(found, checks)))}

    def _of(self, asked: Asked) -> _Followed:
        key = (asked.model, asked.environment, asked.release, asked.stable, asked.since)
        if key not in self._followed:
            self._begun += 1
            self._followed[key] = _Followed(f"{self._life}-{self._begun}")
        self._followed.move_to_end(key)
        while len(self._followed) > ROLLOUTS:
            self._followed.popitem(last=False)
        return self._followed[key]

    def _tallies(self, found: _Followed, checks: Sequence[Check]) -> Iterator[tuple[str, tuple[int, int]]]:
        for check in checks:
            key = _key(check)
            tail = f"-{key[1]:g}" if check.difference is not None else ""  # edited: other pairs are events
            yield f"{check.name}@{found.life}{tail}", (found.trials[key], found.events[key])

    # ---------------------------------------------------------------- reading
    def _follow(self, asked: Asked, found: _Followed, checks: Sequence[Check]) -> None:
        """Read what was added to the files, in the order of time as far as possible."""
        sizes = self._look(asked, found)
        left = BUDGET
        waiting = {inode for inode, size in sizes.items() if size > found.tails[inode].offset}
        while waiting and left > 0:
            inode = min(waiting, key=lambda one: found.tails[one].clock)
            tail = found.tails[inode]
            try:
                answers, read = tail.read(inode, CHUNK)
            except FileNotFoundError:
                answers, read = [], 0
            except OSError as error:
                raise _unreadable(tail.path, error) from error
            left -= read
            if not read or tail.offset >= sizes[inode]:
                waiting.discard(inode)
            for answer in answers:
                if answer.at >= asked.since and (pair := found.join.add(tail.side, answer)):
                    _count(found, checks, pair)

    def _look(self, asked: Asked, found: _Followed) -> dict[int, int]:
        """Return the size of each file of the two arms by inode, and keep their tails."""
        sizes: dict[int, int] = {}
        arms: list[tuple[Side, str | None]] = [("candidate", asked.release), ("stable", asked.stable)]
        for path, status in _files(self._folder):
            for side, release in arms:
                if release and _of_release(path.name, release):
                    sizes[status.st_ino] = status.st_size
                    tail = found.tails.get(status.st_ino)
                    if tail is None:
                        start = 0 if found.begun else status.st_size
                        tail = found.tails[status.st_ino] = Tail(path, side, start)
                    tail.path = path
                    if status.st_size < tail.offset:  # somebody cut it
                        tail.offset, tail.rest = 0, b""
        found.begun = True
        found.tails = {inode: tail for inode, tail in found.tails.items() if inode in sizes}
        return sizes

    def _sweep(self) -> None:
        """Remove files that no process has written to for two days, once an hour."""
        now = self._clock()
        if abs(now - self._swept) < SWEEP:
            return
        self._swept = now
        for path, status in _files(self._folder):
            if now - status.st_mtime > KEPT:
                path.unlink(missing_ok=True)


def recent(folder: Path, release: str, stable: str, since: float) -> Summary:
    """Return what the last answers of both releases say, for a page or a status; raises Unreachable."""
    join, pairs = Join(), []
    told: list[tuple[float, int, Side, Answer]] = []
    arms: list[tuple[Side, str]] = [("candidate", release), ("stable", stable)]
    for path, status in _files(folder):
        for side, name in arms:
            if _of_release(path.name, name):
                tail = Tail(path, side, max(0, status.st_size - SHOWN))
                try:
                    answers, _ = tail.read(status.st_ino, SHOWN)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise _unreadable(path, error) from error
                told += [(a.at, len(told) + i, side, a) for i, a in enumerate(answers) if a.at >= since]
    for _, _, side, answer in sorted(told, key=lambda item: item[:2]):
        if pair := join.add(side, answer):
            pairs.append(pair)
    return summary(pairs)


def _key(check: Check) -> tuple[str, float]:
    return check.metric, check.difference or 0.0


def _nothing_named(asked: Asked, metric: str) -> NoData:
    field = COMPARED[metric]
    return NoData(
        f"the answers of {asked.model} {asked.release} and {asked.stable} have no {field}, so {metric} has "
        "nothing to compare",
        f"Let the service's class say `{field} = \"…\"`, the answer's field that is one; or drop the check.",
    )


def _count(found: _Followed, checks: Sequence[Check], pair: Pair) -> None:
    for check in {check.metric: check for check in checks}.values():
        mute = silent(check, pair)
        if mute is not None:
            found.told[check.metric, mute] += 1
    for key, check in {_key(check): check for check in checks}.items():
        happened = event(check, pair)
        if happened is not None:
            found.trials[key] += 1
            found.events[key] += happened


def _of_release(name: str, release: str) -> bool:
    return name.startswith(f"{release}.") and name.endswith((".jsonl", ".jsonl.1"))


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Return the files of answers, also those in containers' own folders. Raises Unreachable.

    None when nobody has written yet.
    """
    result = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        result += _files(Path(entry.path))
                    elif entry.name.endswith((".jsonl", ".jsonl.1")) and entry.is_file(follow_symlinks=False):
                        result.append((Path(entry.path), entry.stat(follow_symlinks=False)))
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
    return result


def _unreadable(path: Path, error: OSError) -> Unreachable:
    return Unreachable(f"can't read {path}: {error.strerror}", "Give access to it, or make room.")
