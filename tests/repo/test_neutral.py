"""What a user upgrades knows nothing of what a user edits: no model, no column, no kind of answer.

The toolkit (tidegate/, gates/, .github/) asks a model's declaration and its files. What it may not hold is
read from params.yaml, so each model that is added is held apart from it as well.
"""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOLKIT = ("tidegate", "gates", ".github")
TEMPLATES = "tidegate/templates/"  # what `tidegate model add` writes: a model's own files, not the toolkit's
# Columns and labels that are also words of the toolkit's own, and what each of them is there.
ORDINARY = {
    "date": "a kind of column and of field",
    "dest": "where pip puts a file",
    "distance": "of two distributions, and a bet's name",
    "flight": "requests in flight",
    "link": "to another page or file",
    "mention": "what a message does",
    "late": "an outcome after its window, an answer after its deadline",
    "negative": "below 0",
    "neutral": "neither good nor bad",
    "origin": "git's name of a remote",
    "positive": "above 0",
    "probability": "what many numbers of a statistician are",
    "text": "a kind of column and of field",
    "words": "what a message is made of",
}
# Where such a word is a text of the program, as a kind, a key or a column of the toolkit's own.
SAID = {
    "date": r"tidegate/(serving|core|adapters)/|tidegate/selftest/front",  # a kind; HTTP's header
    "distance": r"gates/drift",  # a column of its table
    # How far behind something is.
    "late": r"tidegate/(adapters|commands|core)/|tidegate/(outcomes|testing)\.py|gates/load",
    "link": r"tidegate/",
    "origin": r"tidegate/",
    "probability": r"tidegate/core/curves",  # the axis of a chart that only a probability has
    "text": r"(tidegate|gates)/",
    "words": r"(tidegate|gates)/",
}


@cache
def files() -> tuple[Path, ...]:
    """Every file of the toolkit that git tracks or would, and that is text."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *TOOLKIT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in done.stdout.split("\0") if name and not name.startswith(TEMPLATES)]
    return tuple(ROOT / name for name in names if (ROOT / name).is_file())


@cache
def models() -> dict[str, dict]:
    """The models of params.yaml."""
    return yaml.safe_load((ROOT / "params.yaml").read_text())["models"]


def names(model: str) -> set[str]:
    """What a model may be called in code: flight-delay, flight_delay, FlightDelay."""
    package = models()[model]["package"]
    camel = "".join(part.capitalize() for part in package.split("_"))
    return {model, model.replace("-", "_"), package, camel}


@cache
def columns(model: str) -> set[str]:
    """A model's label, predictions, group and raw columns."""
    declared = models()[model]
    said = declared["prediction"]
    found = {declared["label"], *([said] if isinstance(said, str) else said), declared.get("group")}
    gates = declared.get("gates") or {}
    return {str(name) for name in found | set((gates.get("data") or {}).get("columns") or ()) if name}


def where(path: Path, number: int) -> str:
    """A place for a person to look at."""
    return f"{path.relative_to(ROOT)}:{number}"


def words_in(wanted: set[str]) -> list[str]:
    """Every line of the toolkit in which one of these stands as a word."""
    pattern = re.compile(
        r"(?<![A-Za-z0-9_])(" + "|".join(map(re.escape, sorted(wanted))) + r")(?![A-Za-z0-9_])"
    )
    found = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{where(path, number)} {hit}" for hit in pattern.findall(line)]
    return found


@cache
def texts(path: Path) -> list[tuple[int, str]]:
    """The texts of a program that are no docstring, by line."""
    tree = ast.parse(path.read_text())
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents
    ]


@pytest.mark.parametrize("model", sorted(models()))
def test_no_model_is_named(model: str) -> None:
    """Neither its name nor its package's, not even as an example in a help or in a comment."""
    assert words_in(names(model)) == []


@pytest.mark.parametrize("model", sorted(models()))
def test_no_column_is_named(model: str) -> None:
    """No label, prediction or raw column as a word, but for those that are ordinary ones."""
    assert words_in(columns(model) - set(ORDINARY)) == []


@pytest.mark.parametrize("model", sorted(models()))
def test_an_ordinary_word_is_not_a_column(model: str) -> None:
    """Such a word is a text of the program only where it is a kind or a key of the toolkit's own."""
    wanted = columns(model) & set(ORDINARY)
    wrong = []
    for path in files():
        if path.suffix == ".py":
            name = path.relative_to(ROOT).as_posix()
            for number, text in texts(path):
                if text in wanted and not re.match(SAID.get(text, r"(?!)"), name):
                    wrong.append(f"{where(path, number)} {text}")
    assert wrong == []


def test_every_ordinary_word_is_needed() -> None:
    """An exception for a word that is no model's column any more is taken back."""
    assert set(ORDINARY) - set().union(*map(columns, models())) == set()
    assert set(SAID) - set(ORDINARY) == set()


def test_nobody_takes_a_column_of_an_output_for_the_answer() -> None:
    """`[:, 1]` and an output's name are a model's own score.py's and service's; one default is documented."""
    default = "tidegate/serving/artifact.py"
    wrong = []
    for path in files():
        if path.suffix == ".py":
            name = path.relative_to(ROOT).as_posix()
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if re.search(r"\[:, ?1\](?! *[-+*/]?= )", line):  # to change a matrix is another thing
                    wrong.append(f"{where(path, number)} {line.strip()}")
            wrong += [
                f"{where(path, number)} {text}"
                for number, text in texts(path)
                if text == "probabilities" and name != default
            ]
    assert wrong == []
