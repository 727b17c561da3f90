"""Does the service compute what the pipeline does: the same features and predictions of the same raw rows?

Rows of the holdout and of the live stream, rows in which each optional field is missing, rows at the ends of
what is allowed and rows drawn from the published schema go to the staging endpoint, and through the pipeline:
`models/<package>/features.py` and the exported model. Features, by name, and predictions must be the same
within `tolerance`; the predictions that the evaluation saved must be, too.
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

from tidegate import frames, gating
from tidegate.adapters import hypothesis
from tidegate.core import contract, gate, mutations, openapi, parity
from tidegate.core.contract import Answer
from tidegate.core.parity import Served
from tidegate.core.verdict import Finding
from tidegate.endpoint import FEATURES, PREDICT, Endpoint, Silent
from tidegate.errors import NoData
from tidegate.files import digest_folder

HOLDOUT = "holdout"
Count = Annotated[int, msgspec.Meta(ge=1)]


class ParitySettings(gating.Settings, frozen=True):
    """The `parity` section. `prediction` is the field of an answer, and the column of predictions.parquet."""

    rows: Mapping[str, Count]  # of each split, drawn by seed
    drawn: Count  # requests drawn from the published schema
    seed: Annotated[int, msgspec.Meta(ge=0)]
    tolerance: Annotated[float, msgspec.Meta(ge=0)]
    timeout: Annotated[float, msgspec.Meta(gt=0)]  # seconds for one answer
    prediction: Annotated[str, msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Refuse to leave the holdout out: its saved predictions are compared, too."""
        if HOLDOUT not in self.rows:
            raise ValueError(f"`rows` must name {HOLDOUT}")


@dataclass(frozen=True)
class Raw:
    """Raw rows of one kind: their names, the requests they make, and the pipeline's columns of them."""

    names: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Any]
    places: Sequence[int] = ()  # in the split's file


@dataclass(frozen=True)
class Pipeline:
    """A model's own way from raw rows to predictions, as the checkout has it."""

    features: Any
    score: Any
    vocabulary: Any
    session: Any

    @classmethod
    def of(cls, subject: gating.Subject[ParitySettings]) -> Pipeline:
        """Import the model's package and load the model that it trained."""
        features, score = (
            importlib.import_module(f"models.{subject.package}.{name}") for name in ("features", "score")
        )
        vocabulary = features.load(subject.built("model/features.json"))
        return cls(features, score, vocabulary, score.session(subject.built("model/model.onnx")))

    def matrix(self, raw: Raw) -> np.ndarray[Any, Any]:
        """Return the features of raw rows: float32 [rows, features]."""
        made: np.ndarray[Any, Any] = self.features.compute_columns(raw.columns, self.vocabulary)
        return made

    def of_requests(self, named: Sequence[tuple[str, Mapping[str, Any]]]) -> Raw:
        """Return rows that were made up as requests as raw rows."""
        rows = [row for _, row in named]
        return Raw([name for name, _ in named], rows, self.features.to_columns(rows))


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


def ask_all(endpoint: Endpoint, raws: Sequence[Raw], settings: ParitySettings) -> Seen:
    """Send each row to both paths. Raises NoData when there is no `/features`."""
    seen = Seen()
    try:
        for raw in raws:
            for name, row in zip(raw.names, raw.rows, strict=True):
                body = json.dumps(row).encode()
                features, predicted = endpoint.ask(FEATURES, body), endpoint.ask(PREDICT, body)
                if features.status in (404, 405):
                    raise NoData("the endpoint has no /features", "Package the model again: `dvc repro`.")
                seen.served.append(parity.served(name, features, predicted, settings.prediction))
                seen.answers += [features, predicted]
    except Silent as problem:
        seen.findings.append(contract.silent(str(problem)))
    return seen


def saved(subject: gating.Subject[ParitySettings], holdout: Raw, served: Sequence[Served]) -> Finding:
    """Compare the predictions that the evaluation saved with the service's of the same rows."""
    name, column = "saved predictions", subject.settings.prediction
    frame = frames.read(subject.built("predictions.parquet"))
    if column not in frame or max(holdout.places) >= len(frame):
        return gate.error(name, f"{name}: predictions.parquet has no `{column}` of each row of {HOLDOUT}")
    theirs = frame[column].to_numpy()[list(holdout.places)].tolist()
    mine = [one.prediction for one in served[: len(theirs)]]
    rows = [one.row for one in served[: len(theirs)]]
    return parity.predictions(name, theirs[: len(mine)], mine, rows, subject.settings.tolerance)


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
        raws.append(pipeline.of_requests(list(made_up(schema, known, settings))))
        seen = ask_all(endpoint, raws, settings)
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
    matrix = np.concatenate([pipeline.matrix(raw) for raw in raws])[: len(seen.served)]
    ours = pipeline.score.score(pipeline.session, matrix)
    named = parity.names(seen.served, wanted)
    kept = [i for i, one in enumerate(seen.served) if set(one.features) == set(wanted)]
    served = [seen.served[i] for i in kept]
    skews = parity.skews(wanted, matrix[kept].tolist(), served, tolerance) if kept else []
    theirs, rows = [one.prediction for one in served], [one.row for one in served]
    findings = [
        contract.who(seen.answers, subject.release),
        *same_model(subject),
        *seen.findings,
        parity.unanswered(seen.served),
        named,
        *parity.feature_findings(skews),
        parity.predictions("predictions", ours[kept].tolist(), theirs, rows, tolerance),
        saved(subject, raws[0], seen.served),
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
