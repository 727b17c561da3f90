"""What every model registry must do: the fake and MLflow on SQLite, by one suite."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.adapters.mlflow import MlflowRegistry
from tidegate.errors import ConfigError, Fatal, PlatformError, Refused, Unreachable
from tidegate.files import digest_folder
from tidegate.ports import Registry
from tidegate.testing import FakeRegistry

_names = iter(f"model-{number}" for number in range(1000))


@pytest.fixture(scope="module")
def mlflow_address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module: MLflow takes seconds to make its tables."""
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture(params=["fake", "mlflow"])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    if request.param == "fake":
        yield FakeRegistry()
    else:
        yield MlflowRegistry(request.getfixturevalue("mlflow_address"))


@pytest.fixture
def name() -> str:
    return next(_names)


def folder_of(path: Path, **files: str) -> Path:
    for file, text in files.items():
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_text(text)
    return path


def tags_of(folder: Path) -> dict[str, str]:
    return {"digest": digest_folder(folder), "commit": "c" * 40}


def test_versions_count_from_one(registry: Registry, name: str, tmp_path: Path) -> None:
    """Different digests get the numbers 1, 2, ... of their own model."""
    one, two = folder_of(tmp_path / "1", a="1"), folder_of(tmp_path / "2", a="2")
    assert registry.register(name, one, tags_of(one)) == 1
    assert registry.register(name, two, tags_of(two)) == 2
    assert registry.register(f"{name}-other", one, tags_of(one)) == 1


def test_same_digest_is_the_same_version(registry: Registry, name: str, tmp_path: Path) -> None:
    """Registering a digest again gives its number, also after other digests came."""
    one, two = folder_of(tmp_path / "1", a="1"), folder_of(tmp_path / "2", a="2")
    first = registry.register(name, one, tags_of(one))
    registry.register(name, two, tags_of(two))
    assert registry.register(name, one, tags_of(one)) == first


def test_fetch_gives_the_registered_bytes(registry: Registry, name: str, tmp_path: Path) -> None:
    """A fetched version has the digest that was registered, whatever became of the folder."""
    folder = folder_of(tmp_path / "model", **{"model.onnx": "weights", "sub/features.json": "{}"})
    tags = tags_of(folder)
    number = registry.register(name, folder, tags)
    folder_of(folder, **{"model.onnx": "changed"})
    fetched = registry.fetch(name, number, tmp_path / "out" / "copy")
    assert fetched == tmp_path / "out" / "copy"
    assert digest_folder(fetched) == tags["digest"]


def test_fetch_replaces_what_was_there(registry: Registry, name: str, tmp_path: Path) -> None:
    """A folder that held another version holds none of its files after a fetch."""
    folder = folder_of(tmp_path / "model", a="1")
    number = registry.register(name, folder, tags_of(folder))
    target = folder_of(tmp_path / "target", stale="old")
    registry.fetch(name, number, target)
    assert sorted(path.name for path in target.iterdir()) == ["a"]


def test_alias_points_moves_and_goes(registry: Registry, name: str, tmp_path: Path) -> None:
    """An alias can be set, moved and removed; removing it twice changes nothing."""
    one, two = folder_of(tmp_path / "1", a="1"), folder_of(tmp_path / "2", a="2")
    first, second = (registry.register(name, path, tags_of(path)) for path in (one, two))
    assert registry.aliases(name) == {}
    registry.set_alias(name, "canary", first)
    registry.set_alias(name, "production", first)
    registry.set_alias(name, "canary", second)
    assert registry.aliases(name) == {"canary": second, "production": first}
    registry.set_alias(name, "canary", None)
    registry.set_alias(name, "canary", None)
    assert registry.aliases(name) == {"production": first}


def test_unknown_model_has_no_aliases(registry: Registry, name: str) -> None:
    """Asking for the aliases of a model that was never registered answers with none."""
    assert registry.aliases(name) == {}
    registry.set_alias(name, "canary", None)
    assert registry.aliases(name) == {}


def test_unknown_version_is_fatal(registry: Registry, name: str, tmp_path: Path) -> None:
    """An alias or a fetch of a version that is not there raises Fatal and changes nothing."""
    folder = folder_of(tmp_path / "model", a="1")
    registry.register(name, folder, tags_of(folder))
    with pytest.raises(Fatal):
        registry.set_alias(name, "canary", 9)
    with pytest.raises(Fatal):
        registry.fetch(name, 9, tmp_path / "out")
    assert registry.aliases(name) == {}
    assert not (tmp_path / "out").exists()


def test_nothing_is_not_a_version(registry: Registry, name: str, tmp_path: Path) -> None:
    """No digest, an empty folder and no folder are refused, never numbered."""
    folder = folder_of(tmp_path / "model", a="1")
    with pytest.raises(Refused):
        registry.register(name, folder, {"commit": "c"})
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(Fatal):
            registry.register(name, path, {"digest": "sha256:0"})
    assert registry.register(name, folder, tags_of(folder)) == 1


# ---------------------------------------------------------------- MLflow alone
_REGISTER = """
import sys
from pathlib import Path
from tidegate.adapters.mlflow import MlflowRegistry
print(MlflowRegistry(sys.argv[1]).register("flights", Path(sys.argv[2]), {"digest": sys.argv[3]}))
"""


def test_two_processes_make_one_version(tmp_path: Path) -> None:
    """Two processes that register the same digest into a new database at once get one number, quietly."""
    folder = folder_of(tmp_path / "model", a="1")
    command = [
        sys.executable, "-c", _REGISTER, f"sqlite:///{tmp_path}/new/mlflow.db", str(folder), "sha256:abc",
    ]  # fmt: skip
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    answers = [process.communicate(timeout=300) for process in started]
    assert answers == [("1\n", ""), ("1\n", "")]


def test_run_is_logged_with_its_curve(mlflow_address: str, name: str) -> None:
    """A logged run can be read back: parameters, metrics, tags, and a curve longer than one batch."""
    import mlflow

    run = MlflowRegistry(mlflow_address).log_run(
        name,
        parameters={"rounds": 3},
        metrics={"auc": 0.7},
        tags={"digest": "sha256:1"},
        curves={"loss": [1 / step for step in range(1, 1501)]},
    )
    client = mlflow.MlflowClient(mlflow_address, mlflow_address)
    data = client.get_run(run).data
    assert data.params == {"rounds": "3"}
    assert data.metrics["auc"] == 0.7
    assert data.tags["digest"] == "sha256:1"
    curve = client.get_metric_history(run, "loss")
    assert [(point.step, point.value) for point in (curve[0], curve[-1])] == [(1, 1.0), (1500, 1 / 1500)]


def test_files_lie_beside_the_database(tmp_path: Path, mlflow_address: str, name: str) -> None:
    """A version's files are stored in `artifacts/` next to the database, never in the working folder."""
    folder = folder_of(tmp_path / "model", **{"weights.onnx": name})
    MlflowRegistry(mlflow_address).register(name, folder, tags_of(folder))
    home = Path(mlflow_address.removeprefix("sqlite:///")).parent
    assert name in [path.read_text() for path in (home / "artifacts").rglob("weights.onnx")]
    assert not Path("mlruns").exists()


def test_database_without_a_place_for_files_is_refused() -> None:
    """A bare PostgreSQL address raises, since its models would land in the working folder."""
    with pytest.raises(ConfigError, match="#s3://"):
        MlflowRegistry("postgresql://host/mlflow")


def test_server_that_is_away_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracking server that does not answer raises Unreachable, which may be tried again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Unreachable):
        MlflowRegistry("http://127.0.0.1:9").aliases("flights")


def test_place_that_cannot_be_written_is_a_platform_error(tmp_path: Path) -> None:
    """A database below a file raises PlatformError with the address to correct."""
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError, match=r"stores\.registry"):
        MlflowRegistry(f"sqlite:///{tmp_path}/file/mlflow.db").aliases("flights")
