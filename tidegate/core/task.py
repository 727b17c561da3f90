"""What a model's answers are: the declaration that everything else is chosen by, metrics above all.

Nothing else in this package knows what a model is for. A classification with one `prediction` answers with
the probability that the label is 1; with several, with one probability each, in columns that are called as
the labels are. A regression answers with a number in the label's unit. A ranking answers with a score that
orders the rows of one `group`, the best first; its label says how good a row is, from 0.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

Task = Literal["classification", "regression", "ranking"]
TASKS: tuple[str, ...] = get_args(Task)
Name = Annotated[str, msgspec.Meta(min_length=1)]


class Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What params.yaml says of a model: its task, the label's column, and where predictions are.

    `prediction` names columns of predictions.parquet and fields of an answer, both; `group` is a
    ranking's column of what is ranked together.
    """

    task: Task
    label: Name
    prediction: Name | tuple[Name, ...]
    group: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for what can't be meant."""
        names = self.columns
        if len(set(names)) != len(names):
            raise ValueError(f"`prediction` names a column twice: {', '.join(names)}")
        if not isinstance(self.prediction, str):
            if self.task != "classification":
                raise ValueError(f"a {self.task} has one `prediction`, not a list")
            if len(names) < 2:
                raise ValueError("`prediction` lists one class or none; name the probability, or list all")
        if (self.task == "ranking") != bool(self.group):
            raise ValueError("`group` names the column of what is ranked together: a ranking's, and only its")
        if self.label in names:
            raise ValueError(f"`{self.label}` is both the label and a prediction")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the predictions, in order."""
        return (self.prediction,) if isinstance(self.prediction, str) else tuple(self.prediction)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of a classification into several classes; empty for every other model."""
        return () if isinstance(self.prediction, str) else tuple(self.prediction)
