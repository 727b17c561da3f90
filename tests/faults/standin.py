"""Releases that start in a tenth of a second, and that a test can make sick while they run.

They are real Bentos in a real store, verified, started, probed and stopped as every workload is. What
they serve is a small asyncio server; a file named after the release says how it behaves:

`dead` answers 500 to all, `errors 0.1` to a tenth; `garbage` sends bytes that are no HTTP to users,
`rubbish` to its readiness probe too; `late 3` listens 3 s after its start; `slow 0.2` answers that late.
None of them is sick in its warm-up, which would keep it from ever being tried.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from tidegate.bentos import bento_digest, bento_path
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord

MODEL = "toy"
_SERVE = """
import asyncio, os, random, signal, sys
from pathlib import Path

SAYS = Path({control!r}) / os.environ["TIDEGATE_RELEASE"]

def behaviour():
    try:
        words = SAYS.read_text().split()
    except OSError:
        words = []
    return (words or ["sound"])[0], float((words + ["0", "0"])[1])

async def talk(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode().lower()
            size = int(head.partition("content-length:")[2].split("\\r")[0] or 0)
            await reader.readexactly(size)
            # What the router passes on carries an id; a warm-up comes straight from the agent.
            predict, (how, much) = "x-request-id" in head, behaviour()
            if how == "rubbish" or (predict and how == "garbage"):
                writer.write(b"\\x00\\xff no http at all\\r\\n\\r\\n")
                await writer.drain()
                break
            failed = predict and (how == "dead" or (how == "errors" and random.random() < much))
            if predict and how == "slow":
                await asyncio.sleep(much)
            text = b'{{"probability": 0.25}}'
            status = b"500 Sick" if failed else b"200 OK"
            writer.write(b"HTTP/1.1 %s\\r\\ncontent-length: %d\\r\\n\\r\\n%s" % (status, len(text), text))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()

async def main():
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    how, much = behaviour()
    if how == "late":
        await asyncio.sleep(much)
    server = await asyncio.start_server(talk, "127.0.0.1", int(sys.argv[3]), backlog=1024)
    await over.wait()
    server.close()
    await asyncio.sleep(0.2)  # what is just being answered
    os._exit(0)

asyncio.run(main())
"""


class StandIns:
    """One Bento in a store, and releases of it that differ by their commit."""

    def __init__(self, folder: Path) -> None:
        self.store, self.control = folder / "bentoml", folder / "behaviour"
        self.control.mkdir(parents=True)
        self._numbers = itertools.count(1)
        self.known: dict[str, ReleaseRecord] = {}  # by id
        tag = f"{MODEL}:1"
        bento = bento_path(self.store, tag)
        package = bento / "src" / "tidegate"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "serve.py").write_text(_SERVE.format(control=str(self.control)))
        (bento / "src" / "model").mkdir()
        (bento / "src" / "model" / "examples.json").write_text(json.dumps([{"x": n} for n in range(3)]))
        (bento / "src" / "requirements.lock").touch()
        (bento / "bento.yaml").write_text(f"name: {MODEL}\nversion: 1\n")
        self._bento = BentoRef(tag, bento_digest(bento))

    def platform(self) -> dict[str, str]:
        """Return what a platform.yaml says to use them."""
        return {"bentos": str(self.store)}

    def release(self, number: int, *, bad: bool = False) -> ReleaseRecord:
        """Return a record; equal numbers give equal releases. A `bad` one is dead."""
        digest = "sha256:" + "0" * 64
        # Version 0 is no version: MLflow's aliases are mirrored by a process that would take the processor
        # from what is measured here. tests/e2e mirrors them.
        registry = RegistryRef(MODEL, 0)
        record = ReleaseRecord(
            MODEL, f"{number:040x}", digest, registry, digest, self._bento, {"data": "PASS"}
        )
        self.known[record.id] = record
        if bad:
            self.behave(record, "dead")
        return record

    def fresh(self, behaviour: str = "") -> ReleaseRecord:
        """Return a release that there was not before."""
        record = self.release(next(self._numbers))
        self.behave(record, behaviour)
        return record

    def behave(self, record: ReleaseRecord, behaviour: str) -> None:
        """Make a release behave like this from its next answer on; empty is sound."""
        (self.control / record.id).write_text(behaviour)
