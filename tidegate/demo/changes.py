"""The two edits that the demo pushes: one that looks right and is not, and its correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tidegate.errors import Refused

SERVICE = "services/flight_delay/service.py"


@dataclass(frozen=True)
class Edit:
    """Replace one passage, which must be there exactly once."""

    path: str
    old: str
    new: str


# Written in autumn from the schedule that was out by then: every month of training, holdout and
# staging is in it, November and December are not. A third of the live stream is.
BAD = (
    Edit(
        SERVICE,
        "LATE_FROM = 0.5  # the probability from which `late` is true\n",
        "LATE_FROM = 0.5  # the probability from which `late` is true\n"
        "# How full the airports are, by month, from the published schedule.\n"
        'SEASON = {1: "low", 2: "low", 3: "mid", 4: "mid", 5: "mid", 6: "peak", 7: "peak", 8: "peak", '
        '9: "mid", 10: "mid"}\n',
    ),
    Edit(
        SERVICE,
        '        return {"probability": probability, "late": probability >= LATE_FROM}\n',
        "        season = SEASON[flight.date.month]\n"
        '        return {"probability": probability, "late": probability >= LATE_FROM, "season": season}\n',
    ),
)
GOOD = (Edit(SERVICE, '9: "mid", 10: "mid"}\n', '9: "mid", 10: "mid", 11: "mid", 12: "peak"}\n'),)


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
