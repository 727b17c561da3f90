"""settings.yaml: every service's is sound, and one that is not says where and what was meant."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml

from tests.repo.test_house import ROOT, house_files
from tidegate import settings
from tidegate.errors import ConfigError

carried = importlib.import_module("tidegate.serving.settings")  # the package has a function of that name
FILES = [path for path in house_files() if path.match("services/*/settings.yaml")]


def test_every_services_settings_parse() -> None:
    """What lies in services/ is read without an error, by line-wise and by the Bento's own reading alike."""
    assert FILES, "flight-delay has one"
    for path in FILES:
        text = path.read_text()
        assert settings.read(text, str(path)) == carried.parse(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("threads: 1\nbaching: {}\n", "s.yaml:2: unknown key `baching`. Did you mean `batching`?"),
        ("batching:\n  maxRow: 8\n", "s.yaml:2: unknown key `maxRow`. Did you mean `maxRows`?"),
        ("threads: 0\n", "s.yaml:1: `threads` must be a whole number of at least 1, not `0`"),
        ("threads: two\n", "s.yaml:1: `threads` must be a whole number, not the text `two`"),
        ("threads: 1\nthreads: 2\n", "s.yaml:2: `threads` is given twice"),
        ("variant: ../x\n", "s.yaml:1: `variant` must be text matching"),
        ("gpu:\n  variant: ../x\n", "s.yaml:2: `gpu.variant` must be text matching"),
        ("packages: tokenizers\n", "s.yaml:1: `packages` must be a list"),
        ("packages: ['numpy==2']\n", "s.yaml:1: "),
        ("- 1\n", "s.yaml: must be a mapping"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, said: str) -> None:
    """File, line, key and what was likely meant."""
    with pytest.raises(ConfigError) as raised:
        settings.read(text, "s.yaml")
    assert said in str(raised.value)


def test_a_bento_refuses_a_key_that_it_does_not_know(tmp_path: Path) -> None:
    """The service itself fails closed, with the file, the key and the closest one that there is."""
    (tmp_path / "settings.yaml").write_text("batching: {maxRow: 8}\n")
    with pytest.raises(RuntimeError, match=r"settings\.yaml: .*`maxRow`.*Did you mean `maxRows`\?"):
        carried.settings(tmp_path / "service.py")


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    """A model without settings is served by the defaults."""
    assert carried.settings(tmp_path / "service.py") == carried.Settings()
    assert settings.load(tmp_path, "toy") == carried.Settings()


def test_the_variable_names_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried wins over what lies beside the service, and must be there."""
    (tmp_path / "settings.yaml").write_text("threads: 1\n")
    other = tmp_path / "tried.yaml"
    monkeypatch.setenv(carried.VARIABLE, str(other))
    with pytest.raises(RuntimeError, match=r"tried\.yaml: is missing"):
        carried.settings(tmp_path / "service.py")
    other.write_text("threads: 3\n")
    assert carried.settings(tmp_path / "service.py").threads == 3


def test_the_schema_documents_every_key() -> None:
    """Each key has its default and what it is for; the defaults themselves are valid."""
    schema = settings.schema()
    checker = jsonschema.Draft202012Validator(schema)
    checker.check_schema(schema)
    checker.validate(json.loads(msgspec.json.encode(carried.Settings())))
    for part in schema["$defs"].values():
        for name, key in part["properties"].items():
            assert "default" in key, name
            assert "description" in key or "$ref" in key, name


def test_every_key_is_in_the_documentation() -> None:
    """docs/serving.md has a row for each key, with its default."""
    text = (ROOT / "docs" / "serving.md").read_text()
    defaults = json.loads(msgspec.json.encode(carried.Settings()))
    rows, known = [], carried.keys()
    for key in known:
        section, _, name = key.rpartition(".")
        value = (defaults[section] if section else defaults)[name]
        rows.append(f"| `{key}` | {json.dumps(value)} |")
    assert [row for row in rows if row not in text] == []


def test_keys_are_those_of_the_file() -> None:
    """The keys' list has what a person may write, section by section."""
    assert {"threads", "workers", "batching.maxRows", "queue.maxWaiting"} <= set(carried.keys())
