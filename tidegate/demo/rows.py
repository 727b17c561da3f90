"""Turn a parquet file of raw flights into JSON rows: `python -m tidegate.demo.rows FROM TO`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROWS, SEED = 4000, 7


def main(source: Path, destination: Path) -> None:
    """Write a seeded sample of the flights, one JSON row a line, as a client would send them."""
    import pandas as pd

    from models.flight_delay.features import to_rows

    frame = pd.read_parquet(source).drop(columns=["late"])
    sample = frame.sample(min(ROWS, len(frame)), random_state=SEED)
    rows = to_rows({name: sample[name].to_numpy() for name in sample.columns})
    destination.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
