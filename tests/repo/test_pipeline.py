"""dvc.yaml, the link to the shared store, and what register and package depend on besides files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from models import register, stores
from models.flight_delay import prepare, train
from models.layout import Layout, run
from tidegate import report, wiring
from tidegate.adapters import dvc
from tidegate.core.verdict import Finding, Verdict
from tidegate.errors import ConfigError, NoData, PlatformError, TidegateError
from tidegate.files import digest_folder
from tidegate.packaging import Layout as Packaged
from tidegate.packaging import pipeline_digest
from tidegate.testing import FakeRegistry

ROOT = Path(__file__).parents[2]
GATES = ("data", "drift", "quality", "slices", "variants", "added")


# ---------------------------------------------------------------- dvc.yaml
@pytest.fixture(scope="module")
def stages() -> dict[str, dict[str, set[str]]]:
    """Stage → what it needs and what it makes, as DVC itself resolves dvc.yaml."""
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        return {
            stage.name: {
                "needs": {dep.def_path for dep in stage.deps},
                "makes": {out.def_path for out in stage.outs},
            }
            for stage in repo.index.stages
        }


def upstream(stages: dict[str, dict[str, set[str]]], name: str) -> set[str]:
    found: set[str] = set()
    wanted = [name]
    while wanted:
        needs = stages[wanted.pop()]["needs"]
        before = [other for other, stage in stages.items() if stage["makes"] & needs and other not in found]
        found.update(before)
        wanted += before
    return found


def test_every_model_has_every_stage(stages: dict[str, Any]) -> None:
    """Each model of params.yaml gets the whole chain, under its own name, by no line in dvc.yaml."""
    models = yaml.safe_load((ROOT / "params.yaml").read_text())["models"]
    kinds = ["prepare", "train", "evaluate", *(f"gate-{gate}" for gate in GATES), "register", "package"]
    kinds.append("gate-artifact")
    assert set(stages) == {"stores", *(f"{kind}@{model}" for kind in kinds for model in models)}


def test_what_scores_looks_again_when_another_file_is_served(stages: dict[str, Any]) -> None:
    """The service's settings name the file that is scored: each stage that reads them depends on them."""
    name = "services/flight_delay/settings.yaml"
    scoring = [f"{kind}@flight-delay" for kind in ("evaluate", "gate-drift", "gate-variants")]
    assert all(stages[one]["needs"] & {name, "services/flight_delay"} for one in scoring)


def test_nothing_is_registered_before_its_gates(stages: dict[str, Any]) -> None:
    """Registering and packaging come after the gates that read files, the evaluation and the training."""
    before = {f"gate-{gate}@flight-delay" for gate in GATES} | {
        "prepare@flight-delay", "train@flight-delay", "evaluate@flight-delay",
    }  # fmt: skip
    assert before <= upstream(stages, "register@flight-delay")
    assert before <= upstream(stages, "package@flight-delay")


def test_train_runs_every_gate_that_needs_no_release(stages: dict[str, Any]) -> None:
    """The workflow of a branch names all stages of gates but the one that looks at a packaged release."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "train.yml").read_text())
    (command,) = (s["run"] for s in workflow["jobs"]["gates"]["steps"] if "dvc repro" in s.get("run", ""))
    named = {stage for stage in stages for glob in re.findall(r"'([^']+)'", command) if fnmatch(stage, glob)}
    gates = {stage for stage in stages if stage.startswith("gate-")}
    assert named == {stage for stage in gates if not stage.startswith("gate-artifact@")}
    assert not any(
        stage.startswith(("register", "package")) for gate in named for stage in upstream(stages, gate)
    )


def test_what_is_packaged_is_looked_at_each_time(stages: dict[str, Any]) -> None:
    """The artifact gate comes after packaging and runs each time: the Bento lies outside of what DVC sees."""
    assert "package@flight-delay" in upstream(stages, "gate-artifact@flight-delay")
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert content["stages"]["gate-artifact"]["do"]["always_changed"] is True


def test_a_promotion_makes_no_new_release(stages: dict[str, Any]) -> None:
    """What changes when production changes its release is no direct input of package."""
    needs = stages["package@flight-delay"]["needs"]
    assert "envs/production/release.yaml" in stages["gate-quality@flight-delay"]["needs"]
    assert not {path for path in needs if path.startswith(("envs/", "build/flight-delay/gates/"))}


def test_what_a_stage_needs_is_in_the_repository(stages: dict[str, Any]) -> None:
    """Every dependency is a file of the repository or the output of another stage."""
    made = set().union(*(stage["makes"] for stage in stages.values()))
    missing = {
        path
        for stage in stages.values()
        for path in stage["needs"] - made
        if not (ROOT / path).exists()
    }  # fmt: skip
    assert not missing


# ---------------------------------------------------------------- parameters
def test_parameters_that_are_not_there_are_named(tmp_path: Path) -> None:
    """No params.yaml, or no section for the stage, raises with the key to add."""
    with pytest.raises(NoData, match=r"params\.yaml"):
        Layout("flights", tmp_path).parameters("train", dict)
    (tmp_path / "params.yaml").write_text("models: {flights: {prepare: {seed: 1}}}\n")
    assert Layout("flights", tmp_path).parameters("prepare", Seed) == {"seed": 1}
    with pytest.raises(ConfigError, match=r"models\.flights\.train"):
        Layout("flights", tmp_path).parameters("train", Seed)


class Seed(msgspec.Struct, forbid_unknown_fields=True):
    """A stage's parameters."""

    seed: int


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "num_leaves",
            "num_leafs",
            r"params.yaml:\d+: lightgbm: no parameter is called `num_leafs`",
        ),
        ("num_leaves: 63", "random_seed: 3", "`random_seed` is set by train.py"),
        ("rounds: 300", "round: 300", "unknown key `round`. Did you mean `rounds`"),
        ("hide: 0.02", "hide: 2", "must be a number of at most 1, not `2`"),
        ("late_after: 15", "late_after: soon", "must be a whole number, not the text `soon`"),
        ("months:\n", "month:\n", "unknown key `month`. Did you mean `months`"),
        ("    train:\n", "    trian:\n", "unknown key `trian`. Did you mean `train`"),
    ],
)
def test_a_mistake_in_training_parameters_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    """A parameter that is unknown, overwritten or out of its range stops its stage with the line."""
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    layout = Layout("flight-delay", tmp_path)

    def both() -> None:
        layout.parameters("prepare", prepare.Parameters)
        layout.parameters("train", train.Parameters)

    with pytest.raises(ConfigError, match=says):
        both()


def test_a_stage_exits_as_gates_do(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in a file is exit 3 and one line; anything else that was meant is exit 1."""
    for error, code in ((ConfigError("odd", "Correct it."), 3), (PlatformError("gone"), 1)):

        def stage(error: TidegateError = error) -> None:
            raise error

        with pytest.raises(SystemExit) as ended:
            run(stage)
        # What is no number, Python prints to stderr, and exits with 1.
        said = capsys.readouterr().err.strip() or ended.value.code
        assert said == str(error)
        assert (ended.value.code if isinstance(ended.value.code, int) else 1) == code


# ---------------------------------------------------------------- the link to the shared store
PERSONAL = """\
['remote "shared"']
    access_key_id = "k,e#y"
['remote "mine"']
    url = ssh://host/x
"""


def checkout(path: Path) -> Path:
    """A DVC project with one stage, which says in a file outside of it each time that it runs."""
    (path / ".dvc").mkdir(parents=True)
    (path / ".dvc" / "config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    (path / "input").write_text("1")
    stage = {"cmd": "cp input output && echo ran >> ../runs", "deps": ["input"], "outs": ["output"]}
    (path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"one": stage}}))
    return path


def repro(folder: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DVC")}
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--quiet"],
        cwd=folder,
        env=environment,
        check=True,
        timeout=120,
    )


def test_linked_checkouts_run_a_stage_once(tmp_path: Path) -> None:
    """What one checkout made, a second one takes from the shared store; a third, not linked, does not."""
    for name in ("one", "two", "alone"):
        checkout(tmp_path / name)
    for name in ("one", "two"):
        dvc.link(tmp_path / name, str(tmp_path / "store"))
        repro(tmp_path / name)
        assert (tmp_path / name / "output").read_text() == "1"
    assert (tmp_path / "runs").read_text() == "ran\n"
    repro(tmp_path / "alone")
    assert (tmp_path / "runs").read_text() == "ran\nran\n"


def test_link_keeps_what_a_person_set(tmp_path: Path) -> None:
    """Linking again writes nothing; credentials and other sections outlive each change of address."""
    folder = checkout(tmp_path / "one")
    local = folder / ".dvc" / "config.local"
    local.write_text(PERSONAL)
    dvc.link(folder, "s3://bucket/dvc")
    first = local.stat()
    dvc.link(folder, "s3://bucket/dvc")
    assert local.stat().st_ino == first.st_ino
    dvc.link(folder, str(tmp_path / "store"))
    assert "dir = " in local.read_text()
    dvc.link(folder, "s3://bucket/dvc")
    text = local.read_text()
    assert 'access_key_id = "k,e#y"' in text
    assert "url = ssh://host/x" in text
    assert "url = s3://bucket/dvc" in text
    assert "dir = " not in text


def test_link_of_a_folder_without_dvc_is_refused(tmp_path: Path) -> None:
    """A folder that is no DVC project raises, and gets no file."""
    with pytest.raises(ConfigError, match="dvc init"):
        dvc.link(tmp_path, "s3://bucket/dvc")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- stores
def test_a_store_is_known_until_it_is_emptied(tmp_path: Path) -> None:
    """A store has one identity; another store, and the same folder after it was emptied, have others."""
    address = str(tmp_path / "bentos")
    first = stores.identity(address)
    assert stores.identity(address) == first
    assert stores.identity(str(tmp_path / "others")) != first
    shutil.rmtree(address)
    assert stores.identity(address) != first
    assert [path.name for path in Path(address).iterdir()] == [stores.IDENTITY]


def test_a_registry_without_its_database_is_another(tmp_path: Path) -> None:
    """A SQLite registry keeps its identity with its database and loses it with it."""
    address = f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    stores.identity(address)
    (tmp_path / "mlflow" / "mlflow.db").touch()
    first = stores.identity(address)
    assert stores.identity(address) == first
    (tmp_path / "mlflow" / "mlflow.db").unlink()
    assert stores.identity(address) != first


def test_a_server_is_known_by_its_address() -> None:
    """A store elsewhere has the same identity on every machine, and gets no file here."""
    assert stores.identity("https://mlflow.example/") == stores.identity("https://mlflow.example/")
    assert stores.identity("https://mlflow.example/") != stores.identity("s3://bucket/bentos")


# ---------------------------------------------------------------- register
@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    fake = FakeRegistry()
    monkeypatch.setattr(wiring, "registry", lambda spec, where: fake)
    return fake


def repository(path: Path) -> Path:
    """A committed checkout with a trained model in it."""
    shutil.copytree(ROOT / "envs", path / "envs")
    (path / ".gitignore").write_text("build/\n")
    git = ["git", "-C", str(path), "-c", "user.name=T", "-c", "user.email=t@example.com"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "Start"]):
        subprocess.run([*git, *arguments], check=True)
    (path / "build" / "flights" / "model").mkdir(parents=True)
    (path / "build" / "flights" / "model" / "model.onnx").write_text("weights")
    return path


LOCK = "stages: {train: {outs: [{path: build/flights/model, md5: a}]}"
LATER = ", gate: {deps: [{path: build/flights/model, md5: a}], outs: [{path: x, md5: b}]}"


def test_register_says_version_and_digest_and_tags_the_origin(tmp_path: Path, registry: FakeRegistry) -> None:
    """register.json names model, version and digest; the version's tags name digest, commit and pipeline."""
    root = repository(tmp_path)
    (root / "dvc.lock").write_text(LOCK + "}\n")
    digest = digest_folder(root / "build" / "flights" / "model")
    found = register.register(Layout("flights", root))
    assert found == register.register(Layout("flights", root))
    assert found == {"name": "flights", "version": 1, "digest": digest}
    _, _, tags = registry.versions["flights"][0]
    head = subprocess.check_output(["git", "-C", str(root), "rev-parse", "HEAD"], text=True).strip()
    assert (tags["digest"], tags["commit"]) == (digest, head)
    assert tags["pipeline"].startswith("sha256:")
    (root / "dvc.lock").write_text(LOCK + LATER + "}\n")  # dvc writes it on while the stages run
    assert tags["pipeline"] == pipeline_digest(Packaged(root, "flights"))


def test_register_says_of_how_many_rows(tmp_path: Path, registry: FakeRegistry) -> None:
    """What the data gate counted goes on to the release's record; a report that is none says nothing."""
    root = repository(tmp_path)
    rows = {"train": 12, "holdout": 5}
    finding = Finding("rows", Verdict.PASS, 12.0, 1.0, "enough")
    report.write(report.Report("data", "flights", (finding,), {"rows": rows}), root / "build/flights/gates")
    assert register.register(Layout("flights", root))["rows"] == rows
    (root / "build/flights/gates/data.json").write_text("{")
    assert "rows" not in register.register(Layout("flights", root))


def test_register_marks_a_commit_that_does_not_hold_the_files(tmp_path: Path, registry: FakeRegistry) -> None:
    """A change that is not committed marks the commit as dirty; envs/ and dvc.lock may differ."""
    root = repository(tmp_path)
    (root / "envs" / "production" / "release.yaml").write_text("models: {}  # changed\n")
    register.register(Layout("flights", root))
    (root / ".gitignore").write_text("build/\n*.pyc\n")
    (root / "build" / "flights" / "model" / "model.onnx").write_text("other weights")
    register.register(Layout("flights", root))
    commits = [tags["commit"] for _, _, tags in registry.versions["flights"]]
    assert [commit.endswith("-dirty") for commit in commits] == [False, True]


def test_register_without_a_model_says_so(
    tmp_path: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No trained files end the stage with one line that says what to run, and no register.json."""
    root = repository(tmp_path)
    shutil.rmtree(root / "build" / "flights" / "model")
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["register", "flights"])
    with pytest.raises(SystemExit, match=r"^flights has no trained model: .*`dvc repro`\.$"):
        run(register.main)
    assert not (root / "build" / "flights" / "register.json").exists()


def test_stores_file_is_left_alone_when_it_says_so_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking twice writes once, so that nothing downstream looks changed."""
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "mlflow").mkdir(parents=True)
    (tmp_path / "home" / "mlflow" / "mlflow.db").touch()
    stores.main()
    path = tmp_path / "build" / "stores.json"
    first = path.stat().st_ino
    stores.main()
    assert path.stat().st_ino == first
    assert set(json.loads(path.read_text())) == {"registry", "bentos"}


@pytest.mark.parametrize("name", [".tidegate", ".venv", "build", "data", "dvc_plots"])
def test_what_commands_make_stays_out_of_git(name: str) -> None:
    """What the pipeline, `dvc plots` and the planes write is never offered for a commit."""
    command = ["git", "check-ignore", "--quiet", f"{name}/anything.html"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
