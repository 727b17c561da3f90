"""What a service counts of its own predictions; travels inside every Bento.

`GET /measures` tells a histogram of the scores and how many predictions lacked a feature, and BentoML's
`/metrics` tells the same, and each answer's status and time, to Prometheus. Plain numbers of one process, as
a workload is: a counter of prometheus_client's costs more than all of these.
"""

from __future__ import annotations

import logging
import math
import os
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from typing import Any

import msgspec
import numpy as np

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

PATH = "/measures"
WARM = b"x-tidegate-warm"  # the header of a request that is none of a caller's
BINS = 50  # equal ones of the scores in [0, 1] (core/counts.py says the same)

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

log = logging.getLogger(__name__)


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

    `featured` counts the predictions whose features were seen, so that a rate of missing ones has a base.
    """

    def __init__(self, name: str, score: str = "", decision: str = "") -> None:
        self.name, self.score, self.decision = name, score, decision
        self.instance = f"{os.getpid()}-{time.time():.3f}"
        self.predictions = self.featured = self.missing = self.scored = 0
        self.scores = [0] * BINS
        self._score_sum = 0.0
        self._statuses: dict[int, int] = {}
        self._taken = [0] * (len(SECONDS) + 1)
        self._seconds = 0.0

    def count(self, answer: dict[str, Any], rows: Any = None) -> None:
        """Count a prediction that was answered; `rows` are the features that it was made of, if any."""
        self.predictions += 1
        if rows is not None:
            self.featured += 1
            self.missing += lacks(rows)
        score = number(answer.get(self.score))
        if score is not None:
            self.scored += 1
            self._score_sum += score
            self.scores[min(int(min(max(score, 0.0), 1.0) * BINS), BINS - 1)] += 1

    def timed(self, status: int, seconds: float) -> None:
        """Count an answer of any status and what it took, for `/metrics`.

        BentoML's own `bentoml_service_request_*` count what its middlewares see: not the predictions.
        """
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._taken[bisect_left(SECONDS, seconds)] += 1
        self._seconds += seconds

    def document(self) -> bytes:
        """Return what `GET /measures` answers."""
        names = ("instance", "predictions", "featured", "missing", "scored", "scores")
        return msgspec.json.encode({name: getattr(self, name) for name in names})

    def text(self) -> bytes:
        """Return all counts in Prometheus' text form, as an addition to BentoML's `/metrics`."""
        edges = [number / BINS for number in range(1, BINS)]  # what is above the last is in +Inf alone
        rows = [
            ("tidegate_predictions_total", "Predictions by status", self._statuses),
            ("tidegate_featured_total", "Predictions whose features were seen", self.featured),
            ("tidegate_missing_features_total", "Predictions that lacked a feature", self.missing),
        ]
        lines = []
        for name, about, value in rows:
            lines += [f"# HELP {name} {about}", f"# TYPE {name} counter"]
            if isinstance(value, dict):
                lines += [f'{name}{{{self._label},status="{key}"}} {n}' for key, n in value.items()]
            else:
                lines.append(f"{name}{{{self._label}}} {value}")
        about = "Seconds inside the service for one prediction"
        lines += self._histogram("tidegate_prediction_seconds", about, SECONDS, self._taken, self._seconds)
        lines += self._histogram(
            "tidegate_score", "Scores of predictions", edges, self.scores, self._score_sum
        )
        return ("\n".join(lines) + "\n").encode()

    @property
    def _label(self) -> str:
        return f'service="{self.name}"'

    def _histogram(
        self, name: str, about: str, edges: Sequence[float], counts: Sequence[int], total: float
    ) -> Iterator[str]:
        """Write one histogram; `counts` has one more than `edges`, for what lies above the last."""
        yield f"# HELP {name} {about}"
        yield f"# TYPE {name} histogram"
        below = 0
        for edge, count in zip((*edges, math.inf), counts, strict=True):
            below += count
            bound = "+Inf" if edge == math.inf else f"{edge:g}"
            yield f'{name}_bucket{{{self._label},le="{bound}"}} {below}'
        yield f"{name}_count{{{self._label}}} {below}"
        yield f"{name}_sum{{{self._label}}} {total!r}"


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
