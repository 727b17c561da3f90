"""`tidegate outcome`: one, a file, or what is piped in; what is wrong is named and nothing is kept."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.planes import write_checkout
from tidegate.commands import outcomes


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Call the command in a checkout of its own; returns its result."""
    import typer

    monkeypatch.chdir(write_checkout(tmp_path / "checkout"))
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    app = typer.Typer()
    app.callback()(lambda: None)
    outcomes.register(app)
    return lambda *words, text=None: CliRunner().invoke(app, ["outcome", *words], input=text)


def kept(tmp_path: Path) -> list[tuple[str, str, int]]:
    """What the home's store holds."""
    store = sqlite3.connect(tmp_path / "home" / "outcomes.db")
    return store.execute("SELECT id, name, value FROM outcomes ORDER BY seq").fetchall()


def test_one_outcome_is_kept_once(said, tmp_path):
    """The first word on a request counts; the second is known already."""
    assert said("r1", "--name", "bought", "--value", "1").stdout == "1 kept\n"
    assert said("r1", "--name", "bought", "--value", "1").stdout == "0 kept, 1 known already\n"
    assert kept(tmp_path) == [("r1", "bought", 1)]


def test_what_contradicts_is_told(said, tmp_path):
    """Another value for the same request and name: the first stays, and the second is named."""
    said("r1", "--name", "bought", "--value", "1")
    result = said("r1", "--name", "bought", "--value", "0")
    assert result.stdout.splitlines() == [
        "0 kept, 1 known already",
        "1 said before otherwise, which stays: r1",
    ]
    assert kept(tmp_path) == [("r1", "bought", 1)]


def test_where_nothing_is_logged_unknown_is_not_claimed(said):
    """Without a log of predictions nobody can say whether a request is known, and it is said so."""
    result = said("r1", "--name", "bought", "--value", "1", "--json")
    told = json.loads(result.stdout)
    assert told["unknown"] is None
    assert "can't be told" in told["note"]


def test_a_number_is_kept(said, tmp_path):
    """What came of a request may be a number, such as minutes late."""
    assert said("r1", "--name", "minutes", "--value", "-3.5").stdout == "1 kept\n"
    assert kept(tmp_path) == [("r1", "minutes", -3.5)]


def test_a_file_of_any_length_is_kept(said, tmp_path):
    """More outcomes than fit one part are all kept, and told as JSON."""
    file = tmp_path / "many.csv"
    file.write_text("id,value\n" + "".join(f"r{n},{n % 2}\n" for n in range(25_000)))
    result = said("--file", str(file), "--name", "bought", "--json")
    told = json.loads(result.stdout)
    assert (told["outcomes"], told["new"], told["known"]) == (25_000, 25_000, 0)
    assert len(kept(tmp_path)) == 25_000


def test_what_is_piped_in_is_kept(said, tmp_path):
    """`--file -` reads JSON lines or CSV from stdin."""
    line = json.dumps({"id": "r1", "name": "bought", "value": 1})
    assert said("--file", "-", text=line + "\n").stdout == "1 kept\n"
    assert kept(tmp_path) == [("r1", "bought", 1)]


@pytest.mark.parametrize(
    ("words", "text", "named"),
    [
        ([], None, "of one request, or of a file"),
        (["r1", "--file", "-"], "", "of one request, or of a file"),
        (["--file", "-", "--value", "1"], "", "--value goes with one request"),
        (["r1", "--name", "bought"], None, "is not a number"),
        (["r1", "--value", "1"], None, "not an outcome's name"),
        (["--file", "nowhere.csv"], None, "nowhere.csv: can't be read"),
        (["--file", "-"], "id,name,value\nr1,bought,1\nr2,bought,two\n", "stdin:3: value `two`"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_kept(said, tmp_path, words, text, named):
    """An error says where it is and what to do, and not even the rows before it are kept."""
    result = said(*words, text=text)
    assert named in str(result.exception)
    assert str(result.exception).endswith(".")
    assert not (tmp_path / "home" / "outcomes.db").exists()


def test_the_program_tells_an_example():
    """The help shows how it is used."""
    done = subprocess.run(
        [sys.executable, "-m", "tidegate", "outcome", "--help"], capture_output=True, text=True, check=True
    )
    assert "tidegate outcome 3f1c9b20" in done.stdout
