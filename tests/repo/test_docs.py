"""What README and docs/ show is true: examples parse as the program reads them, and nothing is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.test_house import PACKAGE, ROOT, blocks, documents, house_files
from tidegate import config, settings
from tidegate.documents import convert, read_yaml

README = (ROOT / "README.md").read_text()
SHOWN = r"# (envs/\S+?\.yaml|services/\S+?\.yaml|params\.yaml)"  # an example's first line says which


def examples() -> Iterator[tuple[str, str, str]]:
    """Every YAML example: page, the file that it shows, text."""
    for page in documents():
        for lang, text in blocks(page.read_text())[0]:
            if lang == "yaml":
                first = re.match(SHOWN, text)
                yield page.name, first[1] if first else "", text


EXAMPLES = list(examples())


def parse(path: str, text: str) -> None:
    """Read an example as the file that it shows."""
    if path.endswith("/release.yaml"):
        config.parse_release_file(text, path)
    elif path.endswith("/rollout.yaml"):
        config.parse_rollout(text, path, path.split("/")[1])
    elif path.endswith(".rejected.yaml"):
        value, lines = read_yaml(text, path)
        convert(value, config.Rejection, where=path, lines=lines)
    elif path.endswith(".images.yaml"):
        config.parse_images(text, path)
    elif path.endswith("platform.yaml"):
        value, lines = read_yaml(text, path)
        convert(value, config.Platform, where=path, lines=lines)
    elif path.startswith("envs/releases/"):
        config.parse_record(text, path)
    elif path.endswith("/settings.yaml"):
        settings.read(text, path)
    else:
        read_yaml(text, path)


@pytest.mark.parametrize(("page", "path", "text"), EXAMPLES, ids=[f"{p}:{f}" for p, f, _ in EXAMPLES])
def test_examples_parse(page, path, text):
    """A YAML example names its file in its first line, and is what the program accepts there."""
    assert path, f"{page}: begin the example with `# envs/…yaml`"
    parse(path, text)


def test_readme_shows_each_kind_of_file():
    """The first page shows a release.yaml, a rollout.yaml and a record."""
    shown = [path for page, path, _ in EXAMPLES if page == "README.md"]
    ends = ("/release.yaml", "/rollout.yaml", "/82be568dc222.yaml")
    assert [end for end in ends if not any(path.endswith(end) for path in shown)] == []


def test_the_shown_rollout_is_the_one_that_is_used():
    """README's rollout.yaml says what envs/canary/rollout.yaml says; only defaults are written out."""
    path = "envs/canary/rollout.yaml"
    text = next(text for page, shown, text in EXAMPLES if (page, shown) == ("README.md", path))
    assert config.parse_rollout(text, path) == config.parse_rollout((ROOT / path).read_text(), path)


def named() -> set[str]:
    """Everything that README names as code."""
    return set(blocks(README)[1])


def entries(folder: Path) -> set[str]:
    """What lies directly in a folder, as README writes it: a folder ends in a slash."""
    parts = [path.relative_to(folder).parts for path in house_files() if folder in path.parents]
    return {f"{p[0]}/" if len(p) > 1 else p[0] for p in parts}


def test_every_top_level_entry_has_its_reason():
    """README's table names every file and folder at the top of the repository."""
    later = {"dvc.lock"}  # arrives with the first release
    assert entries(ROOT) - named() - later == set()


def test_every_room_has_its_reason():
    """README's table names every file and folder of the package."""
    rooms = {f"tidegate/{e}" if e.endswith("/") else e for e in entries(PACKAGE)}
    assert rooms - named() - {"__init__.py"} == set()
