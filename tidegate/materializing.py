"""What is so now, computed by a model's own code and handed to the online store.

`models/<package>/online.py` has `values(as_of)`: from a moment (seconds since 1970; None is the newest that
its data know) to a `Snapshot`. Nothing observed at the moment itself or later may have a part in it.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tidegate import ports
from tidegate.errors import Fatal, NoData

KEY = re.compile(r"[^:\s]+:[^:\s]+:[^:\s]+")


class Snapshot(NamedTuple):
    """Values by `entity_type:entity_id:feature_name` as of a moment, and for how many seconds they hold."""

    as_of: float
    values: Mapping[str, Any]
    ttl: float


class Stored(NamedTuple):
    """What a run did."""

    as_of: float
    keys: int
    removed: int
    by_feature: Mapping[str, int]  # `user:clicks` → keys


def snapshot(root: Path, package: str, as_of: float | None) -> Snapshot:
    """Return what a model's code says is so as of a moment.

    Raises NoData when the model has no online features or there is nothing to say of that moment, Fatal when
    its code fails or says what can't be stored.
    """
    if not (root / "models" / package / "online.py").is_file():
        raise NoData(
            f"there is no models/{package}/online.py", "This model looks nothing up; see docs/features.md."
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        compute: Callable[[float | None], Snapshot] = importlib.import_module(
            f"models.{package}.online"
        ).values
    except (ImportError, AttributeError) as error:
        raise Fatal(f"models/{package}/online.py: {error}", "It has to define `values(as_of)`.") from error
    found = compute(as_of)
    for key, value in found.values.items():
        if not KEY.fullmatch(key) or (isinstance(value, float) and not math.isfinite(value)):
            text = f"models/{package}/online.py gives `{key}` = {value!r}"
            raise Fatal(
                text, "Keys are entity_type:entity_id:feature_name, values finite; leave out the others."
            )
    if not found.values:
        raise NoData(
            "nothing is known as of that moment: what is stored stays", "Give --as-of within the data's time."
        )
    return found


def store(into: ports.FeatureStore, model: str, found: Snapshot) -> Stored:
    """Write a snapshot, all of it or nothing; what an older one of the model held beyond it goes."""
    encoded = {key: msgspec.json.encode(value) for key, value in found.values.items()}
    removed = into.write(f"features:{model}", encoded, found.ttl)
    by_feature: dict[str, int] = {}
    for key in encoded:
        kind, _, name = key.split(":")
        by_feature[f"{kind}:{name}"] = by_feature.get(f"{kind}:{name}", 0) + 1
    return Stored(found.as_of, len(encoded), removed, by_feature)
