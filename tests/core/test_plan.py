"""rollout.yaml: what each strategy and check takes, what it refuses, and the schema that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tidegate.config import parse_rollout, rollout_schema, written_duration
from tidegate.core.plan import Plan
from tidegate.documents import parse_quantity
from tidegate.errors import ConfigError

ROOT = Path(__file__).parents[2]
ERRORS = {"name": "errors", "metric": "error-rate", "limit": "1%"}
STEPS = [{"setWeight": 5}, {"setWeight": 50, "pause": {"indefinite": True}, "gate": "manual"}]
AB = {
    "unit": {"header": "x-user"},
    "outcome": "booked",
    "baseline": "10%",
    "minimumEffect": "2%",
    "window": "1h",
}
PLANS: dict[str, dict[str, Any]] = {
    "canary": {"steps": STEPS, "baseline": True, "sessionAffinity": {"cookie": "uid"}},
    "a ladder": {"stepWeight": 10, "maxWeight": 45, "pause": {"duration": "1m"}},
    "blueGreen": {"strategy": "blueGreen", "mirror": {}, "pause": {"minRequests": 9}, "steps": STEPS},
    "shadow": {
        "strategy": "shadow",
        "mirror": {"percent": 20},
        "checks": [ERRORS, {"name": "same", "metric": "disagreement", "limit": "1%"}],
    },
    "abTest": {"strategy": "abTest", "abTest": AB},
    "bandit": {"strategy": "bandit", "bandit": {"reward": "booked", "arms": ["3f9c02a7b51e"]}},
    "sequence": {"sequence": [{"strategy": "shadow", "mirror": {}}, {"strategy": "canary", "steps": STEPS}]},
    "match": {"steps": STEPS, "match": [{"header": "x-try", "value": "yes"}, {"cookie": "try"}]},
}


def parsed(plan: dict[str, Any]) -> Plan:
    """A canary's plan as its file says."""
    text = json.dumps({"defaults": {"checks": [ERRORS], **plan}})  # JSON is YAML
    return parse_rollout(text, "envs/canary/rollout.yaml", "canary")[0]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_strategy_is_read_and_the_schema_takes_what_is_read(plan: dict[str, Any]) -> None:
    """A file of each strategy is parsed, and valid by the JSON schema that editors use."""
    assert parsed(plan).stages
    jsonschema.validate({"defaults": {"checks": [ERRORS], **plan}}, rollout_schema())


def test_each_stage_of_a_sequence_has_what_is_said_beside_it() -> None:
    """Checks and budgets said once hold for each strategy; an item's own go before."""
    made = parsed(
        {
            "onNoData": "rollback",
            "sequence": [{"strategy": "shadow", "mirror": {}, "onNoData": "hold"}, {"steps": STEPS}],
        }
    )
    assert [stage.strategy for stage in made.stages] == ["shadow", "canary"]
    assert [stage.on_no_data for stage in made.stages] == ["hold", "rollback"]
    assert all(stage.checks == made.checks for stage in made.stages)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mirror": {"percent": 5}, "steps": STEPS}, "mirror means nothing to strategy canary"),
    ({"strategy": "shadow"}, "shadow needs `mirror`"),
    ({"strategy": "abTest"}, "abTest needs `abTest`"),
    ({"strategy": "bandit", "bandit": {"reward": "r", "floor": 60}}, "too much for 2 arms"),
    ({"stepWeight": 10}, "needs `maxWeight`"),
    ({"stepWeight": 10, "maxWeight": 50, "steps": STEPS}, "takes the place of `steps`"),
    ({"steps": STEPS, "maxWeight": 20}, "above maxWeight"),
    ({"steps": STEPS, "pause": {"duration": "1m"}}, "each step has its own"),
    ({"steps": [{"setWeight": 75}], "baseline": True}, "between 50 and 100"),
    ({"sequence": [{"sequence": [{"steps": STEPS}]}]}, "not further sequences"),
    ({"steps": STEPS, "sequence": [{"steps": STEPS}]}, "belongs into an item"),
    ({"sequence": [{"steps": STEPS, "alpha": 0.1}]}, "Write `alpha` beside `sequence`"),
    ({"sequence": [{"steps": STEPS, "requiredSoakTime": "1h"}]}, "requiredSoakTime in an item"),
    ({"steps": STEPS, "match": [{"value": "x"}]}, "either a header or a cookie"),
    ({"steps": STEPS, "sessionAffinity": {"header": "a", "cookie": "b"}}, "either a header or a cookie"),
    ({"strategy": "abTest", "abTest": {**AB, "split": 100}}, "split must be"),
    ({"strategy": "abTest", "abTest": {**AB, "baseline": "0%"}}, "between 0% and 100%"),
    ({"strategy": "blueGreen"}, "a canary would take all traffic"),
    (
        {"steps": STEPS, "checks": [{"name": "x", "metric": "disagreement", "limit": "1%"}]},
        "mirrored requests",
    ),
    (
        {
            "strategy": "blueGreen",
            "steps": STEPS,
            "checks": [{"name": "x", "metric": "disagreement", "limit": "1%"}],
        },
        "blueGreen with `mirror`",
    ),
    ({"steps": STEPS, "checks": [{"name": "x", "metric": "sample-ratio", "limit": "1%"}]}, "needs no limit"),
    ({"steps": STEPS, "checks": [{"name": "x", "metric": "prometheus", "limit": "1%"}]}, "needs `query`"),
    ({"steps": STEPS, "checks": [{**ERRORS, "outcome": "booked"}]}, "outcome means nothing to error-rate"),
    ({"steps": STEPS, "checks": [{"name": "x", "metric": "outcome", "limit": "1%"}]}, "needs `outcome`"),
    ({"steps": STEPS, "checks": [{"name": "x", "metric": "missing-features"}]}, "is written like 1%"),
    ({"strategy": "rainbow"}, "canary"),
]


@pytest.mark.parametrize(("plan", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_a_setting_that_means_nothing_or_is_missing_is_refused(plan: dict[str, Any], says: str) -> None:
    """Never ignored: the error names the setting, and where it belongs."""
    with pytest.raises(ConfigError) as caught:
        parsed(plan)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("environment", ["staging", "canary", "production"])
def test_this_repositorys_files_are_valid_by_the_schema(environment: str) -> None:
    """What editors are told agrees with the files that run."""
    text = (ROOT / "envs" / environment / "rollout.yaml").read_text()
    jsonschema.validate(yaml.safe_load(text), rollout_schema())


def test_every_field_is_documented() -> None:
    """No field of rollout.yaml is without a description."""
    undocumented = [
        f"{name}.{field}"
        for name, definition in rollout_schema()["$defs"].items()
        for field, shape in definition.get("properties", {}).items()
        if not shape.get("description") and name != "_RolloutForm"
    ]
    assert undocumented == []


@pytest.mark.parametrize("text", ["0s", "90s", "5m", "2h", "1d", "36h"])
def test_a_default_is_shown_as_it_is_written(text: str) -> None:
    """A duration in the schema can be copied into the file."""
    from tidegate.core.plan import Seconds

    assert parse_quantity(Seconds, written_duration(parse_quantity(Seconds, text))) == parse_quantity(
        Seconds, text
    )
