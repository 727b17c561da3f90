"""flight-delay's service as it runs: a real Bento, started by the command that supervisord uses."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.builders import tiny_model
from tidegate.adapters.bentoml import BentoStore
from tidegate.bentos import Source, serve_command, serve_environment
from tidegate.core.release import RegistryRef, ReleaseRecord
from tidegate.files import digest_folder

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN = 60.0


@dataclass
class Built:
    """A store with one Bento, and the record that names it."""

    home: Path
    record: ReleaseRecord

    @property
    def source(self) -> Path:
        """The Bento's source folder."""
        return BentoStore(self.home).path(self.record.bento.tag) / "src"


def build(folder: Path, late: float = 0.3) -> Built:
    """Build a Bento whose model answers `late` plus 0.001 an hour of the day."""
    model = tiny_model(folder / "model", late=late)
    digest = digest_folder(model)
    home = folder / "bentoml"
    bento = BentoStore(home).build(Source("flight-delay", ROOT, model, digest, 7, "9be14c2" + "0" * 33))
    record = ReleaseRecord(
        "flight-delay", "9be14c2" + "0" * 33, "sha256:", RegistryRef("flight-delay", 7), digest, bento, {}
    )
    return Built(home, record)


def start(built: Built, port: int, **environment: str) -> subprocess.Popen[bytes]:
    """Start a Bento as supervisord does."""
    added = serve_environment(built.home, built.record) | environment
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    # From a foreign folder: what the Bento needs must come from the Bento.
    return subprocess.Popen(
        serve_command(built.record.bento.tag, port),
        cwd=built.home,
        env=kept | added,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def ready(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the process answers on its port; False when it ends before that."""
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return True
        except httpx.TransportError:
            time.sleep(0.05)
    return False
