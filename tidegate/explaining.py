"""What each feature added to one prediction: exactly, by the trees beside the model, else by asking it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tidegate.core.shapley import PASSES, SEED, Explained, Share, sampled
from tidegate.errors import NoData

MODEL = "model.onnx"
NEAR = 1e-4  # two numbers of one prediction: trees add in float64, the served model in float32
FEWEST = 10  # rows to compare with; fewer would be an accident's explanation
Named = Mapping[str, float | None]  # features by name; None is missing


def explain(
    folder: Path, features: Named, answer: Mapping[str, Any], others: Callable[[], Sequence[Named]]
) -> Explained:
    """Return what each feature added to `answer`, which the model in `folder` gave to `features`.

    `others` returns features of other predictions of this model, to compare with where there are no trees.
    What is explained is compared with the answer: raises NoData where it is another number, or can't be told.
    """
    from tidegate.adapters.lightgbm import Trees

    if not features:
        raise NoData("the prediction's features were not written down", "Explain another prediction.")
    try:
        trees = Trees(folder)
    except NoData:
        return _asked(folder, features, answer, others())
    return _exactly(trees, features, answer)


def _exactly(trees: Any, features: Named, answer: Mapping[str, Any]) -> Explained:
    if set(trees.names) != set(features):
        raise NoData(
            "the features written down are not those of the model's trees", "Explain another prediction."
        )
    *added, base = trees.contributions([[_number(features[name]) for name in trees.names]])[0]
    total = float(base + sum(added))
    of = _field(answer, [total, _probability(total)])
    shares = tuple(Share(name, float(value)) for name, value in zip(trees.names, added, strict=True))
    return Explained(of, trees.unit, "TreeSHAP, exact", float(base), shares)


def _asked(folder: Path, features: Named, answer: Mapping[str, Any], others: Sequence[Named]) -> Explained:
    import numpy as np

    from tidegate.adapters.onnx import asker

    if not (folder / MODEL).is_file():
        raise NoData(f"the model's files hold no {MODEL} and no trees", "Explain it by its own means.")
    names = tuple(features)
    alike = [other for other in others if set(other) == set(features)]
    if len(alike) < FEWEST:
        raise NoData(
            f"{len(alike)} other predictions of this release are written down; comparing takes {FEWEST}",
            "Ask again when it has answered more.",
        )
    ask = asker(folder / MODEL)
    row = [_number(features[name]) for name in names]
    outputs = {name: float(values[0]) for name, values in ask([row]).items()}
    of = _field(answer, list(outputs.values()))
    # The last one: of two classes at 0.5 each, the answer is the second's.
    output = [name for name, value in outputs.items() if _near(value, answer[of])][-1]
    background = np.array([[_number(other[name]) for name in names] for other in alike])
    chosen: Callable[[Any], Any] = lambda rows: ask(rows)[output]  # noqa: E731
    values, errors, base = sampled(chosen, row, background)
    method = f"Shapley values, sampled: {PASSES} orders (seed {SEED}), against {len(alike)} other predictions"
    shares = zip(names, values.tolist(), errors.tolist(), strict=True)
    return Explained(of, of, method, base, tuple(Share(*share) for share in shares))


def _field(answer: Mapping[str, Any], outputs: Sequence[float]) -> str:
    """Return the answer's field that is one of the model's outputs."""
    numbers = [
        (name, value) for kind in (float, int) for name, value in answer.items() if type(value) is kind
    ]
    for name, value in numbers:
        if any(_near(value, output) for output in outputs):
            return name
    raise NoData(
        "the model, asked again with these features, gives none of the answer's numbers",
        "Its service makes something else of them; explain it by its own means.",
    )


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=NEAR, abs_tol=NEAR)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0
