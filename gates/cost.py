"""Does a thousand predictions cost no more than the budget, and no more than production's do?

From what the load gate measured, and a machine's price by the hour; the report names the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from tidegate import config, gating, report, wiring
from tidegate.core import cost, gate
from tidegate.core.exhibits import Comparison
from tidegate.core.verdict import Finding, Verdict
from tidegate.errors import ConfigError, NoData, suggest


class CostSettings(gating.Settings, frozen=True):
    """The `cost` section; money is in the currency of `prices` in envs/platform.yaml."""

    machine: str
    utilisation: Annotated[float, Meta(gt=0, le=1)]
    budget_per_thousand: Annotated[float, Meta(gt=0)]
    margin: Annotated[float, Meta(gt=0, le=10)]


def look(subject: gating.Subject[CostSettings]) -> gating.Looked:
    """Reckon the cost and compare it."""
    limits = subject.settings
    prices, machine = _machine(subject)
    load = subject.report("load")
    candidate, production = subject.record(), subject.production()
    _same(load, candidate.id, production.id if production else "")
    if machine.gpus and subject.report("gpu").verdict is Verdict.NOT_APPLICABLE:
        raise NoData(
            f"machine `{limits.machine}` has a GPU, and the load was measured without one",
            "Choose another `machine`, or declare the GPU in params.yaml.",
        )
    capacity = _part(load, "capacity")
    rate = cost.number(capacity.get("rate")) / cost.number(capacity.get("processes"))
    thousand = cost.of_a_thousand(rate, machine.per_hour, machine.cores, limits.utilisation)
    has = f"{machine.cores} cores" + (f" and {machine.gpus} GPUs" if machine.gpus else ", no GPU")
    assumed = f"`{limits.machine}` ({has}) at {gate.show(machine.per_hour)} {prices.currency} an hour"
    why = f"{rate:,.0f} requests/s a process, one a core of {assumed}, {limits.utilisation:.0%} used"
    findings = [
        cost.within_budget(
            "cost of a thousand predictions",
            thousand,
            limits.budget_per_thousand,
            prices.currency,
            at_most=capacity.get("limit") != "service",
            why=why,
        )
    ]
    beside, comparisons = _beside(subject, load, thousand, prices.currency, cpu=not machine.gpus)
    measurements = {
        "cost_per_thousand": thousand,
        "currency": prices.currency,
        "rate_per_process": rate,
        "utilisation": limits.utilisation,
        "machine": {"name": limits.machine, "cores": machine.cores, "gpus": machine.gpus}
        | {"per_hour": machine.per_hour},
    }
    return gating.Looked([*findings, *beside], measurements, comparisons)


def _machine(subject: gating.Subject[CostSettings]) -> tuple[config.PricesSpec, config.MachineSpec]:
    prices = wiring.platform(subject.root, "production").prices
    subject.input("envs/platform.yaml")
    name = subject.settings.machine
    if name not in prices.machines:
        known = suggest(name, prices.machines, "Add it under `prices: machines:` in envs/platform.yaml.")
        raise ConfigError(f"no machine is called `{name}` in the price table", known)
    return prices, prices.machines[name]


def _same(load: report.Report, candidate: str, production: str) -> None:
    """Raises NoData when the load report is about another release, or compares with another one."""
    for what, known, now in (
        ("about", load.measurements.get("release"), candidate),
        ("a comparison with", load.source.against, production),
    ):
        if known != now:
            raise NoData(
                f"the load report is {what} {known or 'no release'}, not {now or 'none'}",
                "Run `tidegate gate run load` first.",
            )


def _part(load: report.Report, *names: str) -> Mapping[str, Any]:
    found: Any = load.measurements
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise NoData(f"the load report has no {' '.join(names)}", "Run `tidegate gate run load` first.")
    return found


def _beside(
    subject: gating.Subject[CostSettings], load: report.Report, thousand: float, unit: str, *, cpu: bool
) -> tuple[list[Finding], list[Comparison]]:
    if not subject.trace.against:
        reason = "production runs no release of this model"
        return [gate.not_applicable("cost against production", reason)], []
    turns = load.measurements.get("turns")
    if turns is None:
        skipped = [f for f in load.findings if f.verdict is Verdict.NOT_APPLICABLE]
        reason = next((f.reason for f in skipped), "")
        if not reason:
            raise NoData("the load report compares with nothing", "Run `tidegate gate run load` first.")
        return [gate.not_applicable("cost against production", reason)], []
    # One connection's throughput sees whatever makes an answer slower, waiting too; CPU time also what a
    # generator that is slower than the service would hide.
    measures = {"throughput": True} | ({"cpu": False} if cpu else {})
    ratios = _part(load, "turns", "ratios")
    pairs = [
        cost.beside(
            f"cost against production, by {'CPU time' if name == 'cpu' else name}",
            thousand,
            _part(load, "turns", "ratios", name) if ratios else {},
            subject.settings.margin,
            unit,
            confidence=cost.number(_part(load, "turns").get("confidence")),
            inverse=inverse,
        )
        for name, inverse in measures.items()
    ]
    return [finding for finding, _ in pairs], [shown for _, shown in pairs if shown]


GATE = gating.Gate(
    "cost",
    CostSettings,
    look,
    needs="release",
    after=("load",),
    inputs="The load gate's report, and `prices` in envs/platform.yaml.",
    fix="Make the service answer more requests a second, choose a cheaper machine, or raise the budget.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
