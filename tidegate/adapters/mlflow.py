"""MLflow: numbers model versions, and remembers training runs.

An address is an MLflow tracking URI. Files lie beside a SQLite database, in `artifacts/`; a tracking
server decides for itself; any other database needs a place after a `#`, for example
`postgresql://host/mlflow#s3://bucket/models`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidegate.errors import ConfigError, Fatal, PlatformError, Refused, Unreachable

DIGEST = "digest"  # the tag by which a version is known again
_FILES = "model"  # where a version's files lie in its run
_REGISTRATIONS = "registrations"  # the experiment of the runs that carry versions' files
# Told apart by MLflow's own codes: what may be asked again, and what is simply not there.
_AGAIN = {
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "INTERNAL_ERROR",
    "ABORTED",
    "DEADLINE_EXCEEDED",
}
_ABSENT = "RESOURCE_DOES_NOT_EXIST"


class _Store:
    """A connection, made when it is first needed: importing MLflow takes seconds."""

    def __init__(self, address: str) -> None:
        self._address, _, self._files = address.partition("#")
        self._connected: Any = None
        scheme = self._address.split(":", 1)[0]
        if scheme == "sqlite":
            self._database: Path | None = Path(self._address.removeprefix("sqlite:///"))
            self._files = self._files or (self._database.parent / "artifacts").absolute().as_uri()
        else:
            self._database = None
            if scheme not in ("http", "https") and not self._files:
                raise ConfigError(
                    f"`{scheme}` holds numbers only, and no place is named for the models' files",
                    "Name one after a `#`, as in `postgresql://host/mlflow#s3://bucket/models`.",
                    where="platform.yaml",
                )

    @property
    def client(self) -> Any:
        """Return the connected client; makes the database when there is none."""
        if self._connected is None:
            mlflow = _quiet_mlflow()
            with _errors(self._address), self.locked():
                # The first connection creates the tables, and two at once would both try.
                client = mlflow.MlflowClient(self._address, self._address)
                client.search_registered_models(max_results=1)
                self._connected = client
        return self._connected

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold back other processes of this machine that look first and write then."""
        if self._database is None:
            yield
            return
        self._database.parent.mkdir(parents=True, exist_ok=True)
        with self._database.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def experiment(self, name: str) -> str:
        """Return an experiment's id; makes it, with its files in our place, when there is none."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        place = f"{self._files}/{name}" if self._files else None
        return str(self.client.create_experiment(name, artifact_location=place))


class MlflowRegistry:
    """The port `Registry` over MLflow's model registry, and the log of training runs beside it."""

    def __init__(self, address: str) -> None:
        self._store = _Store(address)
        self._address = address.partition("#")[0]

    def register(self, model: str, folder: Path, tags: Mapping[str, str]) -> int:
        """Register a folder as a version; `tags['digest']` is needed, and gives the same number again."""
        digest = tags.get(DIGEST)
        if not digest:
            raise Refused("a version is known by its digest, and none was given", "Pass tags['digest'].")
        if not folder.is_dir() or not any(folder.iterdir()):
            raise Fatal(f"{folder} holds no model", "Run `dvc repro`.")
        client = self._store.client
        with _errors(self._address), self._store.locked():
            known = self._by_digest(model, digest)
            if known is not None:
                return known
            run = client.create_run(
                self._store.experiment(_REGISTRATIONS), run_name=f"{model} {digest[7:19]}"
            )
            client.log_artifacts(run.info.run_id, str(folder), _FILES)
            client.set_terminated(run.info.run_id)
            if not client.search_registered_models(f"name = '{model}'", max_results=1):
                client.create_registered_model(model)
            source = f"{run.info.artifact_uri}/{_FILES}"
            version = client.create_model_version(model, source, run.info.run_id, dict(tags))
            return int(version.version)

    def _by_digest(self, model: str, digest: str) -> int | None:
        # Filtered here and not by a tag in the query: MLflow pages a query by a thousand versions.
        token = None
        while True:
            page = self._store.client.search_model_versions(f"name = '{model}'", page_token=token)
            for version in page:
                if version.tags.get(DIGEST) == digest:
                    return int(version.version)
            token = page.token
            if not token:
                return None

    def aliases(self, model: str) -> Mapping[str, int]:
        """Return alias → version; empty when the model is unknown."""
        client = self._store.client
        with _errors(self._address):
            found = client.search_registered_models(f"name = '{model}'", max_results=1)
            return {alias: int(number) for alias, number in found[0].aliases.items()} if found else {}

    def set_alias(self, model: str, alias: str, version: int | None) -> None:
        """Point an alias at a version, or remove it with None; raises Fatal for an unknown version."""
        client = self._store.client
        with _errors(self._address):
            if version is not None:
                client.set_registered_model_alias(model, alias, str(version))
            elif alias in self.aliases(model):
                client.delete_registered_model_alias(model, alias)

    def fetch(self, model: str, version: int, destination: Path) -> Path:
        """Copy a version's files to `destination`, replacing what it holds, and return it."""
        client = self._store.client
        with _errors(self._address):
            source = client.get_model_version(model, str(version)).source
            mlflow = _quiet_mlflow()
            destination.parent.mkdir(parents=True, exist_ok=True)
            fetched = destination.with_name(f".{destination.name}.{os.getpid()}")
            shutil.rmtree(fetched, ignore_errors=True)
            try:
                mlflow.artifacts.download_artifacts(
                    artifact_uri=source, dst_path=str(fetched), tracking_uri=self._address
                )
                # MLflow may put the folder itself inside of the one that was named.
                inner = fetched / _FILES
                shutil.rmtree(destination, ignore_errors=True)
                (inner if inner.is_dir() else fetched).rename(destination)
            finally:
                shutil.rmtree(fetched, ignore_errors=True)
        return destination

    def log_run(
        self,
        model: str,
        *,
        parameters: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        curves: Mapping[str, list[float]] | None = None,
    ) -> str:
        """Log one training run into the model's experiment and return its id.

        `curves` maps a metric to its value after each round.
        """
        client = self._store.client
        with _errors(self._address):
            with self._store.locked():
                experiment = self._store.experiment(model)
            entities = _quiet_mlflow().entities
            run = client.create_run(experiment, tags=dict(tags)).info.run_id
            now = int(time.time() * 1000)
            points = [entities.Metric(name, value, now, 0) for name, value in metrics.items()]
            for name, values in (curves or {}).items():
                points += [entities.Metric(name, value, now, step) for step, value in enumerate(values, 1)]
            pairs = [entities.Param(name, str(value)) for name, value in parameters.items()]
            for start in range(0, max(len(points), 1), 1000):  # MLflow takes a thousand at once
                client.log_batch(run, metrics=points[start : start + 1000], params=pairs if not start else [])
            client.set_terminated(run)
            return str(run)


def _quiet_mlflow() -> Any:
    """Import MLflow without its reports to its makers, progress bars, and minutes of silent retries."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at import; there is no argument
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


@contextmanager
def _errors(address: str) -> Iterator[None]:
    """Translate what MLflow and the file system raise into our errors."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        text = str(error).strip().splitlines()[0]
        if error.error_code == _ABSENT:
            raise Fatal(f"the registry does not know it: {text}", "List what is there in MLflow.") from error
        if error.error_code in _AGAIN:
            raise Unreachable(
                f"the registry at {address} did not answer: {text}", "Is it running?"
            ) from error
        raise Fatal(f"the registry at {address} refused: {text}", "Correct the request.") from error
    except OSError as error:
        action = "Check the disk, and `stores.registry` in platform.yaml."
        raise PlatformError(f"the registry at {address} can't be written: {error}", action) from error
