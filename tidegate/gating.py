"""What every gate script shares: arguments, params.yaml, errors as reports, exit codes.

A script gives a name, the shape of its settings and one function that looks; everything that goes
wrong on the way becomes an ERROR report, and a report of an earlier run never survives the start of
the next one.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import msgspec

from tidegate import report
from tidegate.config import merge
from tidegate.core.verdict import Finding, Verdict
from tidegate.documents import convert, read_yaml
from tidegate.errors import ConfigError, NoData, TidegateError

PARAMS = "params.yaml"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of a gate's section of params.yaml: immutable, unknown keys refused with a did-you-mean."""


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Subject(Generic[S]):
    """What a gate looks at. Paths are relative to `root`, the checkout in which the script runs."""

    model: str
    settings: S
    root: Path
    endpoint: str = ""
    release: str = ""

    @property
    def package(self) -> str:
        """The model's name as a Python package."""
        return self.model.replace("-", "_")

    def data(self, split: str) -> Path:
        """Return a split's file. Raises NoData when the pipeline has not written it."""
        return _there(self.root / "data" / self.model / f"{split}.parquet", "dvc repro")

    def built(self, name: str) -> Path:
        """Return a file or folder of build/<model>/. Raises NoData when it is not there."""
        return _there(self.root / "build" / self.model / name, "dvc repro")


@dataclass(frozen=True)
class Looked:
    """What a gate saw: its findings, and the numbers worth keeping beside them."""

    findings: Sequence[Finding]
    measurements: Mapping[str, Any] = field(default_factory=dict)


def _there(path: Path, command: str) -> Path:
    if not path.exists():
        raise NoData(f"{path.name} is not in {path.parent.name}/", f"Make it with `{command}`.")
    return path


def read_settings(text: str, gate: str, model: str, shape: type[S]) -> S:
    """Return a gate's settings for a model: `gates.<gate>`, and `models.<model>.gates.<gate>` over it.

    Raises ConfigError, with the line, for an unknown key, a missing section or an unknown model.
    """
    value, lines = read_yaml(text, PARAMS)
    models, gates = _section(value, "models"), _section(value, "gates")
    if model not in models:
        raise ConfigError(f"no model is called `{model}`", _close(model, models), where=PARAMS)
    over = _section(_section(models, model), "gates")
    known = {*gates, *over}
    if gate not in known:
        raise ConfigError(f"gate `{gate}` has no section under `gates:`", _close(gate, known), where=PARAMS)
    base, own = _section(gates, gate), _section(over, gate)
    convert(base, shape, where=PARAMS, lines=lines, at=f"$.gates.{gate}")
    at = f"$.models.{model}.gates.{gate}" if own else f"$.gates.{gate}"
    return convert(merge(base, own), shape, where=PARAMS, lines=lines, at=at)


def _section(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    if found is not None and not isinstance(found, dict):
        raise ConfigError(f"`{key}` must be a mapping", "Write `key: value` lines under it.", where=PARAMS)
    return found or {}


def _close(name: str, known: Sequence[str] | set[str] | dict[str, Any]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"Did you mean `{close[0]}`?" if close else f"Known: {', '.join(sorted(known)) or 'none'}."


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2, which here means INCONCLUSIVE: a misspelt call is an ERROR."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(Verdict.ERROR.exit_code, f"{self.prog}: {message}\n")


def _arguments(gate: str, about: str, needs_endpoint: bool, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog=f"gates/{gate}.py", description=about)
    parser.add_argument("model", help="the model's name, e.g. flight-delay")
    parser.add_argument("--out", type=Path, help="folder of the report (default: build/<model>/gates)")
    parser.set_defaults(endpoint="", release="")
    if needs_endpoint:
        text = "the model's base URL, e.g. http://127.0.0.1:8080/flight-delay"
        parser.add_argument("--endpoint", required=True, metavar="URL", help=text)
        parser.add_argument("--release", default="", metavar="ID", help="the release that must answer")
    return parser.parse_args(argv)


def run(
    gate: str,
    shape: type[S],
    look: Callable[[Subject[S]], Looked],
    *,
    needs_endpoint: bool = False,
    argv: Sequence[str] | None = None,
) -> int:
    """Run a gate in the current folder: look, write `<out>/<gate>.{json,md}`, return the exit code.

    Exit code 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 ERROR; whatever is raised on the way is an ERROR with
    its message in the report.
    """
    about = (sys.modules[look.__module__].__doc__ or "").split("\n", 1)[0]
    asked = _arguments(gate, about, needs_endpoint, argv)
    root = Path.cwd()
    out = asked.out or root / "build" / asked.model / "gates"
    began = time.monotonic()
    try:
        for suffix in ("json", "md"):
            (out / f"{gate}.{suffix}").unlink(missing_ok=True)
        result = _look(gate, shape, look, asked, root)
        report.write(result, out)
    except OSError as problem:  # no report could be written: the exit code is all that is left
        print(f"gates/{gate}.py: the report can't be written: {problem}", file=sys.stderr)
        return Verdict.ERROR.exit_code
    # Not in the report: the same inputs give the same bytes, and so the same release.
    print(f"{_line(result)} ({time.monotonic() - began:.1f} s)")
    return result.exit_code


def _look(
    gate: str,
    shape: type[S],
    look: Callable[[Subject[S]], Looked],
    asked: argparse.Namespace,
    root: Path,
) -> report.Report:
    try:
        params = _there(root / PARAMS, "git checkout -- params.yaml").read_text()
        settings = read_settings(params, gate, asked.model, shape)
        subject = Subject(asked.model, settings, root, asked.endpoint.rstrip("/"), asked.release)
        if str(root) not in sys.path:  # models/<package> is imported from the checkout
            sys.path.insert(0, str(root))
        looked = look(subject)
    except TidegateError as problem:
        return report.broken(gate, asked.model, str(problem))
    except Exception as problem:
        traceback.print_exc()
        place = traceback.extract_tb(problem.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return report.broken(gate, asked.model, f"{type(problem).__name__} at {where}: {problem}")
    return report.Report(gate, asked.model, tuple(looked.findings), looked.measurements)


def _line(result: report.Report) -> str:
    unhappy = [f.reason for f in result.findings if f.verdict is not Verdict.PASS]
    shown = "; ".join(unhappy[:3]) + (f" (and {len(unhappy) - 3} more)" if len(unhappy) > 3 else "")
    return f"{result.verdict:<12} {result.gate} of {result.model}" + (f": {shown}" if shown else "")
