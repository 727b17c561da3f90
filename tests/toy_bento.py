"""A Bento in a tenth of a second: its own small `tidegate/serve.py`, started as every workload is.

It answers `POST /predict` and `/readyz`; a test says by a statement what it does at its start and before each
answer, in which `kept` is a list that lives as long as the service, and `status` what it answers.
"""

from __future__ import annotations

import json
from pathlib import Path

from tidegate.bentos import bento_digest, bento_path
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord

SERVE = """
import asyncio, sys, time

kept = []

def answer(path, body):
    status = 200
    if path == "/predict":
        sum(range(5000))  # CPU time enough for the kernel to count
        {each}
    return status

async def talk(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode().lower()
            size = int(head.partition("content-length:")[2].split("\\r")[0] or 0)
            body = await reader.readexactly(size)
            status = answer(head.split(" ")[1], body)
            text = b'{{"probability": 0.25}}'
            writer.write(b"HTTP/1.1 %d x\\r\\ncontent-length: %d\\r\\n\\r\\n%s" % (status, len(text), text))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    {start}
    host = sys.argv[5] if len(sys.argv) > 5 else "127.0.0.1"  # an image says `--port 3000 --host 0.0.0.0`
    server = await asyncio.start_server(talk, host, int(sys.argv[3]))
    await server.serve_forever()

asyncio.run(main())
"""


def toy_release(
    store: Path, version: str, *, each: str = "pass", start: str = "pass", size: int = 0, rows: int = 5
) -> ReleaseRecord:
    """Write a Bento `toy:<version>` into a store, `size` bytes larger than it need be; return its record."""
    tag = f"toy:{version}"
    folder = bento_path(store, tag)
    package = folder / "src" / "tidegate"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "serve.py").write_text(SERVE.format(each=each, start=start))
    (folder / "src" / "model").mkdir()
    (folder / "src" / "model" / "examples.json").write_text(json.dumps([{"x": n} for n in range(rows)]))
    (folder / "bento.yaml").write_text(f"name: toy\nversion: {version}\n")
    (folder / "src" / "ballast").write_bytes(bytes(size))
    bento = BentoRef(tag, bento_digest(folder))
    registry = RegistryRef("toy", 1)
    return ReleaseRecord("toy", "c" * 40, "sha256:p", registry, "sha256:a", bento, {"data": "PASS"})
