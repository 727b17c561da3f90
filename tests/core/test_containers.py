"""What an engine is told of a replica, word by word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tidegate.core.containers import Container, Limits, Mount, exposed, run_words, runs_as_root

PLAIN = Container("tidegate-1", "sha256:aa", 21001, 3000)


def _values(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def test_the_least_rights_are_what_nobody_asked_for() -> None:
    """Without a word in platform.yaml nothing can be written but /tmp, and no right can be gained."""
    words = run_words("podman", PLAIN)
    assert words[0] == "run"
    assert words[-1] == "sha256:aa", "by id: a name may have become another image meanwhile"
    assert "--read-only" in words
    assert "--pull=never" in words
    assert _values(words, "--cap-drop") == ["all"]
    assert _values(words, "--security-opt") == ["no-new-privileges"]
    assert [value.partition(":")[0] for value in _values(words, "--tmpfs")] == ["/tmp"]
    assert not {"--privileged", "--network", "--memory", "--cpus", "--device", "--gpus"} & set(words)


def test_a_port_is_loopbacks() -> None:
    """Nobody outside reaches a replica past the router."""
    assert _values(run_words("docker", PLAIN), "--publish") == ["127.0.0.1:21001:3000"]


def test_limits_reach_the_engine() -> None:
    """Memory and cores as platform.yaml says them."""
    words = run_words("podman", replace(PLAIN, limits=Limits("512m", 1.5)))
    assert (_values(words, "--memory"), _values(words, "--cpus")) == (["512m"], ["1.5"])


@pytest.mark.parametrize(
    ("engine", "gpus", "option", "values"),
    [
        ("podman", "all", "--device", ["nvidia.com/gpu=all"]),
        ("podman", "0,1", "--device", ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]),
        ("docker", "all", "--gpus", ["all"]),
        ("docker", "0,1", "--gpus", ['"device=0,1"']),
    ],
)
def test_gpus_are_named_as_each_engine_takes_them(
    engine: str, gpus: str, option: str, values: list[str]
) -> None:
    """podman by the Container Device Interface, docker by its own option, whose commas are quoted."""
    assert _values(run_words(engine, replace(PLAIN, limits=Limits(gpus=gpus))), option) == values


def test_mounts_are_read_only_unless_they_say_otherwise() -> None:
    """Of the two that a service has, one is written to."""
    made = replace(PLAIN, mounts=[Mount("/a", "/x"), Mount("/b", "/y", writable=True)])
    said = _values(run_words("docker", made), "--mount")
    assert said == ["type=bind,source=/a,target=/x,readonly", "type=bind,source=/b,target=/y"]


def test_whose_files_a_replica_writes_is_said_to_both_engines() -> None:
    """An agent that is not root is their owner; podman needs its user mapped to the same one inside."""
    made = replace(PLAIN, owner="1000:1000")
    podman, docker = run_words("podman", made), run_words("docker", made)
    assert _values(podman, "--user") == _values(docker, "--user") == ["1000:1000"]
    assert (_values(podman, "--userns"), _values(docker, "--userns")) == (["keep-id"], [])


def test_a_machines_own_options_come_last() -> None:
    """The engines let the last word win: what a machine needs is laid over what Tidegate says."""
    words = run_words("podman", PLAIN, ("--restart", "always", "--ulimit", "nofile=20000:20000"))
    assert words[-5:-1] == ["--restart", "always", "--ulimit", "nofile=20000:20000"]
    assert words.index("on-failure:10") < words.index("always")


def test_what_somebody_waits_for_is_not_restarted() -> None:
    """A copy that a gate starts and that fails has failed."""
    assert _values(run_words("podman", replace(PLAIN, restart=False)), "--restart") == ["no"]


@pytest.mark.parametrize(
    ("user", "root"),
    [("", True), ("0", True), ("root", True), ("0:0", True), ("1034", False), ("bentoml", False)],
)
def test_root_is_known_by_any_of_its_names(user: str, root: bool) -> None:
    """An image that says no user runs as root."""
    assert runs_as_root(user) is root


@pytest.mark.parametrize(
    ("ports", "port"),
    [
        (None, None),
        ({}, None),
        ({"3000/tcp": {}}, 3000),
        ({"8081/tcp": {}, "3000/tcp": {}, "53/udp": {}}, 3000),
    ],
)
def test_the_first_tcp_port_is_the_services(ports: dict[str, object] | None, port: int | None) -> None:
    """Others are other protocols'; an image that says none leaves it to its caller."""
    assert exposed(ports) == port
