"""What the cost gate must not pass: prices that are none, and load reports that say nothing or too much."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tidegate import gating
from tidegate.config import merge
from tidegate.core.verdict import Verdict
from tidegate.selftest import load
from tidegate.selftest.room import Fault, Room, as_it_is

QUICK: dict[str, Any] = {"machine": "cpu", "budget_per_thousand": 1.0, "margin": 0.5}
PRICES = "envs/platform.yaml"


def prepare(room: Room) -> None:
    """Measure a healthy candidate beside production by the real load gate, once for all rooms."""
    load.prepare(room)
    _measured(room, "healthy")


def _report(room: Room) -> Path:
    return gating.folder(room.root, room.model, "load") / "load.json"


def _measured(room: Room, name: str) -> None:
    """Put the load gate's report into the room: a copy, where a room of the same releases has run it."""
    path = _report(room)
    if name not in room.shared:
        room.settings("load", load.QUICK)
        room.run("load")
        room.shared[name] = path.read_text()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(room.shared[name])


def _twice_as_slow(room: Room) -> None:
    load.slower(room, 0.025)
    _measured(room, "slower")


def _twice_the_cpu(room: Room) -> None:
    room.candidate(room.bento("burner", load.each_answer("sum(range(60_000))")))
    _measured(room, "burner")


def _said(change: Callable[[dict[str, Any]], object]) -> Callable[[Room], None]:
    """Change what the load report measured."""

    def make(room: Room) -> None:
        path = _report(room)
        document = json.loads(path.read_text())
        change(document["measurements"])
        path.write_text(json.dumps(document))

    return make


def _nothing(value: Any) -> Any:
    """Return a value whose every number is null, as JSON writes NaN."""
    if isinstance(value, dict):
        return {key: _nothing(inner) for key, inner in value.items()}
    return None if isinstance(value, int | float) else value


def _all_nan(measured: dict[str, Any]) -> None:
    measured.update(_nothing(measured))


def _served(room: Room) -> None:
    """Let it be the service, and not the end of a short climb, that set the highest rate."""
    _said(lambda measured: measured["capacity"].update(limit="service"))(room)


def _prices(**prices: Any) -> Callable[[Room], None]:
    def make(room: Room) -> None:
        path = room.root / PRICES
        path.write_text(yaml.safe_dump(merge(yaml.safe_load(path.read_text()), {"prices": prices})))

    return make


def _cpu(**machine: Any) -> Callable[[Room], None]:
    return _prices(machines={"cpu": machine})


def _no_prices(room: Room) -> None:
    path = room.root / PRICES
    value = yaml.safe_load(path.read_text())
    value.pop("prices")
    path.write_text(yaml.safe_dump(value))


def _half(room: Room) -> None:
    path = _report(room)
    path.write_text(path.read_text()[: len(path.read_text()) // 2])


def _without_comparison(measured: dict[str, Any]) -> None:
    measured.pop("turns")


def _of_another_release(room: Room) -> None:
    room.candidate(room.bento("later"))


def _beside_another(room: Room) -> None:
    room.in_production(room.bento("newer"))


def _stale(room: Room) -> None:
    room.write("live", room.frame("live").iloc[:1000])


def _no_report(room: Room) -> None:
    _report(room).unlink()


def _an_error(room: Room) -> None:
    """Let the load gate fail to look, for real."""
    room.endpoint = "http://127.0.0.1:9"
    room.run("load")


def _gpu(room: Room) -> None:
    """Reckon with a GPU where the gpu gate says that there is none."""
    _prices(machines={"gpu": {"perHour": 0.6, "gpus": 1}})(room)


def _fault(name: str, expected: Verdict, make: Callable[[Room], None], **settings: Any) -> Fault:
    return Fault("cost", name, expected, make, settings)


FAULTS: tuple[Fault, ...] = (
    _fault("beyond the budget", Verdict.FAIL, _served, budget_per_thousand=1e-9),
    _fault("beyond it by an upper bound", Verdict.INCONCLUSIVE, as_it_is, budget_per_thousand=1e-9),
    _fault("more than twice as slow as production", Verdict.FAIL, _twice_as_slow),
    _fault("more than twice production's CPU time", Verdict.FAIL, _twice_the_cpu),
    _fault("load report missing", Verdict.ERROR, _no_report),
    _fault("truncated load report", Verdict.ERROR, _half),
    _fault("load could not look", Verdict.ERROR, _an_error),
    _fault("report of another release", Verdict.ERROR, _of_another_release),
    _fault("report beside another release", Verdict.ERROR, _beside_another),
    _fault("stale report", Verdict.ERROR, _stale),
    _fault("no comparison in the report", Verdict.ERROR, _said(_without_comparison)),
    _fault("throughput of zero", Verdict.ERROR, _said(lambda m: m["capacity"].update(rate=0))),
    _fault("throughput is NaN", Verdict.ERROR, _said(lambda m: m["capacity"].update(rate=None))),
    _fault("all-NaN metrics", Verdict.ERROR, _said(_all_nan)),
    _fault(
        "NaN in one metric", Verdict.ERROR, _said(lambda m: m["turns"]["ratios"]["cpu"].update(high=None))
    ),
    _fault("price missing", Verdict.ERROR, _no_prices),
    _fault("unknown machine", Verdict.ERROR, as_it_is, machine="cpuu"),
    _fault("price of zero", Verdict.ERROR, _cpu(perHour=0)),
    _fault("negative price", Verdict.ERROR, _cpu(perHour=-0.08)),
    _fault("price is NaN", Verdict.ERROR, _cpu(perHour=math.nan)),
    _fault("misspelt price", Verdict.ERROR, _cpu(perHuor=0.08)),
    _fault("a GPU's price without a GPU", Verdict.ERROR, _gpu, machine="gpu"),
    _fault("utilisation above one", Verdict.ERROR, as_it_is, utilisation=1.5),
    _fault("negative threshold", Verdict.ERROR, as_it_is, budget_per_thousand=-1),
    _fault("wrong threshold key", Verdict.ERROR, as_it_is, budget=1),
)
