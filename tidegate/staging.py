"""The way into staging and out of it: what a release must show first, and the gates that ask its endpoint.

Fails closed. The gates that Tidegate brings along are asked for by name, so a deleted script is a gate that
did not pass; a report counts only if it is of this run and release, and says what the exit code says.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tidegate import gating, report
from tidegate.core.promotion import Target
from tidegate.core.verdict import Verdict
from tidegate.errors import ConfigError, NoData, Refused

TIMEOUT = 1800.0  # seconds for one gate; one that hangs has not passed
GRACE = 30.0  # seconds that it then has to stop what it started


def admit(checkout: Path, model: str, release: str) -> None:
    """Raise Refused unless gate artifact says PASS of this release and of the files that are here."""
    path = checkout / "build" / model / "gates" / "artifact.json"
    found = report.current(report.read_report(path), checkout, model=model, release=release)
    if found.verdict is Verdict.PASS and found.source.release == release:
        return
    said = "PASS of no release by name"
    if found.verdict is not Verdict.PASS:
        said = f"{found.verdict}: {found.reason}"
    raise Refused(
        f"{model} {release} does not enter staging: gate artifact {said}",
        f"Run `tidegate gate run artifact {model}`, or `dvc repro`.",
    )


def gates(checkout: Path) -> list[str]:
    """Return the gates that a release in staging must pass: those brought along, then a user's own.

    A user's own counts unless it says that files are enough for it; those are the pipeline's.
    """
    return [*gating.ON_STAGING, *(name for name in _own(checkout) if _needs(checkout, name) != "files")]


def _own(checkout: Path) -> list[str]:
    return [name for name in gating.names(checkout) if name not in gating.BUILTIN]


def _needs(checkout: Path, name: str) -> str:
    try:
        return gating.load(checkout, name).needs
    except ConfigError:
        return "endpoint"  # it can't be loaded, so it fails when it is run, by name


def run_gates(checkout: Path, target: Target, url: str, say: Callable[[str], None]) -> None:
    """Run every gate of staging, whatever the others say. Raises Refused unless all may go on."""
    if not url:
        raise NoData(
            "staging's agent publishes no address to send requests to",
            "See `tidegate status`, then run again.",
        )
    endpoint = f"{url.rstrip('/')}/{target.model}"
    failed = []
    for name in gates(checkout):
        found, code = _run(checkout, name, target, endpoint)
        # Both must agree: a gate that died after its report was written has not passed.
        agree = code == found.exit_code
        why = "" if found.verdict is Verdict.PASS else f": {found.reason}"
        say(f"gate {name}: {found.verdict.words} (exit {code}){why}")
        if found.verdict.holds_back or not agree:
            failed.append(f"{name} {found.verdict}" + ("" if agree else f" with exit {code}"))
    if failed:
        raise Refused(
            f"{target.model} {target.release} does not leave staging: {', '.join(failed)}",
            f"Read build/{target.model}/gates/*.md.",
        )


def _run(checkout: Path, name: str, target: Target, endpoint: str) -> tuple[report.Report, int]:
    folder = gating.folder(checkout, target.model, name)
    for suffix in ("json", "md"):  # a script that is not there would leave the last one's
        (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    command = [sys.executable, "-m", f"gates.{gating.stem(name)}", target.model]
    if _needs(checkout, name) == "endpoint":
        command += ["--endpoint", endpoint]
    process = subprocess.Popen([*command, "--release", target.release], cwd=checkout)
    try:
        code = process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # what it started ends with it
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        text = f"{name} was stopped after {TIMEOUT:.0f} s"
        return report.broken(name, target.model, text), Verdict.ERROR.exit_code
    path = folder / f"{name}.json"
    found = report.current(report.read_report(path), checkout, model=target.model, release=target.release)
    if not found.verdict.holds_back and found.source.release != target.release:
        found = report.broken(name, target.model, f"the report of {name} names no release")
    return found, code
