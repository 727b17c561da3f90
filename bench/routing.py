"""A request through the plane's router beside the same request straight to the service."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.load import hammer
from bench.registry import Goal, Measured, entries
from bench.serving import requests, service

ROUNDS, SECONDS = 5, 1.5
RELEASE = "0123456789ab"


@entries(router_overhead=("ms", Goal("difference", at_most=1.0)))
def routing() -> Mapping[str, Measured]:
    """Median of one connection's requests, direct and through Envoy in turns."""
    from tidegate import planes
    from tidegate.adapters.envoy import EnvoyRouter
    from tidegate.config import Home
    from tidegate.ports import Route

    rows = requests("/predict")
    routed = [row.replace(b"POST /predict", b"POST /flight-delay/predict") for row in rows]
    direct, through = [], []
    with tempfile.TemporaryDirectory() as name, service(Path(name)) as port:
        home = Home(Path(name) / "home")
        try:
            url = planes.up(Path.cwd(), home, "staging", agent=False)
            at = planes.Layout(home, "staging")
            route = Route({RELEASE: 100}, {RELEASE: (f"127.0.0.1:{port}",)})
            EnvoyRouter(at.envoy, home.sockets / "staging.envoy").apply({"flight-delay": route})
            for _ in range(ROUNDS):
                for found, ask, where in (
                    (direct, rows, port),
                    (through, routed, int(url.rsplit(":", 1)[1])),
                ):
                    load = hammer(where, ask, connections=1, seconds=SECONDS, warm_up=0.3)
                    found.append(1000 * load.quantile(0.5))
        finally:
            planes.down(home)
    mine, theirs = statistics.median(through), statistics.median(direct)
    note = f"{mine - theirs:.2f} ms more at the median, one connection, {ROUNDS} rounds of {SECONDS:g} s each"
    return {"router-overhead": Measured(mine, "direct", theirs, note)}
