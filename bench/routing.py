"""A request straight to the service, through the plane's router, and with a journal or a mirror besides."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.load import hammer
from bench.registry import Goal, Measured, entries
from bench.serving import requests, service

ROUNDS, SECONDS = 5, 1.5
RELEASE, TRIED = "0123456789ab", "ba9876543210"


@entries(
    router_overhead=("ms", Goal("difference", at_most=1.0)),
    router_journal=("ms", Goal("ratio", at_most=1.25)),
    router_mirror=("ms", Goal("ratio", at_most=1.5)),
)
def routing() -> Mapping[str, Measured]:
    """Median of one connection's requests in turns: direct, by Envoy, journaled with affinity, mirrored.

    The mirror is a second process of the same service. On two cores it takes its time from the first one's.
    """
    from tidegate import planes
    from tidegate.adapters.envoy import EnvoyRouter
    from tidegate.config import Home
    from tidegate.core.plan import Key
    from tidegate.machine.layout import Layout
    from tidegate.ports import Route

    rows = requests("/predict")
    routed = [row.replace(b"POST /predict", b"POST /flight-delay/predict", 1) for row in rows]
    users = [row.replace(b"\r\n", b"\r\nx-user: u%d\r\n" % n, 1) for n, row in enumerate(routed)]
    found: dict[str, list[float]] = {"direct": [], "plain": [], "journal": [], "mirror": []}
    with tempfile.TemporaryDirectory() as name, service(Path(name)) as port, service(Path(name)) as other:
        home = Home(Path(name) / "home")
        plain = Route({RELEASE: 100}, {RELEASE: (f"127.0.0.1:{port}",), TRIED: (f"127.0.0.1:{other}",)})
        routes = {
            "plain": plain,
            "journal": Route(plain.weights, plain.endpoints, affinity=Key(header="x-user"), journal=True),
            "mirror": Route(plain.weights, plain.endpoints, mirror={TRIED: 100}, journal=True),
        }
        try:
            url = planes.up(Path.cwd(), home, "staging", agent=False)
            at = Layout(home, "staging")
            router, through = EnvoyRouter(at.envoy, at.admin), int(url.rsplit(":", 1)[1])
            for _ in range(ROUNDS):
                load = hammer(port, rows, connections=1, seconds=SECONDS, warm_up=0.3)
                found["direct"].append(1000 * load.quantile(0.5))
                for kind, route in routes.items():
                    router.apply({"flight-delay": route})
                    asked = users if kind == "journal" else routed
                    load = hammer(through, asked, connections=1, seconds=SECONDS, warm_up=0.3)
                    found[kind].append(1000 * load.quantile(0.5))
        finally:
            planes.down(home)
    middle = {kind: statistics.median(values) for kind, values in found.items()}
    how = f"one connection, {ROUNDS} rounds of {SECONDS:g} s each"
    more = {kind: middle[kind] - middle["plain"] for kind in ("journal", "mirror")}
    overhead = middle["plain"] - middle["direct"]
    return {
        "router-overhead": Measured(
            middle["plain"], "direct", middle["direct"], f"{overhead:.2f} ms more at the median, {how}"
        ),
        **{
            f"router-{kind}": Measured(
                middle[kind], "plain route", middle["plain"], f"{more[kind]:.2f} ms more at the median, {how}"
            )
            for kind in more
        },
    }
