"""A plan as JSON and back: in the words and units of `rollout.yaml`, so that a recording can be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from tidegate.core.plan import Limit, Milliseconds, Plan, Ratio, Seconds


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON that `rollout.yaml` may hold: camelCase, `5s`, `200ms`, without defaults."""
    return _built(plan)  # type: ignore[no-any-return]


def _built(value: Any) -> Any:
    if isinstance(value, Seconds):
        return f"{_plain(value)}s"
    if isinstance(value, Milliseconds):
        return f"{_plain(value)}ms"
    if isinstance(value, Ratio):
        return float(value)
    if isinstance(value, tuple):
        return [_built(each) for each in value]
    if not isinstance(value, msgspec.Struct):
        return value
    made = {}
    for item in msgspec.structs.fields(value):
        inner = getattr(value, item.name)
        made_by, usual = item.default_factory, item.default
        if inner != (usual if made_by is msgspec.NODEFAULT else made_by()):
            made[item.encode_name] = _built(inner)
    return made


def _plain(value: float) -> str:
    """Return a number without exponent and so that it reads back the same."""
    return f"{Decimal(repr(float(value))):f}".removesuffix(".0")


def plan_from_dict(value: Mapping[str, Any]) -> Plan:
    """Return what `plan_to_dict` wrote. Raises ValueError."""
    return msgspec.convert(value, Plan, dec_hook=_quantity)


def _quantity(kind: type, value: Any) -> Any:
    if kind is Limit:
        return _quantity(Milliseconds if isinstance(value, str) else Ratio, value)
    if kind is Ratio and isinstance(value, int | float) and not isinstance(value, bool):
        return Ratio(value)
    ending = "ms" if kind is Milliseconds else "s"
    if kind in (Milliseconds, Seconds) and isinstance(value, str) and value.endswith(ending):
        return kind(float(value.removesuffix(ending)))
    raise ValueError(f"{value!r} is no {kind.__name__}")
