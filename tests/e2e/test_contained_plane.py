"""A production plane whose releases are containers: rollout, rollback and a killed agent, by tiny images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.e2e.rig import PLANE, Rig, Traffic, eventually
from tests.images import OPTIONS, image_release, podman, usable
from tidegate.core.release import ReleaseRecord
from tidegate.machine.containers import AT, mark
from tidegate.machine.engine import Engine, Seen
from tidegate.packaging import record_text

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FAILS = """
import os, runpy, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
sys.argv = ["x", "3000", "bad", "0.0.0.0"]
made = runpy.run_path("/tiny_server.py")
handler = made["Handler"]
def post(self):
    self.rfile.read(int(self.headers.get("content-length") or 0))
    self.send_response(500)
    self.send_header("content-length", "0")
    self.end_headers()
handler.do_POST = post
made["Server"](("0.0.0.0", 3000), handler).serve_forever()
"""
CHECKS = [{"name": "errors", "metric": "error-rate", "limit": "10%"}]
STEPS = {
    "canary": {
        "steps": [{"setWeight": 20, "pause": {"duration": "1s", "minRequests": 10}}],
        "checks": CHECKS,
    },
    "production": {
        "steps": [{"setWeight": 100, "pause": {"duration": "1s", "minRequests": 20}}],
        "requiredSoakTime": "1s",
        "scaleDownDelay": "1s",
        "checks": CHECKS,
    },
}


class Images:
    """Releases whose images are made here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def platform(self) -> dict[str, str]:
        return {"bentos": str(self._folder / "bentos")}

    def release(self, number: int, *, bad: bool = False) -> ReleaseRecord:
        return image_release(number, command=FAILS if bad else "")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    if why := usable():
        pytest.skip(why)
    made = Rig(tmp_path, STEPS, made=Images(tmp_path), model="toy")
    path = f"envs/{PLANE}/platform.yaml"
    spec: dict[str, Any] = yaml.safe_load(made.says(path))
    spec |= {"workloads": {"adapter": "podman", "replicas": 1}, "images": {"run": list(OPTIONS)}}
    made.push({path: yaml.safe_dump(spec)}, "Run containers")
    try:
        made.up()
        yield made
    finally:
        made.down()
        assert _containers(made) == []


def _containers(rig: Rig) -> list[Seen]:
    return Engine("podman").containers(f"{AT}={mark(rig.home.root, PLANE)}")


def _promote(rig: Rig, record: ReleaseRecord, *environments: str) -> None:
    """Ask for a release; what its images are is merged with it."""
    images = {"release": record.id, "model": "toy", "images": msgspec.to_builtins(record.images)}
    plain = msgspec.structs.replace(record, images=None)
    path = f"envs/releases/toy/{record.id}"
    files = {f"{path}.yaml": record_text(plain), f"{path}.images.yaml": yaml.safe_dump(images)}
    rig.push(files, f"Record {record.id}")
    rig.promote(plain, *environments)


def test_a_rollout_and_a_rollback_in_containers(rig: Rig) -> None:
    """One reaches production, the next agent takes over what the killed one started, a bad one goes back."""
    sound, bad = rig.stores.release(11), rig.stores.release(12, bad=True)
    _promote(rig, sound, "canary", "production")
    with Traffic(rig.url, 40.0, rows=({"a": 1},), model="toy") as traffic:
        eventually(rig.reached("production", sound.id, "Healthy"), "the sound one is healthy", 120)
        (before,) = _containers(rig)
        since = traffic.mark()
        assert rig.kill_agent()
        eventually(rig.agent, "another agent runs", 60)
        podman("kill", "--signal", "KILL", before.name)
        eventually(
            lambda: [c.pid for c in _containers(rig) if c.pid not in (0, before.pid)], "it is back", 60
        )
        eventually(lambda: traffic.by(sound.id, since) and traffic.answers[-1].ok, "it answers", 60)
        since = traffic.mark()
        _promote(rig, bad, "canary")
        eventually(rig.reached("canary", bad.id, "RolledBack"), "the bad one is taken back", 120)
        eventually(lambda: rig.weights() == {sound.id: 100}, "all traffic is back")
        eventually(lambda: rig.rejection(bad.id).get("verdict") == "FAIL", "Git says so", 60)
        eventually(lambda: len(_containers(rig)) == 1, "its container is gone", 60)
    assert traffic.failed(bad.id, since=since) == {}, "stable failed nobody"
    assert rig.problems() == []
