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
WIDE = 32  # features up to which all orders are sampled
FEWEST_ORDERS = 20
TOGETHER = 256  # rows asked at once: what a transformer holds of thousands fills a machine
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
    row = [[_number(features[name]) for name in trees.names]]
    *added, base = trees.contributions(row)[0]
    of = _field(answer, [float(trees.answers(row)[0]), float(base + sum(added))])
    shares = tuple(Share(name, float(value)) for name, value in zip(trees.names, added, strict=True))
    return Explained(of, trees.unit or of, "TreeSHAP, exact", float(base), shares)


def _asked(folder: Path, features: Named, answer: Mapping[str, Any], others: Sequence[Named]) -> Explained:
    import numpy as np

    names = tuple(features)
    row = [_number(features[name]) for name in names]
    ask, of, output = _asker(folder, row, answer)
    alike = [other for other in others if set(other) == set(features)]
    if len(alike) < FEWEST:
        raise NoData(
            f"{len(alike)} other predictions of this release are written down; comparing takes {FEWEST}",
            "Ask again when it has answered more.",
        )
    background = np.array([[_number(other[name]) for name in names] for other in alike])

    def chosen(rows: Any) -> Any:
        parts = [ask(rows[at : at + TOGETHER])[output] for at in range(0, len(rows), TOGETHER)]
        return np.concatenate(parts)

    passes = orders(len(names))
    values, errors, base = sampled(chosen, row, background, passes)
    method = f"Shapley values, sampled: {passes} orders (seed {SEED}), against {len(alike)} other predictions"
    shares = zip(names, values.tolist(), errors.tolist(), strict=True)
    return Explained(of, of, method, base, tuple(Share(*share) for share in shares))


def orders(features: int) -> int:
    """Return how many orders are sampled: fewer of many features, each of which makes every order longer.

    And every row, for a model that reads a text token by token: minutes would pass, and gigabytes.
    """
    return max(FEWEST_ORDERS, min(PASSES, PASSES * WIDE**2 // features**2))


def _asker(folder: Path, row: Sequence[float], answer: Mapping[str, Any]) -> tuple[Any, str, str]:
    """Return what asks the model, the answer's field to explain, and the output that it is.

    A model may come in several files, of which a service runs one: the one that gave the answer is taken.
    """
    from tidegate.adapters.onnx import asker

    files = sorted(folder.glob("*.onnx"), key=lambda path: (path.name != MODEL, path.name))
    if not files:
        raise NoData(f"the model's files hold no {MODEL} and no trees", "Explain it by its own means.")
    for path in files:
        ask = asker(path)
        outputs = {name: float(values[0]) for name, values in ask([row]).items()}
        try:
            of = _field(answer, list(outputs.values()))
        except NoData:
            if path is files[-1]:
                raise
            continue
        # The last one: of two classes at 0.5 each, the answer is the second's.
        return ask, of, [name for name, value in outputs.items() if _near(value, answer[of])][-1]
    raise AssertionError("there is a last file")


def _field(answer: Mapping[str, Any], outputs: Sequence[float]) -> str:
    """Return the answer's field that is one of the model's outputs; of several classes, the one it names."""
    numbers = [
        (name, value) for kind in (float, int) for name, value in answer.items() if type(value) is kind
    ]
    found = [name for name, value in numbers if any(_near(value, output) for output in outputs)]
    said = [text for text in answer.values() if isinstance(text, str) and text in found]
    if said or found:
        return (said or found)[0]
    raise NoData(
        "the model, asked again with these features, gives none of the answer's numbers",
        "Its service makes something else of them; explain it by its own means.",
    )


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=NEAR, abs_tol=NEAR)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
