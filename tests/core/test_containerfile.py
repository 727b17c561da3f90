"""What an image's container file says, and what is installed: pins, hashes, and the one swap for GPUs."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate import healthy
from tidegate.core import containerfile

ONE, TWO, THREE = ("a" * 64, "b" * 64, "c" * 64)
LOCK = f"""numpy==2.4.6 \\
    --hash=sha256:{ONE} \\
    --hash=sha256:{TWO}
    # via onnxruntime
onnxruntime==1.31.1 ; sys_platform == 'linux' \\
    --hash=sha256:{ONE}
redis[hiredis]==6.4.0 \\
    --hash=sha256:{ONE}
Loose==1
"""
GPU = f"numpy==2.4.6 \\\n    --hash=sha256:{THREE}\nonnxruntime-gpu==1.31.1 \\\n    --hash=sha256:{TWO}\n"


def test_each_pin_gets_the_locks_hashes() -> None:
    """What is installed is the Bento's pins and no other, each with all hashes that the lock has of it."""
    text, missing = containerfile.requirements(["numpy==2.4.6", "redis==6.4.0"], LOCK)
    assert text.splitlines() == [
        f"numpy==2.4.6 --hash=sha256:{ONE} --hash=sha256:{TWO}",
        f"redis==6.4.0 --hash=sha256:{ONE}",
    ]
    assert missing == []
    assert containerfile.hashes(text) == {ONE, TWO}
    assert containerfile.pinned(text) == {"numpy": "2.4.6", "redis": "6.4.0"}


@pytest.mark.parametrize("pin", ["numpy==2.4.5", "numpy==2.4", "numpy==2.4.60", "other==1", "loose==1"])
def test_a_pin_without_a_hash_is_told(pin: str) -> None:
    """Another version, an unknown package and one without hashes are missing: nothing takes their place."""
    assert containerfile.requirements([pin], LOCK) == ("", [pin])


def test_a_pins_condition_stays() -> None:
    """A requirement for some systems only keeps its condition."""
    text, missing = containerfile.requirements(["onnxruntime==1.31.1 ; sys_platform == 'linux'"], LOCK)
    assert "; sys_platform == 'linux'" in text
    assert missing == []


def test_the_gpu_runtime_takes_the_others_place() -> None:
    """Both are one Python module, so exactly one of them is installed; what both need is as it was locked."""
    text, missing = containerfile.requirements(["onnxruntime==1.31.1"], LOCK, GPU)
    assert containerfile.pinned(text) == {"numpy": "2.4.6", "onnxruntime-gpu": "1.31.1"}
    assert missing == []
    assert THREE not in text


def test_the_process_is_started_as_every_workload() -> None:
    """The entry point serves the Bento as a number of a user, on all addresses of the container's own."""
    text = containerfile.release_file("packages", {}, {}, ["src"])
    said = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in text.splitlines() if " " in line.strip()}
    command = json.loads(said["ENTRYPOINT"]) + json.loads(said["CMD"])
    assert command[1:4] == ["-P", "-m", "tidegate.serve"]
    assert command[-4:] == ["--port", "3000", "--host", "0.0.0.0"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said["USER"])


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"])))
def test_no_value_ends_its_label(value: str) -> None:
    """Whatever a label's value holds, it stays one quoted word: no quote ends it, no variable is put in."""
    text = containerfile.release_file("packages", {"key": value}, {}, [])
    (line,) = (line for line in text.splitlines() if line.startswith("      key="))
    inner = line.removeprefix('      key="').removesuffix('"')
    assert not re.search(r'(?<!\\)(\\\\)*["$]', inner)


def test_installed_debian_packages_are_listed() -> None:
    """What dpkg says is installed is listed; what was removed, and a line of a description, is not."""
    status = (
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n"
        "Description: C\n Package: no\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: adduser\nStatus: install ok installed\nArchitecture: all\nVersion: 3.134\n"
    )
    assert containerfile.debian_packages(status) == [
        ("adduser", "3.134", "all"),
        ("libc6", "2.36-9", "amd64"),
    ]


# ---------------------------------------------------------------- the health check
@pytest.mark.parametrize(
    ("command", "port"),
    [
        (["python", "-m", "tidegate.serve", "/b", "--port", "8001", "--host", "0.0.0.0"], 8001),
        (["init", "--", "python", "--port=8002"], 8002),
        (["python"], 3000),
        (["python", "--port"], 3000),
        (["python", "--port", "none"], 3000),
    ],
)
def test_the_port_is_that_of_the_first_process(command: list[str], port: int) -> None:
    """The health check asks where the service was told to listen, and else where images listen."""
    assert healthy.port_of(command) == port


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_health_is_what_readyz_says(
    status: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a ready service is healthy, and what it said is printed."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 500)
            self.end_headers()
            self.wfile.write(b"said")

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Ready)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    command = tmp_path / "cmdline"
    command.write_bytes(f"python\0--port\0{server.server_port}\0".encode())
    try:
        assert healthy.main(command) == code
    finally:
        server.shutdown()
        server.server_close()
    assert f"{status} said" in capsys.readouterr().out


def test_a_service_that_does_not_answer_is_not_healthy(tmp_path: Path) -> None:
    """Nobody at the port means not healthy, without a traceback."""
    command = tmp_path / "cmdline"
    command.write_bytes(b"python\0--port\x001\0")
    assert healthy.main(command) == 1
