"""Answers requests before anybody asks: `python -P -m tidegate.serving.beforehand TAG ROWS OUT`.

Run in a Bento's own environment, so that an answer made beforehand is the one that the release would give:
its code, its model, its features, looked up as of now where a row lacks them. ROWS holds a request a line,
OUT gets `{"key": …, "answer": …}` for each; what is refused or can't be named is told on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from tidegate.serving.engine import Call, Engine
from tidegate.serving.online import Precomputed, lookups, prediction_key, template
from tidegate.serving.request import Invalid, decode
from tidegate.serving.settings import settings

SECONDS = 10.0  # that the feature store may take: nobody waits for this answer
PROGRESS = 10_000  # rows
MOST_TOLD = 10


def main() -> int:
    """Answer all rows; 0 when each was, 1 when some were not, 2 when the service makes none beforehand."""
    parser = argparse.ArgumentParser(prog="python -m tidegate.serving.beforehand", description=__doc__)
    parser.add_argument("bento")
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    import bentoml

    service = bentoml.load(arguments.bento)
    if getattr(service.inner, "precomputed", None) is None:
        print("its service declares no `precomputed`", file=sys.stderr)
        return 2
    service()
    return asyncio.run(answer_all(service, arguments.rows, arguments.out))


async def answer_all(service: Any, rows: Path, out: Path) -> int:
    """Answer each line of `rows` into `out`; return 1 if some got none."""
    inner = service.inner
    rule: Precomputed = inner.precomputed
    engine = Engine(service, settings(Path(inspect.getfile(inner))))
    # Without a release it answers nothing from what was made before: this is the renewal.
    engine.online = lookups(inner, "", SECONDS)
    release = engine.identity["release"]
    entity, decoder = template(rule.entity), msgspec.json.Decoder(inner.request)
    encode, failed = msgspec.json.Encoder().encode, 0
    with rows.open("rb") as lines, out.open("wb") as made:
        for number, line in enumerate(lines, 1):
            try:
                request = decode(line, decoder)
                name = entity(request)
                if name is None:
                    raise Invalid(422, "", "lacks what it would be known by")
                answer = await engine.one(Call("beforehand", time.perf_counter()), request)
            except (Invalid, ArithmeticError, ValueError) as error:
                failed += 1
                if failed <= MOST_TOLD:
                    print(f"row {number}: {getattr(error, 'field', '')} {error}", file=sys.stderr)
                continue
            made.write(encode({"key": prediction_key(release, name), "answer": answer}) + b"\n")
            if number % PROGRESS == 0:
                print(f"{number:,} rows", file=sys.stderr, flush=True)
    if engine.online is not None:
        engine.online.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
