"""Requests that a schema allows, drawn by Hypothesis: by seed, and nothing kept on disk."""

from __future__ import annotations

import math
import re
import tempfile
import warnings
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from tidegate.core.contract import checker
from tidegate.core.openapi import python_patterns
from tidegate.errors import NoData


def rows(schema: Mapping[str, Any], count: int, seed: int) -> list[Any]:
    """Return up to `count` values that a schema (without references) allows.

    The same seed gives the same values. Raises NoData when the schema allows none, or can't be understood.
    """
    import hypothesis
    from hypothesis import HealthCheck, Phase, configuration
    from hypothesis.errors import HypothesisException

    drawn: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="tidegate-hypothesis-") as folder:
        configuration.set_hypothesis_home_dir(folder)  # else it writes into the current one
        try:
            allowed = python_patterns(schema)
            check = checker(schema)
            strategy = _strategy(allowed).filter(lambda value: not check(value))

            @hypothesis.seed(seed)
            @hypothesis.settings(
                max_examples=count,
                database=None,
                deadline=None,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            )
            @hypothesis.given(strategy)
            def draw(value: Any) -> None:
                drawn.append(value)

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                draw()
        except (HypothesisException, re.error, ValueError, KeyError, TypeError, AssertionError) as error:
            text = f"no request can be drawn from the published schema: {type(error).__name__}: {error}"
            raise NoData(text, "Correct what services/<model>/schema.py declares.") from error
        finally:
            configuration.set_hypothesis_home_dir(None)
    return drawn[:count]


def _strategy(schema: Any) -> Any:
    """Return a strategy for what requests are made of; whatever else a schema says is left to the check."""
    from hypothesis import strategies as st

    if schema is True or schema == {}:
        return st.none() | st.booleans() | st.integers() | _texts({})
    for key in ("anyOf", "oneOf"):
        if key in schema:
            beside = {name: value for name, value in schema.items() if name != key}
            return st.one_of([_strategy({**beside, **one}) for one in schema[key]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema.get("type", "object" if "properties" in schema else _ANY)
    return st.one_of([_of(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds)])


_ANY = ["null", "boolean", "integer", "string"]


def _of(kind: str, schema: Mapping[str, Any]) -> Any:
    from hypothesis import strategies as st

    if kind == "object":
        known = {name: _strategy(inner) for name, inner in schema.get("properties", {}).items()}
        needed = {name: known.get(name, st.none()) for name in schema.get("required", ())}
        optional = {name: inner for name, inner in known.items() if name not in needed}
        more = schema.get("additionalProperties")
        fixed = st.fixed_dictionaries(needed, optional=optional)
        if known or not isinstance(more, Mapping):
            return fixed
        return st.dictionaries(_texts({"maxLength": 8}), _strategy(more), max_size=5)
    if kind == "array":
        low = schema.get("minItems", 0)
        return st.lists(
            _strategy(schema.get("items", {})), min_size=low, max_size=schema.get("maxItems", low + 5)
        )
    if kind == "string":
        return _texts(schema)
    if kind in ("integer", "number"):
        return _numbers(kind, schema)
    return st.none() if kind == "null" else st.booleans()


def _texts(schema: Mapping[str, Any]) -> Any:
    from hypothesis import strategies as st

    letters = st.characters(exclude_categories=["Cs"])  # by a codec, as by default, takes seconds to set up
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], alphabet=letters)
    form = {"date": st.dates(), "date-time": st.datetimes(timezones=st.just(UTC)), "uuid": st.uuids()}
    if schema.get("format") in form:
        return form[schema["format"]].map(lambda value: getattr(value, "isoformat", value.__str__)())
    low = schema.get("minLength", 0)
    return st.text(letters, min_size=low, max_size=schema.get("maxLength", low + 40))


def _numbers(kind: str, schema: Mapping[str, Any]) -> Any:
    from hypothesis import strategies as st

    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    step = schema.get("multipleOf", 1 if kind == "integer" else None)
    if step is None:
        return st.floats(low, high, allow_nan=False, allow_infinity=False) | _whole(low, high, 1)
    return _whole(low, high, step)


def _whole(low: float | None, high: float | None, step: float) -> Any:
    from hypothesis import strategies as st

    first = None if low is None else math.ceil(low / step)
    last = None if high is None else math.floor(high / step)
    if first is not None and last is not None and first > last:
        return st.nothing()
    return st.integers(first, last).map(lambda count: count * step)
