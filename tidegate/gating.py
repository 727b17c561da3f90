"""What every gate script shares: arguments, params.yaml, errors as reports, exit codes.

A script names its gate, the shape of its settings and one function that looks; everything that goes
wrong on the way becomes an ERROR report, and a report of an earlier run never survives the start of
the next one. What a gate reads through its subject is named in its report, with its digest.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, TypeVar

import msgspec

from tidegate import baseline, bentos, config, params, report, wiring
from tidegate.core import gate as compare
from tidegate.core.exhibits import Chart, Comparison, Table
from tidegate.core.release import ReleaseRecord
from tidegate.core.task import Declaration
from tidegate.core.verdict import Finding, Verdict, worst
from tidegate.errors import ConfigError, NoData, TidegateError, suggest
from tidegate.files import digest
from tidegate.machine import copies

BUILTIN = (
    *("data", "drift", "quality", "slices", "variants"),
    "artifact",
    *("contract", "parity", "load", "resources", "gpu", "cost"),
)  # in the order in which they run: cost reads what load measured
ON_STAGING = BUILTIN[BUILTIN.index("contract") :]
Needs = Literal["files", "release", "endpoint"]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of a gate's section of params.yaml: immutable, unknown keys refused with a did-you-mean."""


S = TypeVar("S", bound=Settings)


@dataclass
class _Trace:
    """What a gate touched while it looked."""

    inputs: set[Path] = field(default_factory=set)
    against: str = ""
    release: str = ""


@dataclass(frozen=True)
class Subject(Generic[S]):
    """What a gate looks at. Paths are relative to `root`, the checkout in which the script runs."""

    model: str
    settings: S
    root: Path
    endpoint: str = ""
    release: str = ""
    trace: _Trace = field(default_factory=_Trace, compare=False, repr=False)

    @property
    def declared(self) -> Declaration:
        """What params.yaml says the model is for. Raises ConfigError for what can't be meant."""
        return params.load(self.root).declared(self.model)

    @property
    def package(self) -> str:
        """The model's folder in models/ and services/."""
        return params.package(self.root, self.model)

    def data(self, split: str) -> Path:
        """Return a split's file. Raises NoData when the pipeline has not written it."""
        return self.input(f"data/{self.model}/{split}.parquet")

    def built(self, name: str) -> Path:
        """Return a file or folder of build/<model>/. Raises NoData when it is not there."""
        return self.input(f"build/{self.model}/{name}")

    def input(self, name: str) -> Path:
        """Return a file or folder of the checkout, which the report will name. Raises NoData."""
        path = _there(self.root / name, "dvc repro")
        self.trace.inputs.add(path)
        return path

    def record(self) -> ReleaseRecord:
        """Return the candidate's release record: that of `release`, else the one packaged here last.

        Raises NoData when there is none.
        """
        packaged = self.root / "build" / self.model / "release.yaml"
        committed = self.root / "envs" / "releases" / self.model / f"{self.release}.yaml"
        path = committed if self.release and committed.is_file() else packaged
        if not path.is_file():
            raise NoData(f"no release of {self.model} is packaged here", "Make one with `dvc repro`.")
        found = config.read_record(path.read_text(), path.name)
        if found.model != self.model or (self.release and found.id != self.release):
            raise NoData(
                f"{path.relative_to(self.root)} is the record of release {found.id} of {found.model}, "
                f"not of {self.release or 'any'} of {self.model}",
                "Fetch the commit that holds the record, or leave --release out.",
            )
        self.trace.inputs.add(path)
        self.trace.release = found.id
        return found

    def production(self) -> ReleaseRecord | None:
        """Return the record of the release that production wants, or None; the report will name it."""
        found = baseline.released(self.root, self.model)
        self.trace.against = found.id if found else ""
        return found

    def serve(self, record: ReleaseRecord) -> AbstractContextManager[copies.Copy]:
        """Serve a copy of a release as staging does, for the length of a `with` block."""
        spec, home = wiring.platform(self.root, "staging"), wiring.home(self.root)
        if spec.workloads.contained:
            return copies.contain(wiring.recipe(spec, home), self._with_images(record))
        return copies.serve(self._store(), record)

    def image_bytes(self, record: ReleaseRecord) -> int | None:
        """Return the size of a release's image, None where staging runs processes. Raises ReleaseNotFound."""
        spec, home = wiring.platform(self.root, "staging"), wiring.home(self.root)
        if not spec.workloads.contained:
            return None
        return wiring.recipe(spec, home).image(self._with_images(record)).size

    def _with_images(self, record: ReleaseRecord) -> ReleaseRecord:
        """Return a record with the images that lie beside it; without any, nothing can be run of it."""
        path = f"envs/releases/{record.model}/{record.id}.images.yaml"
        if not (self.root / path).is_file():
            return record
        found = config.parse_images((self.root / path).read_text(), path)
        return msgspec.structs.replace(record, images=found.images)

    def bento(self, record: ReleaseRecord) -> Path:
        """Return the folder of a release's Bento, where this machine has it. Raises ReleaseNotFound."""
        return bentos.bento_path(self._store(), record.bento.tag)

    def _store(self) -> Path:
        return wiring.bentos_path(wiring.platform(self.root, "staging"), wiring.home(self.root))

    def report(self, gate: str) -> report.Report:
        """Return another gate's report of the same model and release. Raises NoData unless it is usable."""
        path = self.root / "build" / self.model / "gates" / f"{gate}.json"
        found = report.current(report.read_report(path), self.root, model=self.model, release=self.release)
        if found.verdict is Verdict.ERROR:
            raise NoData(found.findings[0].reason, f"Run `tidegate gate run {gate} {self.model}` first.")
        self.trace.inputs.add(path)
        return found


@dataclass(frozen=True)
class Looked:
    """What a gate saw: its findings, the numbers worth keeping beside them, and what a person would see.

    `comparisons` stand beside production's on the one page, `charts` and `tables` in the gate's own part.
    """

    findings: Sequence[Finding]
    measurements: Mapping[str, Any] = field(default_factory=dict)
    comparisons: Sequence[Comparison] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Gate(Generic[S]):
    """One gate: its name (that of its file and of its section of params.yaml), settings, and how it looks.

    `needs` says when it can run: `files` of the pipeline, a packaged `release`, or a staging `endpoint`.
    `inputs` and `fix` are sentences for `tidegate gate explain`; what it decides is its module's docstring.
    """

    name: str
    settings: type[S]
    look: Callable[[Subject[S]], Looked]
    needs: Needs
    inputs: str
    fix: str
    after: tuple[str, ...] = ()  # gates whose reports it reads: without them it has nothing to look at

    @property
    def decides(self) -> str:
        """What it decides: the docstring of its script."""
        return (sys.modules[self.look.__module__].__doc__ or "").strip()

    def main(self, argv: Sequence[str] | None = None, root: Path | None = None) -> int:
        """Run the gate in `root` (by default the current folder) and return its exit code; see `run`."""
        return run(self, argv=argv, root=root)


def names(root: Path) -> tuple[str, ...]:
    """Return the gates of a checkout's gates/: the built-in ones in the order they run, then a user's own."""
    found = {path.stem.replace("_", "-") for path in (root / "gates").glob("[a-z]*.py")}
    return (*(name for name in BUILTIN if name in found), *sorted(found - set(BUILTIN)))


def load(root: Path, name: str) -> Gate[Any]:
    """Import `gates/<name>.py` of a checkout and return its GATE. Raises ConfigError."""
    known = names(root)
    if name not in known:
        raise ConfigError(f"no gate is called `{name}`", suggest(name, known))
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    script = f"{stem(name)}.py"
    try:
        module = importlib.import_module(f"gates.{stem(name)}")
    except (Exception, SystemExit) as problem:  # a user's file may hold anything
        raise ConfigError(
            f"can't be imported: {type(problem).__name__}: {problem}",
            f"Try `python gates/{script}`.",
            where=f"gates/{script}",
        ) from problem
    gate = getattr(module, "GATE", None)
    if not isinstance(gate, Gate) or gate.name != name:
        raise ConfigError(
            f'has no `GATE = gating.Gate("{name}", …)`',
            "See docs/add-a-gate.md for an example.",
            where=f"gates/{script}",
        )
    return gate


def stem(name: str) -> str:
    """Return a gate's name as that of its file, without the suffix."""
    return name.replace("-", "_")


def _there(path: Path, command: str) -> Path:
    if not path.exists():
        raise NoData(f"{path.name} is not in {path.parent.name}/", f"Make it with `{command}`.")
    if path.is_dir() and not any(one.is_file() for one in path.rglob("*")):
        raise NoData(f"{path.name}/ of {path.parent.name}/ holds no file", f"Make it with `{command}`.")
    return path


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2, which here means INCONCLUSIVE: a misspelt call is an ERROR."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(Verdict.ERROR.exit_code, f"{self.prog}: {message}\n")


def _arguments(gate: Gate[Any], argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog=f"gates/{gate.name}.py", description=gate.decides.split("\n", 1)[0])
    parser.add_argument("model", help="the model's name, e.g. my-model")
    parser.add_argument("--out", type=Path, help="folder of the report (default: build/<model>/gates)")
    parser.set_defaults(endpoint="", release="")
    if gate.needs == "endpoint":
        text = "the model's base URL, e.g. http://127.0.0.1:8080/my-model"
        parser.add_argument("--endpoint", required=True, metavar="URL", help=text)
    if gate.needs != "files":
        parser.add_argument("--release", default="", metavar="ID", help="the release that must answer")
    return parser.parse_args(argv)


def run(gate: Gate[S], *, argv: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run a gate in `root`: look, write `<out>/<gate>.{json,md}`, return the exit code.

    Exit code 0 PASS (or not applicable), 1 FAIL, 2 INCONCLUSIVE, 3 ERROR; whatever is raised on the way is
    an ERROR with its message in the report.
    """
    asked = _arguments(gate, argv)
    root = root or Path.cwd()
    out = asked.out or folder(root, asked.model, gate.name)
    began = time.monotonic()
    try:
        for suffix in ("json", "md"):
            (out / f"{gate.name}.{suffix}").unlink(missing_ok=True)
        result, is_model = _look(gate, asked, root)
        if is_model or asked.out or out.parent.is_dir():  # a misspelt model leaves no folder of its name
            report.write(result, out)
    except OSError as problem:  # no report could be written: the exit code is all that is left
        print(f"gates/{gate.name}.py: the report can't be written: {problem}", file=sys.stderr)
        return Verdict.ERROR.exit_code
    # Not in the report: the same inputs give the same bytes, and so the same release.
    print(f"{_line(result)} ({time.monotonic() - began:.1f} s)", flush=True)
    return result.exit_code


def added(root: Path, model: str) -> int:
    """Run the gates of a user's own that read files, as the pipeline does; return the worst exit code.

    Reports lie in build/<model>/gates/added/, and nothing of an earlier run survives. Where there is no such
    gate, a report called `added` says so.
    """
    out = folder(root, model, "")
    params.load(root, names(root)).known(model)  # before anything is written for a model that is none
    shutil.rmtree(out, ignore_errors=True)
    codes = {}
    for name in (name for name in names(root) if name not in BUILTIN):
        try:
            gate = load(root, name)
        except ConfigError as problem:
            report.write(report.broken(name, model, str(problem)), out)
            print(f"{Verdict.ERROR:<14} {name} of {model}: {problem}", flush=True)
            codes[name] = Verdict.ERROR.exit_code
            continue
        if gate.needs == "files":
            codes[name] = gate.main([model], root)
    if not codes:
        text = "no gate of gates/ but the built-in ones reads files"
        nothing = report.Report("added", model, (compare.not_applicable("added", text),))
        report.write(nothing, out)
        print(_line(nothing), flush=True)
    return worst([Verdict.PASS, *(v for v in Verdict if v.exit_code in codes.values())]).exit_code


def folder(root: Path, model: str, gate: str) -> Path:
    """Return where a gate's report lies; those of gates that a user added have a folder of their own."""
    reports = root / "build" / model / "gates"
    return reports if gate in BUILTIN else reports / "added"


def _look(gate: Gate[S], asked: argparse.Namespace, root: Path) -> tuple[report.Report, bool]:
    """Return the report, and whether there is such a model."""
    is_model = False
    try:
        read = params.load(root, names(root))
        is_model = bool(read.known(asked.model))
        settings = read.settings(gate.name, asked.model, gate.settings)
        subject = Subject(asked.model, settings, root, asked.endpoint.rstrip("/"), asked.release)
        if str(root) not in sys.path:  # models/<package> is imported from the checkout
            sys.path.insert(0, str(root))
        looked = gate.look(subject)
        source = _source(gate, subject)
    except TidegateError as problem:
        return report.broken(gate.name, asked.model, str(problem)), is_model
    except Exception as problem:
        traceback.print_exc()
        place = traceback.extract_tb(problem.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        reason = f"{type(problem).__name__} at {where}: {problem}"
        return report.broken(gate.name, asked.model, reason), is_model
    found = report.Report(
        gate.name,
        asked.model,
        tuple(looked.findings),
        looked.measurements,
        tuple(looked.comparisons),
        tuple(looked.charts),
        tuple(looked.tables),
        source,
    )
    return found, is_model


def _source(gate: Gate[S], subject: Subject[S]) -> report.Source:
    command = f"tidegate gate run {gate.name} {subject.model}"
    if gate.needs == "endpoint":
        command += " --endpoint URL"  # its port says nothing to whoever reads this elsewhere
    if subject.release:
        command += f" --release {subject.release}"
    inputs = {path.relative_to(subject.root).as_posix(): digest(path) for path in subject.trace.inputs}
    return report.Source(
        command,
        dict(sorted(inputs.items())),
        msgspec.to_builtins(subject.settings),
        subject.release or subject.trace.release,
        subject.trace.against,
    )


def _line(result: report.Report) -> str:
    told = [f.reason for f in result.findings if f.verdict is not Verdict.PASS]
    unhappy = [f.reason for f in result.findings if f.verdict.holds_back] or told
    shown = "; ".join(unhappy[:3]) + (f" (and {len(unhappy) - 3} more)" if len(unhappy) > 3 else "")
    return f"{result.verdict.words:<14} {result.gate} of {result.model}" + (f": {shown}" if shown else "")
