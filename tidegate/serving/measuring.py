"""What a service counts of its own predictions; travels inside every Bento.

`GET /measures` tells a histogram of the scores and how many predictions lacked a feature, and BentoML's
`/metrics` tells the same, and each answer's status and time, to Prometheus. Plain numbers of one process, as
a workload is: a counter of prometheus_client's costs more than all of these.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidegate.serving.artifact import Holdout, identity
from tidegate.serving.metrics import Histogram, Registry
from tidegate.serving.scores import Scores, Span

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

PATH = "/measures"
WARM = b"x-tidegate-warm"  # the header of a request that is none of a caller's
TOGETHER = 64  # counts that are added up at once

# An edge at each time that is promised anywhere (15 ms, 50 ms, a rollout's 1 s), and up to the deadline.
_MS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 100, 250, 500, 1000, 2500, 10_000)
SECONDS = tuple(value / 1000 for value in _MS)


def lacks(rows: Any) -> bool:
    """Tell whether any number of these rows, an array or nested lists, is not known (NaN or None)."""
    # By Python's own floats: a reduction of NumPy's takes five times as long on one row.
    values = rows.tolist() if isinstance(rows, np.ndarray) else rows
    while values and isinstance(values[0], list):
        values = values[0] if len(values) == 1 else [value for row in values for value in row]
    try:
        total = sum(values)
    except TypeError:  # words, or None
        total = math.nan
    return bool(total != total) and any(value is None or value != value for value in values)  # ∞ - ∞ is known


class Measuring:
    """The counts of one process since it began; `score` names the field of the answer that is one, if any.

    Its histogram is over the range that `over` says, once that is known.
    `featured` counts the predictions whose features were seen, so that a rate of missing ones has a base;
    `names` are those of a row's features, so that it is told which of them are missing. What other parts of
    the process count is shown by `add`: see metrics.Registry.
    """

    def __init__(self, name: str, score: str = "", decision: str = "", names: Sequence[str] = ()) -> None:
        self.name, self.score, self.decision = name, score, decision
        self.instance = f"{os.getpid()}-{time.time():.3f}"
        self.predictions = self.featured = self.missing = 0
        self.scores = Scores()
        self._statuses: dict[int, int] = {}
        self._taken = Histogram(SECONDS)
        self._taken_many = Histogram(SECONDS)
        self._lacking = dict.fromkeys(names, 0)
        self._waiting: list[tuple[Any, Any]] = []  # scores as answered, and rows
        self._times: list[float] = []
        self._metrics = Registry(name)
        self.add = self._metrics.add
        self._show()

    def _show(self) -> None:
        """Name what is counted here."""
        add = self.add
        about = "Predictions by status"
        add("tidegate_predictions_total", about, "counter", self._by_status, "status")
        about = "Seconds inside the service for one prediction"
        add("tidegate_prediction_seconds", about, "histogram", lambda: self._taken)
        about = "Seconds inside the service for one request of many rows"
        add("tidegate_many_seconds", about, "histogram", lambda: self._taken_many)
        add("tidegate_score", "Scores of predictions", "histogram", lambda: self.scores.histogram)
        about = "Distance from the least to the greatest score that is declared"
        add("tidegate_score_span", about, "gauge", lambda: self.scores.width)
        about = "Scores outside of the declared range"
        add("tidegate_scores_outside_total", about, "counter", lambda: self.scores.outside)
        about = "Predictions whose features were seen"
        add("tidegate_featured_total", about, "counter", lambda: self.featured)
        about = "Predictions that lacked a feature"
        add("tidegate_missing_features_total", about, "counter", lambda: self.missing)
        about = "Predictions that lacked this feature"
        add("tidegate_feature_missing_total", about, "counter", lambda: self._lacking, "feature")
        about = "Memory that the process holds (resident), by its release"
        add("tidegate_memory_bytes", about, "gauge", lambda: {identity()["release"]: memory()}, "release")
        began = float(self.instance.partition("-")[2])
        add("tidegate_start_time_seconds", "When the process began, since 1970", "gauge", lambda: began)
        add("tidegate_build_info", "Who answers; always 1", "info", identity)

    def over(self, span: Span | None) -> None:
        """Count scores in bins over this range from now on; what was counted before is forgotten."""
        self.scores = Scores(span)

    def _by_status(self) -> dict[str, float]:
        return {str(status): n for status, n in self._statuses.items()}

    def count(self, answer: dict[str, Any], rows: Any = None) -> None:
        """Count a prediction that was answered; `rows` are the features that it was made of, if any.

        Added up when `TOGETHER` wait, or when somebody asks: one at a time costs ten times as much,
        since the model leaves nothing of this code in the processor's caches.
        """
        self._waiting.append((answer.get(self.score), rows))
        if len(self._waiting) >= TOGETHER:
            self._add_up()

    def count_many(self, count: int, answers: Mapping[str, Any], rows: Any = None) -> None:
        """Count the predictions of one request of many rows; each of `answers` is an array of `count`."""
        self.predictions += count
        if rows is not None:
            self._look_at(rows)
        scores = answers.get(self.score)
        if isinstance(scores, np.ndarray) and scores.dtype.kind in "fiu":
            self.scores.add_many(scores)

    def _look_at(self, rows: Any) -> None:
        """Count what many rows lack."""
        if isinstance(rows, np.ndarray) and rows.dtype.kind == "f" and rows.ndim == 2:
            unknown = np.isnan(rows)
            self.featured += len(rows)
            self.missing += int(unknown.any(axis=1).sum())
            self._lack(unknown.sum(axis=0).tolist())
        else:
            self._look([rows[index : index + 1] for index in range(len(rows))])

    def timed_many(self, status: int, rows: int, seconds: float) -> None:
        """Count an answer to a request of many rows, apart from those to single rows; 0 rows if refused."""
        self._statuses[status] = self._statuses.get(status, 0) + max(rows, 1)
        self._taken_many.observe(seconds)

    def timed(self, status: int, seconds: float) -> None:
        """Count an answer of any status and what it took, for `/metrics`.

        BentoML's own `bentoml_service_request_*` count what its middlewares see: not the predictions.
        """
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._times.append(seconds)
        if len(self._times) >= TOGETHER:
            self._add_up()

    def _add_up(self) -> None:
        """Count what waits."""
        waiting, self._waiting = self._waiting, []
        times, self._times = self._times, []
        for seconds in times:
            self._taken.observe(seconds)
        self.predictions += len(waiting)
        for value, _ in waiting:
            score = number(value)
            if score is not None:
                self.scores.add(score)
        self._look([rows for _, rows in waiting if rows is not None])

    def _look(self, seen: list[Any]) -> None:
        """Count what these rows lack, by name too; of rows of other features, no names."""
        self.featured += len(seen)
        own = (1, len(self._lacking))
        alike = [rows for rows in seen if isinstance(rows, np.ndarray) and rows.shape == own]
        together = np.concatenate(alike) if alike else np.empty((0, 0))
        if together.dtype.kind == "f" and own[1]:
            unknown = np.isnan(together)
            self.missing += int(unknown.any(axis=1).sum())
            self._lack(unknown.sum(axis=0).tolist())
            seen = [rows for rows in seen if not isinstance(rows, np.ndarray) or rows.shape != own]
        for rows in seen:
            if lacks(rows):
                self.missing += 1
                values = rows.tolist() if isinstance(rows, np.ndarray) else rows
                self._lack(
                    [value is None or value != value for value in values[0]] if len(values) == 1 else ()
                )

    def _lack(self, more: Sequence[int]) -> None:
        for name, count in zip(self._lacking, more, strict=False):
            self._lacking[name] += count

    def document(self) -> bytes:
        """Return what `GET /measures` answers."""
        self._add_up()
        counted = self.scores
        told = {name: getattr(self, name) for name in ("instance", "predictions", "featured", "missing")}
        told |= {"scored": counted.number, "scores": counted.counts}
        return msgspec.json.encode(told | {"span": counted.span, "outside": counted.outside})

    def text(self) -> bytes:
        """Return all counts in Prometheus' text form, as an addition to BentoML's `/metrics`."""
        self._add_up()
        return self._metrics.text().encode()


def show_holdout(measured: Measuring, model: Callable[[], Any], names: Sequence[str]) -> None:
    """Show what a model's holdout looked like beside what is counted; of one that tells none, no score.

    A feature of which nothing is told counts as one that was never missing.
    """

    def holdout() -> Holdout:
        found = getattr(model(), "holdout", None)
        return found if isinstance(found, Holdout) else Holdout()

    def missing() -> dict[str, float]:
        return {name: holdout().missing.get(name, 0.0) for name in names}

    about = "Mean score of the rows that the model was judged by"
    measured.add("tidegate_score_baseline", about, "gauge", lambda: holdout().score)
    about = "Share of the rows that the model was judged by which lacked this feature"
    measured.add("tidegate_feature_missing_baseline", about, "gauge", missing, "feature")


def memory() -> float:
    """Return the bytes of memory that this process holds, 0 where the system does not tell (no /proc)."""
    try:
        return float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0.0


def number(value: Any) -> float | None:
    """Return a finite number as a float, and None for anything else, True and False included."""
    if not isinstance(value, (float, int)) or value is True or value is False or not math.isfinite(value):
        return None
    return float(value)


def appending(send: Send, text: Callable[[], bytes]) -> Send:
    """Return a `send` that adds `text()` to the end of a plain answer of status 200, whatever its parts."""
    start: Message = {}
    body = b""

    async def later(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            names = {bytes(name).lower() for name, _ in message["headers"]}
            if message["status"] == 200 and b"content-encoding" not in names:
                start = message  # held back, since its length is not known yet
                return
        elif start and message["type"] == "http.response.body":
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = body if body.endswith(b"# EOF\n") else body + text()  # OpenMetrics allows nothing after it
            length = (b"content-length", str(len(body)).encode())
            kept = [(name, value) for name, value in start["headers"] if name.lower() != length[0]]
            await send({**start, "headers": [*kept, length]})
            message = {**message, "body": body}
        await send(message)

    return later
