"""What the passengers ask about: `python -m tidegate.demo.rows FILE` writes it, one JSON row a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

MONTHS = (7, 8, 9, 10, 11, 12)  # July to December; what a split calls live may end earlier
ROWS, SEED = 4000, 7


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
