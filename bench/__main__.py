"""Measure, print side by side, and write bench.json; exit 1 if a goal is missed."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench import (  # noqa: F401 - they register themselves
    agents,
    experiments,
    features,
    gates,
    images,
    load_ratio,
    many,
    pipeline,
    predictions,
    protocols,
    quality,
    replay,
    rollouts,
    routing,
    serving,
    transformer,
)
from bench.registry import GROUPS, run
from tidegate.config import Home
from tidegate.files import write_atomic


def main() -> int:
    """Run the chosen entries and tell their numbers."""
    names = [name for group in GROUPS for name in group.names]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", metavar="NAME", nargs="+", help=f"some of: {', '.join(names)}")
    parser.add_argument("--json", action="store_true", help="print the list of entries as JSON")
    arguments = parser.parse_args()
    only = arguments.only or names
    for name in only:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            parser.error(f"no entry is called `{name}`.{hint} Known: {', '.join(names)}.")
    rows: list[dict[str, Any]] = []
    for group in GROUPS:
        if not set(only) & set(group.names):
            continue
        print(f"measuring {', '.join(group.names)} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        found = run(group)
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        rows += [row for row in found if row["name"] in only]
    path = Home.find(Path.cwd()).root / "bench.json"
    write_atomic(path, json.dumps(_merged(path, rows, names), indent=1) + "\n")
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        _table(rows)
    return 0 if all(row["ok"] for row in rows) else 1


def _merged(path: Path, rows: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Lay what was measured now over the entries of an earlier run: `--only` replaces one of them."""
    try:
        known = {row["name"]: row for row in json.loads(path.read_text())}
    except (OSError, ValueError, TypeError, KeyError):
        known = {}
    known |= {row["name"]: row for row in rows}
    return [known[name] for name in names if name in known]


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("entry", "value", "peer", "ratio", "goal", "", "note", box=None, pad_edge=False)
    for row in rows:
        peer = f"{_short(row['peer_value'])} {row['peer']}" if row["peer"] else ""
        table.add_row(
            row["name"],
            f"{_short(row['value'])} {row['unit']}",
            peer,
            _short(row["ratio"]) if row["ratio"] is not None else "",
            row["goal"],
            "[green]ok[/]" if row["ok"] else "[red]no[/]",
            row["note"],
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
