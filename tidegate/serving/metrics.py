"""What a process tells Prometheus: each part of it names its numbers once, and they are read when asked for.

A part counts in plain attributes, which cost nothing to speak of, and registers how to read them:
`registry.add("tidegate_cache_hits_total", "Answers from the cache", "counter", lambda: self.hits)`.
"""

from __future__ import annotations

import logging
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]

PREFIX = "tidegate_"
NAME = re.compile(PREFIX + r"[a-z][a-z0-9_]*\Z")

log = logging.getLogger(__name__)


class Histogram:
    """How many values lie up to each edge; one more count is for what lies above the last."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = tuple(edges)
        self.counts = [0] * (len(self.edges) + 1)
        self.total = 0.0  # the values' sum

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value


# A number; by a label's value; a histogram; of an info, its labels; None while there is none.
Reading = float | Mapping[str, float] | Histogram | Mapping[str, str] | None


@dataclass(frozen=True)
class Metric:
    """A name on the page, and how its numbers are read."""

    name: str
    about: str
    kind: Kind
    read: Callable[[], Reading]
    label: str = ""  # of a mapping's keys

    def lines(self, service: str) -> Iterator[str]:
        """Write it in Prometheus' text form, each sample with the service's name."""
        own = f'service="{escaped(service)}"'
        found = self.read()
        yield f"# HELP {self.name} {self.about}"
        yield f"# TYPE {self.name} {'gauge' if self.kind == 'info' else self.kind}"
        if found is None:
            return
        if isinstance(found, Histogram):
            yield from self._buckets(own, found)
        elif self.kind == "info" and isinstance(found, Mapping):
            more = "".join(f',{name}="{escaped(str(value))}"' for name, value in found.items())
            yield f"{self.name}{{{own}{more}}} 1"
        elif isinstance(found, Mapping):
            for key, value in list(found.items()):
                yield f'{self.name}{{{own},{self.label}="{escaped(str(key))}"}} {value}'
        else:
            yield f"{self.name}{{{own}}} {found}"

    def _buckets(self, own: str, found: Histogram) -> Iterator[str]:
        below = 0
        for edge, count in zip((*found.edges, math.inf), found.counts, strict=True):
            below += count
            bound = "+Inf" if edge == math.inf else f"{edge:.10g}"
            yield f'{self.name}_bucket{{{own},le="{bound}"}} {below}'
        yield f"{self.name}_count{{{own}}} {below}"
        yield f"{self.name}_sum{{{own}}} {found.total!r}"


class Registry:
    """All metrics of one process, in the order in which they were added."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._metrics: dict[str, Metric] = {}
        self._broken: set[str] = set()

    def add(self, name: str, about: str, kind: Kind, read: Callable[[], Reading], label: str = "") -> None:
        """Show one metric from now on; `read` is called at each scrape, in the loop's thread.

        It returns a number; of several, the numbers by the value of `label`; of a histogram, a Histogram; of
        an info, its labels; None when there is none. Raises ValueError for a name that is taken, has another
        prefix, or is a counter without `_total`.
        """
        if not NAME.match(name) or (kind == "counter") != name.endswith("_total"):
            raise ValueError(f"{name} is no name of a {kind}: {PREFIX}…, and _total at a counter's end alone")
        if name in self._metrics:
            raise ValueError(f"{name} is counted already")
        self._metrics[name] = Metric(name, about, kind, read, label)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._metrics.values())

    def text(self) -> str:
        """Return the page; what can't be read is left out and told once, since the rest is still true."""
        parts: list[str] = []
        for metric in self:
            try:
                parts += list(metric.lines(self._service))
            except Exception:
                if metric.name not in self._broken:
                    self._broken.add(metric.name)
                    log.exception("%s can't be read", metric.name)
        return "\n".join(parts) + "\n"


def escaped(value: str) -> str:
    """Return a label's value as Prometheus' text form writes it."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
