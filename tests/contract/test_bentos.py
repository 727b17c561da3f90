"""The Bento store: built offline, once, never changed, and known by its digest."""

from __future__ import annotations

import threading
from importlib import metadata
from pathlib import Path

import pytest

from tests.builders import tiny_model
from tidegate import bentos
from tidegate.adapters.bentoml import SERVING_PACKAGES, BentoStore, pins_of, serving_pins
from tidegate.adapters.supervisor import BentoCommands
from tidegate.bentos import (
    Source,
    bento_digest,
    bento_path,
    other_packages,
    serve_environment,
    verify,
    warmup_rows,
)
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord
from tidegate.errors import ConfigError, PlatformError, ReleaseNotFound
from tidegate.files import digest_folder

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "9be14c2" + "0" * 33


def _source(artifact: Path, checkout: Path = ROOT, version: int = 7) -> Source:
    return Source("flight-delay", checkout, artifact, digest_folder(artifact), version, COMMIT)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("artifact") / "model")


@pytest.fixture(scope="module")
def store(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BentoStore, Path, BentoRef]:
    """A store below a folder whose name starts with a dot, as TIDEGATE_HOME's does, with one Bento."""
    home = tmp_path_factory.mktemp("home") / ".tidegate" / "bentoml"
    built = BentoStore(home)
    return built, home, built.build(_source(artifact))


def _record(bento: BentoRef) -> ReleaseRecord:
    return ReleaseRecord(
        "flight-delay", COMMIT, "sha256:", RegistryRef("flight-delay", 7), "sha256:a", bento, {}
    )


def test_a_bento_is_found_by_tag_and_digest(store: tuple[BentoStore, Path, BentoRef]) -> None:
    """A built Bento has the tag of version and commit, lies at its path and has its digest."""
    bentos, home, ref = store
    assert ref.tag == "flight_delay:7-9be14c2"
    assert bentos.exists(ref.tag)
    assert bentos.path(ref.tag) == bento_path(home, ref.tag)
    assert bentos.digest(ref.tag) == ref.digest == bento_digest(bentos.path(ref.tag))
    assert verify(home, _record(ref)) == bentos.path(ref.tag)


def test_a_bento_carries_what_serves_and_no_training_code(
    store: tuple[BentoStore, Path, BentoRef], artifact: Path
) -> None:
    """Inside are the service, features.py, the serving shell and the model's files, and nothing else."""
    bentos, _, ref = store
    source = bentos.path(ref.tag) / "src"
    python = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    assert python <= {
        *(f"services/{name}" for name in ("__init__.py", *_names("services/flight_delay"))),
        *("models/__init__.py", "models/flight_delay/__init__.py", "models/flight_delay/features.py"),
        *(f"tidegate/{name}.py" for name in ("__init__", "files", "serve")),
        *(f"tidegate/serving/{path.name}" for path in (ROOT / "tidegate/serving").glob("*.py")),
    }
    assert digest_folder(source / "model") == digest_folder(artifact)
    assert len(warmup_rows(bentos.path(ref.tag))) == 3


def _names(folder: str) -> list[str]:
    return [f"flight_delay/{path.name}" for path in (ROOT / folder).glob("*.py")]


def test_the_same_source_is_built_once(store: tuple[BentoStore, Path, BentoRef], artifact: Path) -> None:
    """Building again gives the same tag and digest, and touches no file of the Bento that is there."""
    bentos, _, ref = store
    stamp = (bentos.path(ref.tag) / "bento.yaml").stat().st_mtime_ns
    assert bentos.build(_source(artifact)) == ref
    assert (bentos.path(ref.tag) / "bento.yaml").stat().st_mtime_ns == stamp


def test_two_builds_of_the_same_have_one_digest(
    store: tuple[BentoStore, Path, BentoRef], artifact: Path, tmp_path: Path
) -> None:
    """Two runs at once in another store both end with the digest that the first store has."""
    _, _, ref = store
    found: list[BentoRef] = []
    runs = [
        threading.Thread(target=lambda: found.append(BentoStore(tmp_path).build(_source(artifact))))
        for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert found == [ref, ref]
    assert [path.name for path in tmp_path.glob(".building-*")] == []


def test_another_model_under_the_same_version_gets_a_tag_of_its_own(
    store: tuple[BentoStore, Path, BentoRef], tmp_path: Path
) -> None:
    """A registry that began anew can't replace a Bento that may be running."""
    bentos, home, ref = store
    other = bentos.build(_source(tiny_model(tmp_path / "other", late=0.4)))
    assert other.tag.startswith(f"{ref.tag}-")
    assert other.digest != ref.digest
    assert verify(home, _record(ref))


@pytest.mark.parametrize(
    "name", ["src/model/model.onnx", "src/services/flight_delay/service.py", "bento.yaml"]
)
def test_a_changed_bento_is_not_the_recorded_one(
    store: tuple[BentoStore, Path, BentoRef], tmp_path: Path, name: str
) -> None:
    """A Bento of which any file was changed is refused with both digests and what to do."""
    import shutil

    bentos, _, ref = store
    copy = bento_path(tmp_path, ref.tag)
    shutil.copytree(bentos.path(ref.tag), copy)
    assert verify(tmp_path, _record(ref)) == copy
    with (copy / name).open("ab") as file:
        file.write(b"#")
    with pytest.raises(
        ReleaseNotFound, match=rf"is not the one of release.*{ref.digest[:19]}.*build it again"
    ):
        verify(tmp_path, _record(ref))


def test_packages_other_than_the_locked_are_named(tmp_path: Path) -> None:
    """Another version or a missing package is told; one that is for another system is not."""
    pins = f"numpy==0.0.1\nmsgspec=={metadata.version('msgspec')}\nno-such-package==1.0\n"
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "requirements.txt").write_text(f"{pins}colorless==1 ; sys_platform == 'win32'\n")
    assert other_packages(tmp_path) == [
        f"numpy {metadata.version('numpy')}, locked 0.0.1",
        "no-such-package missing, locked 1.0",
    ]
    assert other_packages(tmp_path / "none") == ["requirements.txt can't be read"]


def test_a_bento_served_by_other_packages_is_warned_of_once(
    store: tuple[BentoStore, Path, BentoRef],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line a Bento, however many replicas; none when all is as locked."""
    _, home, ref = store
    monkeypatch.setattr(bentos, "other_packages", lambda path: ["numpy 2, locked 1"])
    commands = BentoCommands(home, {})
    for port in (1, 2):
        assert commands.command(_record(ref), port)[0][-1] == str(port)
    assert [record.getMessage() for record in caplog.records] == [
        f"{ref.tag} is served by packages that it was not locked with: numpy 2, locked 1. "
        "Run `make setup` at its commit."
    ]


def test_byte_code_does_not_change_a_bento(store: tuple[BentoStore, Path, BentoRef], tmp_path: Path) -> None:
    """Whoever imports a Bento's source may leave byte code beside it."""
    import shutil

    bentos, _, ref = store
    shutil.copytree(bentos.path(ref.tag), tmp_path / "copy")
    cache = tmp_path / "copy" / "src" / "__pycache__"
    cache.mkdir()
    (cache / "x.pyc").write_bytes(b"x")
    assert bento_digest(tmp_path / "copy") == ref.digest


@pytest.mark.parametrize("tag", ["", "flight_delay", "flight_delay:", "../x:1", "x:../../etc", "x:1/2"])
def test_an_odd_tag_is_no_path(tmp_path: Path, tag: str) -> None:
    """A tag that is not `name:version` never becomes a path."""
    with pytest.raises(ReleaseNotFound, match="not a Bento's tag"):
        bento_path(tmp_path, tag)


def test_a_bento_that_is_not_here_says_so(tmp_path: Path) -> None:
    """A record whose Bento is not on this machine is ReleaseNotFound."""
    with pytest.raises(ReleaseNotFound, match="no Bento in"):
        verify(tmp_path, _record(BentoRef("flight_delay:7-9be14c2", "sha256:")))


def test_the_environment_names_release_version_and_model() -> None:
    """A workload is told who it is, and imports the Bento's code first."""
    record = _record(BentoRef("flight_delay:7-9be14c2", "sha256:"))
    environment = serve_environment(Path("/store"), record)
    assert environment["TIDEGATE_RELEASE"] == record.id
    assert environment["TIDEGATE_MODEL_VERSION"] == "7"
    assert environment["TIDEGATE_ARTIFACT"] == "sha256:a"
    assert environment["PYTHONPATH"] == "/store/bentos/flight_delay/7-9be14c2/src"


def test_a_service_that_cannot_be_imported_is_told(artifact: Path, tmp_path: Path) -> None:
    """A broken service fails the build with Python's own words, and leaves nothing in the store."""
    checkout = tmp_path / "checkout"
    for name in ("services/flight_delay", "models/flight_delay", "tidegate"):
        (checkout / name).mkdir(parents=True)
        for path in (ROOT / name).glob("*.py"):
            (checkout / name / path.name).write_bytes(path.read_bytes())
    (checkout / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    (checkout / "services/flight_delay/service.py").write_text("import no_such_module\n")
    home = tmp_path / "home"
    with pytest.raises(PlatformError, match="no_such_module"):
        BentoStore(home).build(_source(artifact, checkout))
    assert not BentoStore(home).exists("flight_delay:7-9be14c2")
    assert list(home.iterdir()) == []


def test_the_pins_are_all_that_serving_needs() -> None:
    """Each requirement of a pinned package that applies here is pinned too, to what is installed."""
    from importlib.metadata import requires, version

    from packaging.requirements import Requirement

    pins = dict(
        line.split("==") for line in serving_pins((ROOT / "requirements.lock").read_text(), SERVING_PACKAGES)
    )
    names = {name.lower().replace("_", "-").replace(".", "-") for name in pins} | {"bentoml"}
    for name in names:
        for text in requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert needed.name.lower().replace("_", "-").replace(".", "-") in names, (
                    f"{name} needs {needed}"
                )
    assert {name: version(name) for name in pins} == {
        name: pin.split(";")[0].strip() for name, pin in pins.items()
    }


def test_training_is_not_served() -> None:
    """What only training, gates and the toolkit need is not among the pins."""
    pins = serving_pins((ROOT / "requirements.lock").read_text(), SERVING_PACKAGES)
    assert not {"mlflow", "lightgbm", "pandas", "dvc", "evidently"} & {line.split("==")[0] for line in pins}


def _checkout(folder: Path, said: str) -> Path:
    """A checkout of this one's lock, and flight-delay's settings as `said`."""
    (folder / "services" / "flight_delay").mkdir(parents=True)
    (folder / "services" / "flight_delay" / "settings.yaml").write_text(said)
    (folder / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    return folder


def test_a_service_brings_packages_of_its_own(tmp_path: Path) -> None:
    """What settings.yaml names is pinned beside the shell's packages; a name without a pin is an error."""
    pins = pins_of(_checkout(tmp_path / "one", "packages: [Tokenizers]\n"), "flight-delay")
    shells = serving_pins((ROOT / "requirements.lock").read_text(), SERVING_PACKAGES)
    assert {line.split("==")[0] for line in set(pins) - set(shells)} == {"tokenizers"}
    assert set(shells) <= set(pins)
    with pytest.raises(ConfigError, match="no-such-package not pinned"):
        pins_of(_checkout(tmp_path / "two", "packages: [no-such-package]\n"), "flight-delay")


def test_a_variant_that_is_not_there_is_no_bento(artifact: Path, tmp_path: Path) -> None:
    """Settings that name a file the model has not are refused before anything is built, with those it has."""
    for place, text in enumerate(("variant: int8\n", "gpu: {variant: int8}\n")):
        checkout = _checkout(tmp_path / f"checkout-{place}", text)
        with pytest.raises(ConfigError, match=r"settings\.yaml: .*model\.int8\.onnx.*there is model\.onnx"):
            BentoStore(tmp_path / "home").build(_source(artifact, checkout))


def test_a_package_that_is_not_locked_is_an_error() -> None:
    """A serving package without a pin is told by name, with what to do."""
    with pytest.raises(ConfigError, match=r"requirements\.lock: uvloop not pinned.*make lock"):
        serving_pins("bentoml==1.4.39\n    # via tidegate (pyproject.toml)\n", ("bentoml", "uvloop"))
