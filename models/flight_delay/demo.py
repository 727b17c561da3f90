"""What the demo shows of flight-delay: an edit that looks right and is not, its correction, and who asks.

`tidegate demo` reads `SHOW`, and runs `python -m models.flight_delay.demo FILE` for what is asked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tidegate.demo.changes import Change, Edit, Show

SERVICE = "services/flight_delay/service.py"
PARAMS = "params.yaml"
MONTHS = (7, 8, 9, 10, 11, 12)  # July to December; what a split calls live may end earlier
ROWS, SEED = 4000, 7

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

SHOW = Show(
    opening=Change("Start afresh at the end of October", AUTUMN),
    bad=Change("Count what passengers ask by season", BAD),
    good=Change("Know the season of November and December too", GOOD),
    asked="passengers ask about real flights of July to December",
)


def main(destination: Path) -> None:
    """Write a seeded sample of the second half of the year's flights, as a client would send them."""
    from models.flight_delay.features import LABEL, to_rows
    from models.flight_delay.prepare import read

    year = read(late_after=0)
    frame = year[year["month"].isin(MONTHS)].drop(columns=[LABEL, "month"])
    sample = frame.sample(min(ROWS, len(frame)), random_state=SEED)
    rows = to_rows({name: sample[name].to_numpy() for name in sample.columns})
    destination.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
