"""A release as a container image, and as a container beside a process: size, builds, starts and requests."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.load import Load, hammer
from bench.registry import CannotRun, Goal, Measured, entries
from bench.serving import requests
from tidegate import bentos, imaging, wiring
from tidegate.adapters import debian
from tidegate.core.images import PREFIX
from tidegate.core.release import ReleaseRecord
from tidegate.errors import TidegateError
from tidegate.images import making
from tidegate.machine import copies
from tidegate.machine.containers import Recipe
from tidegate.machine.engine import Engine

MODEL = "flight-delay"
CONNECTIONS, SECONDS, ROUNDS, STARTS = 16, 3.0, 5, 3
Made = TypeVar("Made")


@entries(
    image_size=("MB", Goal()),
    image_build=("s", Goal("ratio", at_most=0.5)),
    container_start=("s", Goal("ratio", at_most=2.0)),
    container_throughput=("requests/s", Goal("ratio", at_least=0.7)),
    container_p50=("ms", Goal()),
    container_p99=("ms", Goal()),
)
def images() -> Mapping[str, Measured]:
    """Build the image of what was packaged last, cold and again, and run it beside its Bento's process."""
    checkout = Path.cwd()
    where, spec = wiring.home(checkout), wiring.platform(checkout, "staging")
    how = making(wiring.platforms(checkout), "cpu")
    store, tools = wiring.bentos_path(spec, where), wiring.image_tools(how, where)
    engine = how.engine
    try:
        record = imaging.recorded(checkout, MODEL)
        bento = bentos.verify(store, record)
        names = (how.base, debian.base_name())
        base = next((name for name in names if tools.builder.inspect(name)), None)
        if base is None:
            raise CannotRun(f"no base image: run `{engine} pull {names[0]}` or `tidegate base-image`")
        order = imaging.Order(record, "cpu", bento, checkout, base)
        cold, _ = _timed(lambda: imaging.make(replace(order, again=True), tools))
        cached, built = _timed(lambda: imaging.make(order, tools))
        record = msgspec.structs.replace(record, images={"cpu": built.reference})
        recipe = replace(wiring.recipe(spec, where), engine=Engine(engine))
        found = {
            "image-size": Measured(built.size / 1e6, note=_groups(engine, order.name)),
            "image-build": Measured(cached, "cold", cold, "a release of the same packages, by BentoML"),
        }
        return found | _started(store, recipe, record) | _served(store, recipe, record)
    except TidegateError as error:
        raise CannotRun(str(error)) from error


def _timed(make: Callable[[], Made]) -> tuple[float, Made]:
    began = time.perf_counter()
    made = make()
    return time.perf_counter() - began, made


def _groups(engine: str, name: str) -> str:
    """Return an image's size by what its layers are for, in MB: the base, what is installed, the release."""
    image = _inspected(engine, name)
    layers = image["RootFS"]["Layers"]
    below = {len(one["RootFS"]["Layers"]): one for one in _all(engine) if _under(one, layers)}
    parts, before = [], 0
    for what, count in (("base", 1), ("packages", len(layers) - 1), ("release", len(layers))):
        size = image["Size"] if count == len(layers) else below[count]["Size"] if count in below else before
        parts.append(f"{what} {(size - before) / 1e6:.1f}")
        before = size
    return f"{', '.join(parts)} MB, in {len(layers)} layers; uncompressed"


def _under(image: Mapping[str, Any], layers: list[str]) -> bool:
    own = image["RootFS"]["Layers"]
    return bool(own == layers[: len(own)])


def _all(engine: str) -> list[dict[str, Any]]:
    """Return our images that are here; one that is removed meanwhile is left out."""
    words = ("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference={PREFIX}/*")
    found = []
    for name in sorted(set(_said(engine, *words).split())):
        with contextlib.suppress(CannotRun):
            found.append(_inspected(engine, name))
    return found


def _inspected(engine: str, name: str) -> dict[str, Any]:
    (found,) = json.loads(_said(engine, "image", "inspect", name))
    return dict(found)


def _said(engine: str, *words: str) -> str:
    done = subprocess.run([engine, *words], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise CannotRun(f"{engine} {words[0]}: {done.stderr.strip()[-200:]}")
    return done.stdout


# ---------------------------------------------------------------- beside a process
def _started(store: Path, recipe: Recipe, record: ReleaseRecord) -> dict[str, Measured]:
    """From the begin to readiness, in turns."""
    processes, containers = [], []
    for _ in range(STARTS):
        with copies.serve(store, record) as one:
            processes.append(one.ready_after)
        with copies.contain(recipe, record) as one:
            containers.append(one.ready_after)
    value, peer = statistics.median(containers), statistics.median(processes)
    return {"container-start": Measured(value, "a process", peer, f"the median of {STARTS} each, in turns")}


def _served(store: Path, recipe: Recipe, record: ReleaseRecord) -> dict[str, Measured]:
    """Press both, which are up, in turns."""
    rows = requests("/predict")
    loads: dict[str, list[Load]] = {"container": [], "process": []}
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(copies.contain(recipe, record))
        other = stack.enter_context(copies.serve(store, record))
        ports = {"container": int(one.url.rpartition(":")[2]), "process": int(other.url.rpartition(":")[2])}
        for who in ports:
            hammer(ports[who], rows, connections=CONNECTIONS, seconds=0.5, warm_up=0.5)
        for _ in range(ROUNDS):
            for who, port in ports.items():
                loads[who].append(hammer(port, rows, connections=CONNECTIONS, seconds=SECONDS, warm_up=0.2))

    def told(read: Callable[[Load], float], note: str) -> Measured:
        mine, theirs = ([read(load) for load in loads[who]] for who in ("container", "process"))
        return Measured(statistics.median(mine), "a process", statistics.median(theirs), note)

    note = f"{CONNECTIONS} connections, median of {ROUNDS} rounds of {SECONDS:g} s in turns"
    return {
        "container-throughput": told(lambda load: load.rate, note),
        "container-p50": told(lambda load: 1000 * load.quantile(0.5), note),
        "container-p99": told(lambda load: 1000 * load.quantile(0.99), note),
    }
