"""What the online store is filled with: how late each carrier, route and plane was lately, as of a moment.

Of the package's year of flights, by the same `features.recent` that training uses.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from models.flight_delay import features, prepare
from models.layout import Layout
from tidegate.materializing import Snapshot


def values(as_of: float | None) -> Snapshot:
    """Return every share that is known as of a moment, in seconds; None is just after the last arrival."""
    parameters = Layout("flight-delay").parameters("prepare", prepare.Parameters)
    arrivals = prepare.arrivals(parameters["late_after"])
    moment = as_of if as_of is not None else float(arrivals["observed"].max() + 1)
    return Snapshot(moment, shares(arrivals, moment), features.TTL)


def shares(arrivals: pd.DataFrame, moment: float) -> dict[str, float]:
    """Return each share under its key in the online store; what is not known has no key."""
    found: dict[str, float] = {}
    whose = arrivals.drop_duplicates(["carrier", "origin", "dest", "tailnum"])
    keys = features.entities(whose)
    moments = np.full(len(whose), np.ceil(moment), dtype=np.int64)
    for name, column in features.recent(arrivals, whose, moments).items():
        ids = keys[name.removeprefix("recent_")]
        known = np.isfinite(column)
        found |= dict(zip(ids[known].tolist(), column[known].tolist(), strict=True))
    return found
