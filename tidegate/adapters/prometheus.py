"""Ratios of counters that a Prometheus server keeps: whatever a team measures already."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Hashable
from typing import Any

import httpx

from tidegate.core.plan import Check, Plan
from tidegate.core.readings import Readings
from tidegate.errors import ConfigError, NoData, Unreachable, suggest
from tidegate.ports import Asked, Measured

TIMEOUT = 2.0  # seconds for one query
PATH = "/api/v1/query"
SERIES = 100  # of one query; one a replica is what is meant
# One query for both, since only one sees a scrape as a whole or not at all. A comment ends with its line.
BOTH = """label_replace((
{events}
), "tidegate", "events", "", "") or label_replace((
{total}
), "tidegate", "total", "", "")"""
_KEY = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
Labels = tuple[tuple[str, str], ...]


def filled(query: str, known: dict[str, str]) -> str:
    """Return a query with each `{{key}}` filled in; raises ConfigError for a key that is none."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            hint = suggest(match[1], known, "Known: {}.")
            raise ConfigError(f"{{{{{match[1]}}}}} means nothing in a query", f"{hint} Correct rollout.yaml.")
        # In PromQL's strings, which is where a name belongs, a quote or a backslash would end them.
        return known[match[1]].replace("\\", "\\\\").replace('"', '\\"')

    return _KEY.sub(value, query)


class PrometheusMeasures:
    """`ports.Measures` by instant queries to the server at `url`; `plane` is what `{{plane}}` stands for.

    Each series of a query is followed by itself, so one a replica is best: a restart of one is then no
    restart of all. `events` and `total` must give the same series, whole numbers that only grow.
    """

    def __init__(self, url: str, plane: str = "", timeout: float = TIMEOUT) -> None:
        self._url, self._plane = url, plane
        try:
            self._client = httpx.Client(base_url=url, timeout=timeout)
        except (httpx.InvalidURL, TypeError) as error:
            raise ConfigError(
                f"`{url}` is no address of a Prometheus server ({error})",
                "Set prometheus.url in envs/platform.yaml.",
            ) from error
        self._readings = Readings(f"{os.getpid():x}-{time.time_ns():x}")
        self._lock = threading.Lock()

    def names(self, plan: Plan) -> tuple[str, ...]:
        """Return the plan's checks that are queries."""
        return tuple(check.name for check in plan.checks if check.metric == "prometheus")

    def read(self, asked: Asked) -> dict[str, Measured]:
        """Return each release's counts, by check and series.

        Raises Unreachable, NoData when the candidate has no series or one that can't be counted, and
        ConfigError for a key that means nothing.
        """
        checks = [check for check in asked.plan.checks if check.metric == "prometheus"]
        result = {}
        for release in asked.releases:
            tallies: dict[str, tuple[int, int]] = {}
            for check in checks:
                tallies |= self._tallies(asked, release, check)
            if tallies:
                result[release] = Measured(tallies)
        return result

    def _tallies(self, asked: Asked, release: str, check: Check) -> dict[str, tuple[int, int]]:
        assert check.query
        known = {"release": release, "model": asked.model, "environment": asked.environment}
        known |= {"plane": self._plane} if self._plane else {}
        query = BOTH.format(events=filled(check.query.events, known), total=filled(check.query.total, known))
        events, total = self._series(check, query)
        if len(total) > SERIES:
            raise NoData(
                f"{check.name}: {len(total)} series for {release} > {SERIES}",
                "Sum them: `sum by (instance)`.",
            )
        if not total:
            if release == asked.release:
                raise NoData(
                    f"{check.name}: Prometheus has no series of `total` for {release}",
                    "Send requests, wait for a scrape, and see that its labels are those of the query.",
                )
            return {}
        if events.keys() != total.keys():
            alone = _text(min(events.keys() ^ total.keys()))
            raise NoData(
                f"{check.name}: `events` and `total` give other series for {release}: only one has {alone}",
                "Sum both by the same labels, and let events be 0 where none was: `… or 0 * <total>`.",
            )
        rollout = (asked.model, asked.environment, asked.release, asked.since, check.name, release)
        with self._lock:  # several models may be asked about at once
            for labels, trials in total.items():
                self._readings.take(rollout, _text(labels), (trials, events[labels]))
            # Those out of sight as well: a key that comes and goes would be new when it comes back.
            return {
                self._readings.key(check.name, source): self._known(check, rollout, source)
                for source in self._readings.sources(rollout)
            }

    def _known(self, check: Check, rollout: Hashable, source: str) -> tuple[int, int]:
        trials, count = self._readings.known(rollout, source) or (0, 0)
        if count > trials:
            raise NoData(
                f"{check.name}: `events` grew by {count} and `total` by {trials} in {source}",
                "Count in `events` a part of what `total` counts.",
            )
        return trials, count

    # ---------------------------------------------------------------- asking
    def _series(self, check: Check, query: str) -> tuple[dict[Labels, int], dict[Labels, int]]:
        """Return labels → value of events and of total."""
        try:
            answer = self._client.get(PATH, params={"query": query})
            document = answer.json()
            status = document["status"]
        except httpx.HTTPError as error:
            raise Unreachable(
                f"Prometheus at {self._url} does not answer ({str(error) or type(error).__name__})",
                "Start it, or set prometheus.url in envs/platform.yaml.",
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Unreachable(
                f"what answers at {self._url} ({answer.status_code}) is no Prometheus",
                "Set prometheus.url in envs/platform.yaml.",
            ) from error
        if status != "success":
            if answer.status_code >= 500 or document.get("errorType") in ("timeout", "canceled", "internal"):
                raise Unreachable(
                    f"Prometheus could not answer {check.name}: {document.get('error')}", "Look at its log."
                )
            raise NoData(
                f"Prometheus refused the query of {check.name}: {document.get('error')}: {query}",
                "Correct it in rollout.yaml.",
            )
        return _values(check, document.get("data"))


def _values(check: Check, data: Any) -> tuple[dict[Labels, int], dict[Labels, int]]:
    """Return both parts of an answer's data; raises NoData for what is no counter."""
    found: dict[str, dict[Labels, int]] = {"events": {}, "total": {}}
    try:
        for item in data["result"]:
            labels = dict(item["metric"])
            part = found[labels.pop("tidegate")]
            labels.pop("__name__", None)
            part[tuple(sorted(labels.items()))] = _count(check, item["value"][1])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise Unreachable("Prometheus answered something else than its API says", "Look at it.") from error
    return found["events"], found["total"]


def _count(check: Check, text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise NoData(f"{check.name}: its query gives {text}", "Query counters: they start at 0 and grow.")
    return math.floor(value)


def _text(labels: Labels) -> str:
    """Write labels as PromQL does; an at-sign would end a key's name."""
    return "{" + ",".join(f'{key}="{value}"' for key, value in labels) + "}"
