"""What the demo changes in its clone: a fresh start, an edit that looks right and is not, its correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tidegate import config
from tidegate.core.release_file import set_release
from tidegate.errors import Refused

SERVICE = "services/flight_delay/service.py"


@dataclass(frozen=True)
class Edit:
    """Replace one passage, which must be there exactly once."""

    path: str
    old: str
    new: str


PARAMS = "params.yaml"
# The demo plays at the end of October: what the gates know of the live stream ends there, and the passengers
# fly until December. What no gate can know is what a canary is for.
AUTUMN = (Edit(PARAMS, "        live: [7, 8, 9, 10, 11, 12]\n", "        live: [7, 8, 9, 10]\n"),)
# Written from the schedule that was out by then: every month of every split is in it, November and December
# are not. A third of the flights that passengers ask about are. Requests that a gate draws from the schema
# hardly ever name one of these airports.
BAD = (
    Edit(
        SERVICE,
        "LATE_FROM = 0.5  # the probability from which `late` is true\n",
        "LATE_FROM = 0.5  # the probability from which `late` is true\n"
        "# How full New York's airports are, by month, from the published schedule.\n"
        'NEW_YORK = {"EWR", "JFK", "LGA"}\n'
        'SEASON = {1: "low", 2: "low", 3: "mid", 4: "mid", 5: "mid", 6: "peak", 7: "peak", 8: "peak", '
        '9: "mid", 10: "mid"}\n',
    ),
    Edit(
        SERVICE,
        '        self.vocabulary = features.load(folder / "features.json")\n',
        '        self.vocabulary = features.load(folder / "features.json")\n'
        "        self.asked = dict.fromkeys((*SEASON.values(), None), 0)\n",
    ),
    Edit(
        SERVICE,
        "        return features.compute([msgspec.to_builtins(flight)], self.vocabulary)\n",
        "        self.asked[SEASON[flight.date.month] if flight.origin in NEW_YORK else None] += 1\n"
        "        return features.compute([msgspec.to_builtins(flight)], self.vocabulary)\n",
    ),
)
GOOD = (Edit(SERVICE, '9: "mid", 10: "mid"}\n', '9: "mid", 10: "mid", 11: "mid", 12: "peak"}\n'),)


PLATFORM = "envs/platform.yaml"
PLATFORMS = {
    PLATFORM: "forge: {adapter: local}\n",
    "envs/staging/platform.yaml": "plane: staging\n",
    "envs/canary/platform.yaml": "plane: production\n",
    "envs/production/platform.yaml": "plane: production\nworkloads: {replicas: 2}\n",
}


def start_afresh(root: Path) -> bool:
    """Make a clone the demo's own: nothing released, a local forge, stores at home, any port.

    A repository in use names releases that a new home lacks, and a forge, ports and stores that are not
    the demo's to touch. Returns whether anything had to be changed.
    """
    before = config.read_envs(root)
    after = {path: text for path, text in before.items() if not path.startswith("envs/releases/")}
    for name in config.ENVIRONMENTS:
        path = f"envs/{name}/release.yaml"
        for model in config.parse_release_file(after[path], path):
            after[path] = set_release(after[path], model, None)
    mine = config.Platform()
    found = [config.parse_platform(before, name) for name in config.ENVIRONMENTS]
    if any(
        (p.forge, p.stores, p.repository, p.router) != (mine.forge, mine.stores, mine.repository, mine.router)
        for p in found
    ):
        after |= PLATFORMS | {PLATFORM: _with_prices(PLATFORMS[PLATFORM], before.get(PLATFORM, ""))}
    for path in before.keys() - after.keys():
        (root / path).unlink()
    for path, text in after.items():
        if before.get(path) != text:
            (root / path).write_text(text)
    return before != after


def _with_prices(text: str, before: str) -> str:
    """Return a platform with the prices of another: what a machine costs is the same in a demo."""
    prices = (yaml.safe_load(before) or {}).get("prices")
    return text + (yaml.safe_dump({"prices": prices}) if prices else "")


def apply(root: Path, edits: Sequence[Edit]) -> None:
    """Edit a checkout's files; raises Refused when a passage is not there exactly once."""
    for edit in edits:
        path = root / edit.path
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise Refused(
                f"the demo's edit does not fit {edit.path}: {text.count(edit.old)} such passages",
                "Bring tidegate/demo/changes.py in line with the service.",
            )
        path.write_text(text.replace(edit.old, edit.new))
