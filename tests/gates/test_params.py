"""params.yaml: whatever nothing reads is refused, with its line and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tidegate import documents, gating, packaging, params, settings
from tidegate.bentos import Source
from tidegate.errors import ConfigError, NoData

ROOT = Path(__file__).parents[2]
TEXT = """\
models:
  toy:
    package: toy
    prepare: {seed: 1}
    gates:
      probe: {limit: 1}
  bare:
gates:
  probe: {limit: 3}
  other: {}
"""
GATES = ("probe", "other")
PIPELINE = "stages:\n  tune:\n    foreach: ${models}\n    do:\n      params: ['models.${key}.tune']\n"


def said(text: str, pipeline: str = "") -> str:
    """What is said of a params.yaml."""
    with pytest.raises(ConfigError) as caught:
        params.read(text, gates=GATES, pipeline=pipeline)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("      probe: {limit: 1}", "      prob: {limit: 1}", ":6: no gate is called `prob`: there is no"),
        (
            "  other: {}",
            "  othr: {}",
            ":10: no gate is called `othr`: there is no gates/othr.py.",
        ),
        (
            "    gates:\n      probe",
            "    gatez:\n      probe",
            ":5: unknown key `gatez`. Did you mean `gates`",
        ),
        ("prepare", "prepair", ":4: unknown key `prepair`. Did you mean `prepare`?"),
        ("gates:\n  probe", "gatse:\n  probe", ":8: unknown key `gatse`. Did you mean `gates`?"),
        ("models:\n", "model:\n", ":1: unknown key `model`. Did you mean `models`?"),
        ("models:\n", "models\n", ":2: a `key:` can't stand here: is a colon missing above"),
        ("  bare:", "  bare: 3", ":7: model `bare` must be a mapping"),
        ("  bare:", "  bare: [a]", ":7: model `bare` must be a mapping"),
        ("  bare:", "  2013:", "the key `2013` of `models` is no text"),
        ("  probe: {limit: 3}", "  probe: 3", ":9: gate `probe` must be a mapping"),
        ("limit: 3", "limit: .nan", ":9: `gates.probe.limit` is nan, no number to compare with"),
        ("limit: 1}", "limit: [-.inf]}", ":6: `models.toy.gates.probe.limit[0]` is -inf"),
        ("  other: {}", "  probe: {}", ":10: `probe` is given twice"),
    ],
)
def test_what_nothing_reads_is_refused(old: str, new: str, says: str) -> None:
    """A misspelt section, a wrong shape and a number that is none are one line, with the line in the file."""
    assert old in TEXT
    assert says in said(TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("package: toy", "package: ../..", ":3: '../..' is no package's name"),
        ("package: toy", "package: Toy", ":3: 'Toy' is no package's name"),
        ("package: toy", "package: a.b", ":3: 'a.b' is no package's name"),
        ("package: toy", 'package: ""', ":3: '' is no package's name"),
        ("package: toy", "package: 7", ":3: 7 is no package's name"),
        ("package: toy", "package: toy_", ":3: 'toy_' is no package's name"),
        ("package: toy", "package: class", ":3: `class` is a word of Python's"),
        ("  bare:", "  class:", ":7: `class` is a word of Python's"),
        ("  bare:", "  Bare:", ":7: 'Bare' is no name of a model: small letters, digits and hyphens are"),
        ("  bare:", "  ../bare:", ":7: '../bare' is no name of a model"),
        ("  bare:", f"  {'b' * 41}:", "has 41 letters, more than 40"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(old: str, new: str, says: str) -> None:
    """Files are run and removed by a model's name and package, so each that is none is told with its line."""
    assert says in said(TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    ("declared", "line"), [("  bare: {package: toy}", 7), ("  bare:\n    package: toy", 8), ("  toy-2:", 7)]
)
def test_no_two_models_share_a_package(declared: str, line: int) -> None:
    """Whether it is declared or made of the name, the second one is told, with whose folder it is."""
    package = "toy_2" if declared == "  toy-2:" else "toy"
    text = TEXT.replace("package: toy", f"package: {package}").replace("  bare:", declared)
    assert (
        f":{line}: `{declared.split(':')[0].strip()}` has the package `{package}`, which is `toy`'s"
        in said(text)
    )


def test_a_file_without_models() -> None:
    """An empty file, and one of something else, is refused."""
    assert said("") == "params.yaml: no model is named under `models:`. Add one."
    assert said("models: {}\n") == "params.yaml:1: no model is named under `models:`. Add one."
    assert "the file must be a mapping" in said("- a\n")


def test_settings_of_a_task_lie_between_the_shared_and_the_model_s() -> None:
    """`gates.<gate>.tasks.<task>` counts for models of that task, unless the model itself says otherwise."""
    shared = "probe: {limit: 3, tasks: {regression: {limit: 2, rows: 7}, ranking: {limit: 4}}}"
    text = TEXT.replace("probe: {limit: 3}", shared).replace("  bare:", "  bare: {task: regression}")
    read = params.read(text.replace("toy:\n    package", "toy:\n    task: regression\n    package"))
    assert read.settings("probe", "bare", Probe) == Probe(2, 7)
    assert read.settings("probe", "toy", Probe) == Probe(1, 7)
    where = {one.path: one.where for one in read.values("probe", "bare", Probe(2, 7), "?")}
    assert where == {"limit": "params.yaml:10", "rows": "params.yaml:10"}
    unknown = said(text.replace("ranking", "rankin"))
    assert ":9: no task is called `rankin`. Did you mean `ranking`?" in unknown


def test_a_section_that_the_pipeline_reads_is_fine() -> None:
    """A model may have stages of its own: what dvc.yaml names has a reader."""
    text = TEXT.replace("    prepare:", "    tune: {trials: 3}\n    prepare:")
    assert "unknown key `tune`" in said(text)
    assert params.read(text, gates=GATES, pipeline=PIPELINE).models == ("toy", "bare")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It says how to get it back."""
    with pytest.raises(NoData, match="git checkout"):
        params.load(tmp_path)


class Probe(gating.Settings, frozen=True):
    """The `probe` section."""

    limit: float
    rows: int = 5


def test_a_key_is_blamed_where_it_is_written() -> None:
    """In a model's own section, or in the shared one; a setting may be in either alone."""
    read = params.read(TEXT, gates=GATES)
    assert read.settings("probe", "toy", Probe) == Probe(1)
    assert read.settings("probe", "bare", Probe) == Probe(3)
    values = read.values("probe", "toy", Probe(1), "gates/probe.py")
    assert [(one.path, one.where) for one in values] == [
        ("limit", "params.yaml:6"),
        ("rows", "gates/probe.py (its default)"),
    ]
    for old, line in (("{limit: 1}", 6), ("{limit: 3}", 9)):
        text = TEXT.replace(old, old.replace("}", ", row: 2}"))
        with pytest.raises(ConfigError, match=rf"params.yaml:{line}: unknown key `row`. Did you mean `rows`"):
            params.read(text).settings("probe", "toy", Probe)
    only_here = TEXT.replace("probe: {limit: 3}", "probe: {rows: 9}")
    assert params.read(only_here).settings("probe", "toy", Probe) == Probe(1, 9)
    with pytest.raises(ConfigError, match=r"params.yaml:9: `limit` is missing in `probe`. Add it."):
        params.read(only_here).settings("probe", "bare", Probe)


def test_a_gate_has_no_threshold_of_its_own() -> None:
    """Each number that a gate of this repository compares with is written in params.yaml, and nowhere else.

    But for what says that nothing is asked for: no null is allowed, no bin is cut.
    """
    read, nothing = params.load(ROOT, gating.names(ROOT)), ("nulls", "bins")
    own = [
        f"{name}: {one.path} = {one.value}"
        for name in gating.names(ROOT)
        for gate in (gating.load(ROOT, name),)
        for one in read.values(name, read.models[0], read.settings(name, read.models[0], gate.settings), "?")
        if one.where == "? (its default)"
        and isinstance(one.value, int | float)
        and not (one.value == 0 and one.path.endswith(nothing))
    ]
    assert own == []


@pytest.mark.parametrize(
    ("gate", "setting", "value"),
    [
        ("quality", "min_rows", -5),
        ("quality", "limits", {"auc": -0.7}),
        ("quality", "threshold", 2),
        ("slices", "min_each", -1),
        ("slices", "fairness", {"equal_opportunity": -0.1}),
        ("drift", "min_values", 0),
        ("data", "duplicates", -0.1),
        ("data", "leakage", {"limit": -1, "rows": 10, "seed": 1}),
        ("artifact", "unknown_licences", -1),
        ("contract", "timeout", 0),
        ("parity", "tolerance", -1),
        ("load", "error_rate", -0.1),
        ("resources", "leak", -1),
        ("gpu", "ecc", -1),
        ("cost", "margin", -1),
    ],
)
def test_a_threshold_that_can_not_be_meant(gate: str, setting: str, value: object) -> None:
    """A negative one, which everything or nothing would keep, is refused; so is one that is not there."""
    read, shape = params.load(ROOT, gating.names(ROOT)), gating.load(ROOT, gate).settings
    section = msgspec.to_builtins(read.settings(gate, read.models[0], shape))
    assert documents.convert(section, shape, where="params.yaml")
    with pytest.raises(ConfigError, match=f"of at least|more than|a number from 0|2 of each label|{setting}"):
        documents.convert(section | {setting: value}, shape, where="params.yaml", at=f"$.{gate}")
    without = {key: said for key, said in section.items() if key != setting}
    with pytest.raises(ConfigError, match=f"`{setting}` is missing in `{gate}`"):
        documents.convert(without, shape, where="params.yaml", at=f"$.{gate}")


def test_this_repositorys_file_holds_for_each_of_its_gates() -> None:
    """Every gate of gates/ has a section for each model, with settings that it takes."""
    read = params.load(ROOT, gating.names(ROOT))
    for model in read.models:
        for name in gating.names(ROOT):
            read.settings(name, model, gating.load(ROOT, name).settings)


def test_a_models_folder_is_the_declared_one(tmp_path: Path) -> None:
    """Wherever its code is looked for: gates, Bento, settings and what makes a release name one folder."""
    assert params.package(tmp_path, "some-pets") == "some_pets"
    (tmp_path / params.FILE).write_text("models: {some-pets: {package: zoo}, birds: {}}\ngates: {}\n")
    assert params.package(tmp_path, "some-pets") == "zoo"
    assert params.package(tmp_path, "birds") == "birds"
    assert Source("some-pets", tmp_path, tmp_path, "", 1, "").package == "zoo"
    assert settings.place(tmp_path, "some-pets") == tmp_path / "services" / "zoo" / "settings.yaml"
    assert ":(glob)models/zoo/**" in packaging.Layout(tmp_path, "some-pets").inputs
    assert gating.Subject("some-pets", gating.Settings(), tmp_path).package == "zoo"
