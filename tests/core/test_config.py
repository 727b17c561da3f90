"""What the files under envs/ may say, and how each mistake is told: file, line and what to do."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import CANARY, A, B, envs, record
from tidegate.config import (
    load,
    parse_desired,
    parse_platform,
    parse_record,
    parse_release_file,
    parse_rollout,
)
from tidegate.core.telling import KINDS
from tidegate.documents import MAX_BYTES, read_yaml
from tidegate.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_this_repositorys_envs_parse() -> None:
    """The working instance is valid."""
    assert set(load(ROOT).environments) == {"staging", "canary", "production"}


MISTAKES = [
    ("envs/canary/release.yaml", f"models:\n  toy: {A}\n  toy: {B}\n", ":3", "`toy` is given twice"),
    ("envs/canary/release.yaml", f"modls:\n  toy: {A}\n", ":1", "Did you mean `models`?"),
    ("envs/canary/release.yaml", f"models: &x\n  toy: {A}\nother: *x\n", ":3", "aliases"),
    ("envs/canary/release.yaml", "models:\n  toy: [\n", "", "Correct the syntax"),
    ("envs/canary/release.yaml", "models:\n  toy: 012345670123\n", ":2", "quote"),
    ("envs/canary/release.yaml", "models:\n  toy: 123456789012\n", ":2", "quote"),
    ("envs/canary/release.yaml", "models:\n  toy: latest\n", ":2", "is not a release id"),
    ("envs/canary/release.yaml", f"models:\n  ../toy: {A}\n", ":2", "can't name a model"),
    ("envs/canary/release.yaml", "- a\n", ":1", "must be a mapping"),
    ("envs/canary/release.yaml", "models: !!python/object:os.system {}\n", "", "tag"),
    ("envs/canary/release.yaml", "a: " + "[" * 5000, "", ""),
    ("envs/canary/release.yaml", "a: " + "[" * 5000 + "]" * 5000, "", "can't be read"),
    ("envs/canary/release.yaml", "a: " + "9" * 5000, "", "can't be read"),
    ("envs/canary/release.yaml", "a: 2026-02-31", "", "can't be read"),
    ("envs/canary/release.yaml", "\x00", "", ""),
    ("envs/canary/release.yaml", "x" * (MAX_BYTES + 1), "", "larger than"),
    (
        "envs/canary/rollout.yaml",
        CANARY.replace("setWeight: 50", "setWieght: 50"),
        ":5",
        "Did you mean `setWeight`?",
    ),
    ("envs/canary/rollout.yaml", CANARY.replace("2m", "2 minutes"), ":7", "30s, 5m or 2h"),
    ("envs/canary/rollout.yaml", CANARY.replace("limit: 2%", "limit: 200%"), ":11", "error rate"),
    ("envs/canary/rollout.yaml", CANARY.replace("setWeight: 50", "setWeight: 5"), "", "steps must rise"),
    ("envs/canary/rollout.yaml", "defaults:\n  alpha: .nan\n", ":1", "alpha must be"),
    ("envs/canary/rollout.yaml", "models:\n  toy:\n    intervall: 2s\n", ":3", "Did you mean `interval`?"),
    ("envs/canary/rollout.yaml", "", "", "there are no steps"),
    ("envs/canary/rollout.yaml", "defaults:\n  steps: [{setWeight: 5}]\n", ":1", "no check that decides"),
    ("envs/production/rollout.yaml", "defaults: {}\n", ":1", "no check that decides"),
    (
        "envs/production/rollout.yaml",
        CANARY.replace("limit: 2%", "dryRun: true, limit: 2%").replace(
            "limit: 1s", "dryRun: true, limit: 1s"
        ),
        ":1",
        "no check that decides",
    ),
    (
        "envs/canary/rollout.yaml",
        f"{CANARY}models:\n  toy:\n    checks: [{{name: e, metric: error-rate, limit: 1%, dryRun: true}}]\n",
        ":14",
        "no check that decides",
    ),
    (
        "envs/canary/platform.yaml",
        "plane: production\nrouter: {adaptor: envoy}\n",
        ":2",
        "Did you mean `adapter`?",
    ),
]


@pytest.mark.parametrize(("path", "text", "line", "said"), MISTAKES, ids=[f"{m[2]} {m[3]}" for m in MISTAKES])
def test_each_mistake_names_file_line_and_remedy(path: str, text: str, line: str, said: str) -> None:
    """One clear line: which file, which line, what to do."""
    with pytest.raises(ConfigError) as caught:
        parse_desired("c", envs(A, A) | {path: text})
    message = str(caught.value)
    assert message.startswith(f"{path}{line}"), message
    assert said in message
    assert "\n" not in message
    assert caught.value.action


@pytest.mark.parametrize("name", ["release.yaml", "rollout.yaml", "platform.yaml"])
def test_a_missing_file_is_named(name: str) -> None:
    """An environment without one of its files is an error, not one that wants or watches nothing."""
    files = envs(A, A)
    del files[f"envs/canary/{name}"]
    with pytest.raises(ConfigError, match=rf"envs/canary/{name}: is missing"):
        parse_desired("c", files)


def test_watching_nothing_has_to_be_said() -> None:
    """`checks: []` is a decision; their absence is a mistake."""
    text = "defaults:\n  steps: [{setWeight: 5}]\n  checks: []\n"
    desired = parse_desired("c", envs(A, A) | {"envs/canary/rollout.yaml": text})
    assert desired.environments["canary"].plan("toy").checks == ()


@given(
    st.one_of(
        st.text(max_size=60),
        st.from_regex(r"(models|toy|&a|\*a|[-:?\[\]{}!|>\n \"'%#,0-9])*", fullmatch=True),
    )
)
def test_any_text_is_read_or_refused_by_our_error(text: str) -> None:
    """No file that a person can push makes anything but ConfigError."""
    with suppress(ConfigError):
        assert isinstance(parse_release_file(text, "f.yaml"), dict)


def test_a_record_with_another_content_is_refused() -> None:
    """A record's content has the id that its file name says."""
    import msgspec
    import yaml

    text = yaml.safe_dump(msgspec.to_builtins(record(1)))
    assert parse_record(text, f"envs/releases/toy/{A}.yaml").id == A
    with pytest.raises(ConfigError, match=f"has the id {A}"):
        parse_record(text, f"envs/releases/toy/{B}.yaml")


def test_a_rejection_of_another_release_is_refused() -> None:
    """A rejection file under one release's name can't refuse another."""
    text = f"release: {A}\nmodel: toy\nenvironment: canary\nat: x\nverdict: FAIL\nreason: y\n"
    with pytest.raises(ConfigError, match=A):
        parse_desired("c", envs() | {f"envs/releases/toy/{B}.rejected.yaml": text})


def test_a_models_plan_lies_over_the_defaults() -> None:
    """Mappings merge, lists are replaced whole."""
    default, plans = parse_rollout(
        CANARY + "models:\n  toy:\n    steps: [{setWeight: 20}]\n    alpha: 0.05\n", "r.yaml"
    )
    assert [s.set_weight for s in plans["toy"].steps] == [20]
    assert (plans["toy"].alpha, plans["toy"].checks) == (0.05, default.checks)


def test_the_shared_platform_lies_below_each_environments() -> None:
    """envs/platform.yaml is the base; the environment's own file wins."""
    files = {"envs/platform.yaml": "agent: {poll: 9s}\n", "envs/canary/platform.yaml": "plane: production\n"}
    spec = parse_platform(files, "canary")
    assert (float(spec.agent.poll), spec.plane) == (9.0, "production")


def test_lines_are_known() -> None:
    """Every key and item has its line."""
    _, lines = read_yaml("a:\n  b:\n  - x\n  - y\n", "f")
    assert (lines["$.a"], lines["$.a.b"], lines["$.a.b[1]"]) == (1, 2, 4)


# ---------------------------------------------------------------- prices
def test_prices_are_read_with_their_machines() -> None:
    """Each machine has a price by the hour, cores and, where it says so, GPUs."""
    text = "prices: {currency: EUR, machines: {big: {perHour: 0.5, cores: 8}, gpu: {perHour: 2, gpus: 1}}}\n"
    files = {"envs/platform.yaml": text, "envs/staging/platform.yaml": "plane: staging\n"}
    prices = parse_platform(files, "staging").prices
    assert prices.currency == "EUR"
    assert (prices.machines["big"].per_hour, prices.machines["big"].cores) == (0.5, 8)
    assert (prices.machines["big"].gpus, prices.machines["gpu"].gpus) == (0, 1)
    assert parse_platform({"envs/staging/platform.yaml": ""}, "staging").prices.machines == {}


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        ("{perHour: 0}", "more than 0"),
        ("{perHour: -1}", "more than 0"),
        ("{perHour: .nan}", "nan"),
        ("{perHour: .inf}", "inf"),
        ("{cores: 2}", "per"),
        ("{perHour: 1, cores: 0}", "cores"),
        ("{perHuor: 1}", "Did you mean `perHour`"),
    ],
)
def test_a_price_that_is_none_is_refused(machine: str, told: str) -> None:
    """Free, negative, missing and misspelt prices are one line with the file's name and line."""
    files = {"envs/staging/platform.yaml": f"prices:\n  machines:\n    cpu: {machine}\n"}
    with pytest.raises(ConfigError, match=re.escape(told)) as refused:
        parse_platform(files, "staging")
    assert "envs/staging/platform.yaml:" in str(refused.value)


# ---------------------------------------------------------------- adapters
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("workloads:\n  adapter: podmn", "2: `workloads.adapter` can't be `podmn`. Did you mean `podman`?"),
        ("router:\n  adapter: nginx", "2: `router.adapter` can't be `nginx`. Known: envoy."),
        ("forge:\n  adapter: gitlab", "2: `forge.adapter` can't be `gitlab`. Did you mean `github`?"),
        ("workloads:\n  memory: 1g", "1: memory, cpus and gpus are of containers; nothing limits a process"),
        ("workloads: {gpus: all, adapter: supervisor}", "1: memory, cpus and gpus are of containers"),
    ],
)
def test_whatever_reads_a_platform_refuses_an_adapter_that_means_nothing(text: str, told: str) -> None:
    """Not the agent alone, later and in its log: doctor, up, image and status say it, with the line."""
    with pytest.raises(ConfigError) as refused:
        parse_platform({"envs/staging/platform.yaml": f"{text}\n"}, "staging")
    assert str(refused.value).startswith(f"envs/staging/platform.yaml:{told}")


# ---------------------------------------------------------------- whom is told what
def test_people_are_told_by_default_when_a_rollout_waits_for_them() -> None:
    """Of what wants a person, nothing has to be asked for."""
    told = parse_platform({"envs/staging/platform.yaml": ""}, "staging").notify.events
    assert {"paused", "breach", "gave-up", "arm-out", "problem"} <= set(told)


def test_a_kind_of_event_that_never_happens_is_refused() -> None:
    """A misspelt kind would be silence; the error names the closest."""
    with pytest.raises(ConfigError, match=r"`breech`\. Did you mean `breach`"):
        parse_platform({"envs/staging/platform.yaml": "notify: {events: [breech]}"}, "staging")


def test_each_kind_of_event_that_is_noted_can_be_asked_for() -> None:
    """What an agent notes and nobody could be told of would be a kind that telling does not know."""
    source = "".join(path.read_text() for path in Path("tidegate").rglob("*.py"))
    noted = set(re.findall(r'Note\(\s*"([a-z-]+)"', source))
    assert len(noted) > 15
    assert noted <= set(KINDS)
