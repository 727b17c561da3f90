"""docs/add-a-model.md does what it says: its edits and commands, in order, until production answers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.rig import ROOT
from tidegate.machine import processes
from tidegate.machine.layout import INSTANCE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

PAGE = ROOT / "docs" / "add-a-model.md"
OVER = "the command is over:"


# ---------------------------------------------------------------- the page
def steps(page: str) -> Iterator[tuple[str, str]]:
    """Yield what the page has its reader do, in order: commands, edits (`diff`) and new files (`python`)."""
    for kind, text in re.findall(r"^```(console|diff|python)\n(.*?)^```", page, re.M | re.S):
        if kind == "console":
            yield from (("command", line[2:]) for line in text.splitlines() if line.startswith("$ "))
        else:
            yield {"diff": "edit", "python": "file"}[kind], text


def edit(clone: Path, text: str) -> None:
    """Make an edit as a reader would: each passage (between `@@`) is there once, and replaced."""
    first, *passages = re.split(r"^@@\n", text, flags=re.M)
    named = re.search(r"^\+\+\+ b/(\S+)$", first, re.M)
    assert named, first
    path = clone / named[1]
    content = path.read_text()
    for passage in passages:
        lines = passage.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
        assert content.count(old) == 1, f"{path.name} has this {content.count(old)} times:\n{old}"
        content = content.replace(old, new)
    path.write_text(content)


def write(clone: Path, text: str) -> None:
    """Write a file as shown; its first line names it."""
    head, rest = text.split("\n", 1)
    (clone / head.removeprefix("# ")).write_text(rest)


# ---------------------------------------------------------------- the reader
@dataclass
class Reader:
    """Somebody with a clone, an empty home and one shell, who does what the page says."""

    folder: Path
    said: dict[str, str] = field(default_factory=dict)  # command → its output

    def __post_init__(self) -> None:
        self.clone, self.person = self.folder / "clone", self.folder / "person"
        self.home = self.clone / ".tidegate"
        self.person.mkdir(parents=True)
        (self.person / ".gitconfig").write_text("[user]\nname = Dana\nemail = dana@example.org\n")
        source = ("git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(self.clone))
        subprocess.run(source, check=True, timeout=120)
        subprocess.run(["git", "checkout", "--quiet", "-B", "main"], cwd=self.clone, check=True, timeout=60)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "TIDEGATE_"))}
        self.environment |= {
            "HOME": str(self.person),
            "PYTHONPATH": str(self.clone),  # as `make setup` in the clone would have it
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(self, command: str) -> None:
        """Run a command in the shell; it must end well."""
        assert self.shell.stdin
        assert self.shell.stdout
        began = time.monotonic()
        self.shell.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n{OVER} %s\\n' $?\n")
        self.shell.stdin.flush()
        lines: list[str] = []
        for line in self.shell.stdout:
            if line.startswith(OVER):
                break
            lines.append(line)
        else:
            line = f"{OVER} the shell died"
        self.said[command] = "".join(lines)
        print(f"{time.monotonic() - began:6.1f} s  {command[:100]}", flush=True)
        assert line == f"{OVER} 0\n", f"$ {command}\n{''.join(lines[-60:])}{line}"

    def output(self, start: str) -> str:
        """Return what the one command said that starts like this."""
        (found,) = (said for command, said in self.said.items() if command.startswith(start))
        return found

    def leave(self) -> None:
        """End all that the reader started, however far that was."""
        for command in (("forge", "stop", "--forge", str(self.person / "forge.git")), ("down", "--quiet")):
            program = (sys.executable, "-m", "tidegate", *command)
            subprocess.run(program, cwd=self.clone, env=self.environment, check=False, timeout=120)
        for process in processes.carrying({"HOME": str(self.person)}):
            process.kill()
        self.shell.send_signal(signal.SIGKILL)
        self.shell.wait(30)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    made = Reader(tmp_path_factory.mktemp("add"))
    try:
        yield made
    finally:
        made.leave()
        assert processes.carrying({INSTANCE: str(made.home)}) == []


def test_the_page_leads_to_production(reader: Reader) -> None:
    """Who does exactly what the page says has a new model in production."""
    began = time.monotonic()
    for kind, text in steps(PAGE.read_text()):
        if kind == "command":
            reader.run(text)
        else:
            {"edit": edit, "file": write}[kind](reader.clone, text)
    print(f"{time.monotonic() - began:6.1f} s  in all")

    answer = json.loads(reader.output("curl "))
    assert 0 < answer["expected_progression"] < 500
    status = reader.output("tidegate status")
    assert answer["release"] in status
    assert "Healthy" in status
    assert answer["release"] in reader.output("tidegate history")
    assert "no verified release to go back to" in reader.output("tidegate rollback")
    left = [process.pid for process in processes.carrying({"HOME": str(reader.person)})]
    assert left == [reader.shell.pid], "the page cleans up after itself"
