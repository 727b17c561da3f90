"""A service whose model is slow, in a process of its own: `overloaded.py PORT MS_PER_ROW QUEUE_JSON`."""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import uvicorn

from tidegate.serving import Predictions, app
from tidegate.serving.settings import Settings, parse


class Row(msgspec.Struct):
    """A request of one number."""

    x: float


class Twice(msgspec.Struct):
    """An answer of one number."""

    twice: float


class Model:
    """Sleeps for each row, then doubles it."""

    examples = ({"x": 1.0},)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.model = self

    def features(self, row: Row) -> Any:
        """Return the row."""
        return np.array([[row.x]])

    def predict(self, rows: Any) -> dict[str, Any]:
        """Return each number twice, after some time."""
        time.sleep(self.seconds * len(rows))
        return {"twice": rows[:, 0] * 2}


async def rest(scope: Any, receive: Any, send: Any) -> None:
    """Answer what is BentoML's: ready, and an empty page of metrics."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def main() -> None:
    """Serve until a signal comes."""
    port, ms, queue = int(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])
    wanted: Settings = parse({"queue": queue})
    app._settings = lambda service: wanted
    inner = SimpleNamespace(request=Row, response=Twice)
    service: Any = SimpleNamespace(name="slow", inner=inner, instance=Model(ms / 1000), config={})
    made = Predictions(service, rest)
    uvicorn.run(made, port=port, log_level="warning", lifespan="on", timeout_keep_alive=3600)


if __name__ == "__main__":
    main()
