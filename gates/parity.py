"""Does the service compute what the pipeline does: the same features and predictions of the same raw rows?

Rows of the holdout and of the live stream, rows in which each optional field is missing, rows at the ends of
what is allowed and rows drawn from the published schema go to the staging endpoint, and through the pipeline:
`models/<package>/features.py` and that file of the model that the service runs. Features, by name, and each
number of a prediction must be the same within `tolerance`; what the evaluation saved must be, too.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np

from tidegate import frames, gating, scored
from tidegate.adapters import hypothesis
from tidegate.core import contract, gate, mutations, openapi, parity
from tidegate.core.contract import Answer
from tidegate.core.parity import Served
from tidegate.core.task import Declaration
from tidegate.core.verdict import Finding
from tidegate.endpoint import FEATURES, PREDICT, Endpoint, Silent
from tidegate.errors import NoData
from tidegate.files import digest_folder

HOLDOUT = "holdout"
Count = Annotated[int, msgspec.Meta(ge=1)]


class ParitySettings(gating.Settings, frozen=True):
    """The `parity` section; `tolerance` is of a feature and of a prediction, saved ones included."""

    rows: Mapping[str, Count]  # of each split, drawn by seed
    drawn: Count  # requests drawn from the published schema
    seed: Annotated[int, msgspec.Meta(ge=0)]
    tolerance: Annotated[float, msgspec.Meta(ge=0)]
    timeout: Annotated[float, msgspec.Meta(gt=0)]  # seconds for one answer

    def __post_init__(self) -> None:
        """Refuse to leave the holdout out: its saved predictions are compared, too."""
        if HOLDOUT not in self.rows:
            raise ValueError(f"`rows` must name {HOLDOUT}")


@dataclass(frozen=True)
class Raw:
    """Raw rows of one kind: their names, the requests they make, and the pipeline's columns of them."""

    names: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Any] | None = None  # none: they are computed of the requests
    places: Sequence[int] = ()  # in the split's file


@dataclass(frozen=True)
class Pipeline:
    """A model's own way from raw rows to predictions, as the checkout has it."""

    features: Any
    score: Any
    loaded: Any
    session: Any

    @classmethod
    def of(cls, subject: gating.Subject[ParitySettings]) -> Pipeline:
        """Import the model's package and load the model that it trained."""
        features, score = (
            importlib.import_module(f"models.{subject.package}.{name}") for name in ("features", "score")
        )
        loaded = features.load(subject.built("model/features.json"))
        return cls(features, score, loaded, score.session(subject.built(f"model/{scored.served(subject)}")))

    def matrix(self, raw: Raw) -> np.ndarray[Any, Any]:
        """Return the features of raw rows: float32 [rows, features]."""
        if raw.columns is None:
            found: np.ndarray[Any, Any] = self.features.compute(raw.rows, self.loaded)
        else:
            found = self.features.compute_columns(raw.columns, self.loaded)
        return found


def sampled(subject: gating.Subject[ParitySettings], pipeline: Pipeline, split: str, count: int) -> Raw:
    """Return a seeded sample of a split, with the rows that hold each column's least and greatest value."""
    frame = frames.read(subject.data(split))
    lost = [name for name in pipeline.features.COLUMNS if name not in frame]
    if lost:
        raise NoData(f"{split} has no column {', '.join(lost)}", "Make it with `dvc repro`.")
    frame = frame[list(pipeline.features.COLUMNS)]
    if frame.empty:
        raise NoData(f"{split} has no row", "Make it with `dvc repro`.")
    random = np.random.default_rng(subject.settings.seed)
    drawn = random.choice(len(frame), size=min(count, len(frame)), replace=False)
    places = sorted({*map(int, drawn), *ends(frame)})
    part = frame.iloc[places]
    names = [f"{split} row {place}" for place in places]
    return Raw(names, pipeline.features.to_rows(part), part, places)


def ends(frame: Any) -> Iterator[int]:
    """Yield the places of each column's least and greatest value."""
    for name in frame.columns:
        known = frame[name].dropna()
        for value in (known.min(), known.max()) if len(known) else ():
            yield int(np.argmax((frame[name] == value).to_numpy()))


def made_up(schema: Mapping[str, Any], known: Sequence[Mapping[str, Any]], settings: ParitySettings) -> Any:
    """Yield requests: without each optional field, at the ends of what is allowed, drawn from the schema."""
    for name, body in mutations.edges(schema, known, contract.acceptance()):
        yield name, json.loads(body)
    drawn = hypothesis.rows(schema, settings.drawn, settings.seed)
    yield from ((f"drawn request {number}", row) for number, row in enumerate(drawn, 1))


@dataclass
class Seen:
    """What came back so far of a service that may stop answering at any moment."""

    served: list[Served] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def ask_all(endpoint: Endpoint, raws: Sequence[Raw], wanted: Sequence[str]) -> Seen:
    """Send each row to both paths; `wanted` are a prediction's fields. Raises NoData without `/features`."""
    seen = Seen()
    try:
        for raw in raws:
            for name, row in zip(raw.names, raw.rows, strict=True):
                body = json.dumps(row).encode()
                features, predicted = endpoint.ask(FEATURES, body), endpoint.ask(PREDICT, body)
                if features.status in (404, 405):
                    raise NoData("the endpoint has no /features", "Package the model again: `dvc repro`.")
                seen.served.append(parity.served(name, features, predicted, wanted))
                seen.answers += [features, predicted]
    except Silent as problem:
        seen.findings.append(contract.silent(str(problem)))
    return seen


def saved(subject: gating.Subject[ParitySettings], holdout: Raw, served: Sequence[Served]) -> list[Finding]:
    """Compare the predictions that the evaluation saved with the service's of the same rows."""
    tolerance = subject.settings.tolerance
    frame = frames.read(subject.built("predictions.parquet"))
    found = []
    for column in subject.declared.columns:
        name = called("saved predictions", subject.declared, column)
        if column not in frame or max(holdout.places) >= len(frame):
            text = f"{name}: predictions.parquet has no `{column}` of each row of {HOLDOUT}"
            found.append(gate.error(name, text))
            continue
        mine = served[: len(holdout.places)]
        theirs = frame[column].to_numpy()[list(holdout.places)].tolist()[: len(mine)]
        told = [one.predictions.get(column) for one in mine]
        found.append(parity.predictions(name, theirs, told, [one.row for one in mine], tolerance))
    return found


def called(name: str, declared: Declaration, column: str) -> str:
    """Return what a finding on one field of a prediction is called: by its class, where there are several."""
    return f"{name} of {column}" if declared.classes else name


def look(subject: gating.Subject[ParitySettings]) -> gating.Looked:
    """Compute here, ask there, compare."""
    settings = subject.settings
    pipeline = Pipeline.of(subject)
    order = sorted(settings.rows, key=lambda split: split != HOLDOUT)  # the holdout first: see `saved`
    raws = [sampled(subject, pipeline, split, settings.rows[split]) for split in order]
    with Endpoint(subject.endpoint, settings.timeout) as endpoint:
        try:
            schema = openapi.request_schema(endpoint.document(), PREDICT)
        except openapi.Unreadable as problem:
            raise NoData(f"/openapi.json: {problem}", "Package the model again: `dvc repro`.") from problem
        known = [row for raw in raws for row in raw.rows]
        made = list(made_up(schema, known, settings))
        raws.append(Raw([name for name, _ in made], [row for _, row in made]))
        seen = ask_all(endpoint, raws, subject.declared.columns)
    return compared(subject, pipeline, raws, seen)


def same_model(subject: gating.Subject[ParitySettings]) -> list[Finding]:
    """Return an ERROR when the model here is not the release's: then nothing can be said of the release."""
    if not subject.release:
        return []
    found, named = digest_folder(subject.built("model")), subject.record().artifact
    if found == named:
        return []
    text = f"build/ holds the model {found[:19]}…, and release {subject.release} was made of {named[:19]}…"
    return [gate.error("model", f"{text}: run `dvc repro` or `dvc pull` at the release's commit")]


def compared(
    subject: gating.Subject[ParitySettings], pipeline: Pipeline, raws: Sequence[Raw], seen: Seen
) -> gating.Looked:
    """Put what was computed on both sides beside each other."""
    tolerance, wanted = subject.settings.tolerance, pipeline.features.FEATURES
    columns = subject.declared.columns
    matrix = np.concatenate([pipeline.matrix(raw) for raw in raws])[: len(seen.served)]
    ours = np.asarray(pipeline.score.score(pipeline.session, matrix)).reshape(len(matrix), -1)
    if ours.shape[1] != len(columns):
        raise NoData(
            f"score.py gives {ours.shape[1]} numbers a row, and params.yaml declares {len(columns)}",
            "Correct `prediction` of the model, or its score.py.",
        )
    named = parity.names(seen.served, wanted)
    kept = [i for i, one in enumerate(seen.served) if set(one.features) == set(wanted)]
    served = [seen.served[i] for i in kept]
    skews = parity.skews(wanted, matrix[kept].tolist(), served, tolerance) if kept else []
    rows = [one.row for one in served]
    findings = [
        contract.who(seen.answers, subject.release),
        *same_model(subject),
        *seen.findings,
        parity.unanswered(seen.served),
        named,
        *parity.feature_findings(skews),
        *(
            parity.predictions(
                called("predictions", subject.declared, column),
                ours[kept, place].tolist(),
                [one.predictions[column] for one in served],
                rows,
                tolerance,
            )
            for place, column in enumerate(columns)
        ),
        *saved(subject, raws[0], seen.served),
    ]
    measurements = {"rows": len(seen.served), "compared": len(kept), "features": len(wanted)}
    return gating.Looked(findings, measurements, tables=(parity.table(skews),) if skews else ())


GATE = gating.Gate(
    "parity",
    ParitySettings,
    look,
    needs="endpoint",
    inputs="The staging endpoint, the holdout and the live stream, the model, and predictions.parquet.",
    fix="Compute every feature in models/<package>/features.py, and let the service and training import it.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
