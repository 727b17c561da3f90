"""`tidegate gate list|run|explain` and `tidegate schema report`, on a checkout with small gates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tidegate import errors, report

PARAMS = """\
models:
  tiny:
    gates:
      speed: {limit: 3}
gates:
  speed: {limit: 2, rows: 10}
"""

# A gate whose measured value is what value.txt says; it needs what `needs` says.
GATE = '''\
"""Is the value small enough? (A gate of a test.)"""

import sys

from tidegate import gating
from tidegate.core import gate


class SpeedSettings(gating.Settings, frozen=True):
    """The `{name}` section."""

    limit: float
    rows: int = 5


def look(subject):
    """Compare the value with its limit."""
    value = float(subject.input("value.txt").read_text())
    return gating.Looked([gate.at_most("value", value, subject.settings.limit)])


GATE = gating.Gate(
    "{name}", SpeedSettings, look, needs="{needs}", inputs="value.txt.", fix="Make the value smaller."
)

if __name__ == "__main__":
    sys.exit(GATE.main())
'''


def add(checkout: Path, name: str, needs: str = "files", text: str = GATE) -> Path:
    """Put a gate into a checkout."""
    path = checkout / "gates" / f"{name.replace('-', '_')}.py"
    path.write_text(text.replace("{name}", name).replace("{needs}", needs))
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one model, one gate and its input; the package is this one."""
    root = tmp_path / "clone"
    (root / "gates").mkdir(parents=True)
    (root / "envs").mkdir()
    (root / "tidegate").symlink_to(Path(errors.__file__).parent)
    (root / "params.yaml").write_text(PARAMS)
    (root / "value.txt").write_text("1")
    add(root, "speed")
    return root


def ask(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tidegate …` in a checkout."""
    command = [sys.executable, "-m", "tidegate", *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def asked(checkout: Path, *arguments: str) -> tuple[int, Any]:
    """Run `tidegate … --json`; its exit code and what it printed, which must be one document."""
    done = ask(checkout, *arguments, "--json")
    return done.returncode, json.loads(done.stdout)


# ---------------------------------------------------------------- run
def test_a_gate_runs_by_its_name(checkout: Path) -> None:
    """`gate run` exits as the gate does, needs no model where there is one, and leaves the report."""
    assert ask(checkout, "gate", "run", "speed").returncode == 0
    (checkout / "value.txt").write_text("4")
    done = ask(checkout, "gate", "run", "speed", "tiny")
    assert done.returncode == 1
    assert "value 4 > limit 3" in done.stdout
    path = checkout / "build" / "tiny" / "gates" / "added" / "speed.json"
    assert report.read_report(path).exit_code == 1


def test_a_report_as_json(checkout: Path) -> None:
    """`gate run --json` prints the report alone, also where it is put elsewhere."""
    code, found = asked(checkout, "gate", "run", "speed")
    assert (code, found["verdict"], found["findings"][0]["name"]) == (0, "PASS", "value")
    code, found = asked(checkout, "gate", "run", "speed", "--out", "elsewhere")
    assert (code, found["verdict"]) == (0, "PASS")
    assert (checkout / "elsewhere" / "speed.json").is_file()


def test_a_gate_that_writes_no_report(checkout: Path) -> None:
    """It is an ERROR report that says so, also where an earlier run left a PASS; the exit code stays."""
    asked(checkout, "gate", "run", "speed")
    add(checkout, "speed", text="import sys\nsys.exit(1)\n")
    code, found = asked(checkout, "gate", "run", "speed")
    assert (code, found["verdict"]) == (1, "ERROR")
    assert "wrote no report (exit code 1)" in found["findings"][0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "sped"), "no gate is called `sped`. Did you mean `speed`?"),
        (("run", "speed", "tinny"), "params.yaml: no model is called `tinny`. Did you mean `tiny`?"),
        (("run",), "no gate is named. Name one"),
        (("run", "--all", "tinny"), "Did you mean `tiny`?"),
        (("run", "--added", "tinny"), "Did you mean `tiny`?"),
        (("run", "speed", "tiny", "--all"), "--all and --added take a model"),
        (("explain", "sped"), "Did you mean `speed`?"),
        (("list", "tinny"), "Did you mean `tiny`?"),
        (("selftest", "--gate", "sped"), "Did you mean `speed`?"),
    ],
)
def test_a_name_that_is_none(checkout: Path, arguments: tuple[str, ...], says: str) -> None:
    """A misspelt gate or model is one line with the closest one, exit 3, and no folder in build/."""
    done = ask(checkout, "gate", *arguments)
    assert done.returncode == 3
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (checkout / "build").exists()


def test_a_script_leaves_no_folder_for_a_model_that_is_none(checkout: Path) -> None:
    """`python gates/speed.py tinny` is exit 3 and writes nothing."""
    command = [sys.executable, "gates/speed.py", "tinny"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "Did you mean `tiny`?" in done.stdout
    assert not (checkout / "build").exists()


def test_all_gates_that_can_run(checkout: Path) -> None:
    """`--all` runs what can run, says of the rest what they need, and exits with the worst."""
    (checkout / "params.yaml").write_text(f"{PARAMS}  staged: {{limit: 9}}\n  packed: {{limit: 9}}\n")
    add(checkout, "staged", "endpoint")
    add(checkout, "packed", "release")
    done = ask(checkout, "gate", "run", "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "staged: needs --endpoint" in done.stdout
    assert "packed: needs a packaged release" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 gate: 1 PASS; 2 not run"
    (checkout / "value.txt").write_text("4")
    code, found = asked(checkout, "gate", "run", "--all", "--endpoint", "http://127.0.0.1:9/tiny")
    assert code == 1
    verdicts = {one["gate"]: one["verdict"] for one in found}
    assert verdicts == {"speed": "FAIL", "staged": "PASS", "packed": None}


def test_nothing_that_could_run_is_no_pass(checkout: Path) -> None:
    """Where no gate could run, `--all` exits with 3."""
    add(checkout, "speed", "endpoint")
    assert ask(checkout, "gate", "run", "--all").returncode == 3


def test_a_gate_that_can_not_be_read_is_an_error_among_the_others(checkout: Path) -> None:
    """A file of gates/ that is broken, or is no gate, holds the others back and hides none of them."""
    (checkout / "gates" / "broken.py").write_text("import nonsense_that_is_not_there\n")
    (checkout / "gates" / "none.py").write_text("")
    code, found = asked(checkout, "gate", "run", "--all")
    assert code == 3
    assert {one["gate"]: one["verdict"] for one in found} == {
        "broken": "ERROR",
        "none": "ERROR",
        "speed": "PASS",
    }
    listed = ask(checkout, "gate", "list")
    assert listed.returncode == 3
    assert "can't be imported" in listed.stdout


# ---------------------------------------------------------------- the pipeline's stage
def test_the_pipeline_runs_a_gate_that_was_added(checkout: Path) -> None:
    """`--added` runs gates that need files alone; where there is none, it reports `not applicable`."""
    added = checkout / "build" / "tiny" / "gates" / "added"
    assert ask(checkout, "gate", "run", "--added", "tiny").returncode == 0
    assert [path.name for path in sorted(added.iterdir())] == ["speed.json", "speed.md"]
    add(checkout, "speed", "endpoint")
    assert ask(checkout, "gate", "run", "--added", "tiny").returncode == 0
    assert report.read_report(added / "added.json").verdict == "NOT_APPLICABLE"
    assert not (added / "speed.json").exists()


def test_a_gate_without_a_section_holds_the_pipeline(checkout: Path) -> None:
    """A file in gates/ whose stanza was forgotten is an ERROR, not a gate that quietly never ran."""
    add(checkout, "forgotten")
    done = ask(checkout, "gate", "run", "--added")
    assert done.returncode == 3
    assert "gate `forgotten` has no section" in done.stdout


# ---------------------------------------------------------------- list
def state(checkout: Path) -> tuple[str, str | None]:
    """State and verdict of the gate `speed` in `gate list`."""
    _, found = asked(checkout, "gate", "list")
    (one,) = [one for one in found if one["gate"] == "speed"]
    return one["state"], one["verdict"]


def test_a_list_tells_what_counts_now(checkout: Path) -> None:
    """A verdict counts until what it was made from changes: then it is stale, and never shown as PASS."""
    assert state(checkout) == ("not run", None)
    ask(checkout, "gate", "run", "speed")
    assert state(checkout) == ("PASS", "PASS")
    (checkout / "value.txt").write_text("2")
    assert state(checkout) == ("stale", None)
    ask(checkout, "gate", "run", "speed")
    (checkout / "params.yaml").write_text(PARAMS.replace("limit: 3", "limit: 0.5"))
    assert state(checkout) == ("stale", None)
    path = checkout / "build" / "tiny" / "gates" / "added" / "speed.json"
    path.write_text("{")
    assert state(checkout) == ("ERROR", "ERROR")


def test_a_list_shows_thresholds(checkout: Path) -> None:
    """Each gate's thresholds for the model are there, in the table and in JSON."""
    assert "limit 3.0, rows 10" in ask(checkout, "gate", "list").stdout
    _, (one,) = asked(checkout, "gate", "list")
    assert one["settings"] == {"limit": 3.0, "rows": 10}


# ---------------------------------------------------------------- explain, schema
def test_an_explanation_says_where_each_threshold_comes_from(checkout: Path) -> None:
    """A model's own line, the shared line, or the script's default; with inputs, fix and exit codes."""
    (checkout / "params.yaml").write_text(PARAMS.replace(", rows: 10", ""))
    _, found = asked(checkout, "gate", "explain", "speed")
    assert found["thresholds"] == [
        {"path": "limit", "value": 3.0, "where": "params.yaml:4"},
        {"path": "rows", "value": 5, "where": "gates/speed.py (its default)"},
    ]
    assert found["decides"].startswith("Is the value small enough?")
    assert (found["inputs"], found["fix"]) == ("value.txt.", "Make the value smaller.")
    assert found["exit_codes"] == {
        "NOT_APPLICABLE": 0,
        "PASS": 0,
        "INCONCLUSIVE": 2,
        "ERROR": 3,
        "FAIL": 1,
    }
    shown = ask(checkout, "gate", "explain", "speed").stdout
    for text in ("params.yaml:4", "value.txt.", "Make the value smaller.", "2 INCONCLUSIVE", "not run"):
        assert text in shown


def test_reports_are_what_the_schema_says(checkout: Path) -> None:
    """A report that passed, one that failed and one of an error validate against `tidegate schema report`."""
    import jsonschema

    schema = json.loads(ask(checkout, "schema", "report").stdout)
    checker = jsonschema.Draft202012Validator(schema)
    checker.check_schema(schema)
    path = checkout / "build" / "tiny" / "gates" / "added" / "speed.json"
    for value, verdict in (("1", "PASS"), ("4", "FAIL"), ("nan", "ERROR"), ("text", "ERROR")):
        (checkout / "value.txt").write_text(value)
        ask(checkout, "gate", "run", "speed")
        found = json.loads(path.read_text())
        assert found["verdict"] == verdict
        checker.validate(found)
        with pytest.raises(jsonschema.ValidationError):
            checker.validate({**found, "unheard": 1})
