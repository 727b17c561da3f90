"""The whole story of one prediction: who answered and in what state, what it saw, what came of it, why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tidegate import bentos
from tidegate.config import parse_record
from tidegate.core.history import iso
from tidegate.core.outcomes import Outcome
from tidegate.core.predictions import Prediction
from tidegate.core.release import ReleaseRecord, original
from tidegate.core.shapley import Explained
from tidegate.errors import ConfigError, NoData, ReleaseNotFound, TidegateError
from tidegate.explaining import Named, explain
from tidegate.files import digest_folder
from tidegate.ports import Event

AFTER = 5  # events that are told of what came later


@dataclass(frozen=True)
class Course:
    """Where the release stood then: `role` (candidate, stable), the last event before and the next ones."""

    environment: str = ""
    role: str = ""
    before: Event | None = None
    after: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Story:
    """One prediction and all that is known of it; `notes` say what is not, and why."""

    prediction: Prediction
    record: ReleaseRecord | None
    course: Course
    outcomes: tuple[Outcome, ...]
    explained: Explained | None
    notes: tuple[str, ...] = field(default=())

    @property
    def missing(self) -> list[str]:
        """The features that were not known."""
        return [name for name, value in self.prediction.features.items() if value is None]


def course(events: Sequence[Event], prediction: Prediction) -> Course:
    """Return where the release stood when it answered, by a plane's events, oldest first."""
    release = original(prediction.release)
    mine = [e for e in events if e.model == prediction.model]
    about = [e for e in mine if release in (e.release, e.data.get("stable"))]
    before = [e for e in about if e.at <= prediction.at]
    after = [e for e in about if e.at > prediction.at and e.release == release][:AFTER]
    if not before:
        return Course(after=tuple(after))
    last = before[-1]
    candidate = last.release == release and last.kind != "healthy"
    return Course(
        str(last.data.get("environment", "")), "candidate" if candidate else "stable", last, tuple(after)
    )


def record_of(files: Mapping[str, str], prediction: Prediction) -> ReleaseRecord:
    """Return the record of the release that answered; raises ReleaseNotFound where this checkout has none."""
    path = f"envs/releases/{prediction.model}/{original(prediction.release)}.yaml"
    if path not in files:
        raise ReleaseNotFound(
            f"this checkout has no record of release {prediction.release}", "Fetch what is newer: git pull"
        )
    return parse_record(files[path], path)


def artifact_of(home_bentos: Path, record: ReleaseRecord) -> Path:
    """Return the folder of a release's model, in its Bento; raises ReleaseNotFound where it is another's."""
    folder = bentos.verify(home_bentos, record) / bentos.SOURCE / bentos.MODEL
    found = digest_folder(folder)
    if found != record.artifact:
        raise ReleaseNotFound(
            f"the model in {record.bento.tag} is {found[:19]}…, the record says {record.artifact[:19]}…",
            f"Package the model again: tidegate package {record.model}",
        )
    return folder


def tell(
    prediction: Prediction,
    files: Mapping[str, str],
    home_bentos: Path,
    events: Sequence[Event],
    outcomes: Sequence[Outcome],
    others: Callable[[], Sequence[Named]] | None,
) -> Story:
    """Put together what is known of a prediction; what can't be told is a note, and never an error.

    Contributions are computed where `others` is given: other predictions of this release, to compare with.
    """
    notes: list[str] = []
    record, explained = None, None
    try:
        record = record_of(files, prediction)
        if others is not None:
            folder = artifact_of(home_bentos, record)
            explained = explain(folder, prediction.features, prediction.prediction, others)
    except (ReleaseNotFound, NoData, ConfigError) as problem:
        notes.append(f"no contributions: {problem}")
    except (TidegateError, OSError) as problem:
        notes.append(f"contributions can't be computed: {problem}")
    # Of a request of many rows an outcome may be said of a row, or of the whole.
    ids = {prediction.request_id, prediction.request_id.rpartition("/")[0]} - {""}
    came = tuple(outcome for outcome in outcomes if outcome.id in ids)
    return Story(prediction, record, course(events, prediction), came, explained, tuple(notes))


# ---------------------------------------------------------------- as a document
def document(story: Story) -> dict[str, Any]:
    """Return a story as JSON says it."""
    prediction, record = story.prediction, story.record
    found = asdict(prediction) | {"time": iso(prediction.at)}
    found["missing"] = story.missing
    found["made_of"] = record and {
        "commit": record.commit,
        "mlflow": {"name": record.registry.name, "version": record.registry.version},
        "artifact": record.artifact,
        "bento": record.bento.tag,
    }
    found["rollout"] = {
        "environment": story.course.environment or None,
        "role": story.course.role or None,
        "before": story.course.before and _event(story.course.before),
        "after": [_event(event) for event in story.course.after],
    }
    found["outcomes"] = [
        {"id": o.id, "name": o.name, "value": o.value, "at": o.at, "time": iso(o.at)} for o in story.outcomes
    ]
    found["contributions"] = story.explained and _explained(story.explained)
    return found | {"notes": list(story.notes)}


def _event(event: Event) -> dict[str, Any]:
    return {
        "at": event.at,
        "time": iso(event.at),
        "kind": event.kind,
        "text": event.text,
        "release": event.release,
    }


def _explained(found: Explained) -> dict[str, Any]:
    shares = [{"feature": s.name, "value": s.value, "error": s.error} for s in found.by_size()]
    head = {"of": found.of, "unit": found.unit, "method": found.method}
    return {**head, "base": found.base, "total": found.total, "shares": shares}
