"""What a model may declare itself to be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tidegate.core.task import Declaration

GOOD: dict[str, Any] = {"task": "classification", "label": "late", "prediction": "probability"}


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"task": "clustering"}, "clustering"),
        ({"prediction": []}, "lists one class"),
        ({"prediction": ["late_p"]}, "lists one class"),
        ({"prediction": ["a", "a"]}, "twice"),
        ({"prediction": ["late", "b"]}, "both the label and a prediction"),
        ({"task": "regression", "prediction": ["a", "b"]}, "has one `prediction`"),
        ({"task": "ranking"}, "`group`"),
        ({"group": "query"}, "`group`"),
        ({"label": ""}, "label"),
        ({"labels": "late"}, "labels"),
    ],
)
def test_what_can_not_be_meant_is_refused(changed: dict[str, Any], wrong: str) -> None:
    """Each wrong declaration raises, and the message names what is wrong."""
    with pytest.raises(msgspec.ValidationError, match=wrong):
        msgspec.convert(GOOD | changed, Declaration)


def test_several_predictions_are_the_classes() -> None:
    """A list of predictions names the classes; one name is a probability of a yes, and there are none."""
    several = msgspec.convert(GOOD | {"prediction": ["bad", "good"]}, Declaration)
    assert (several.columns, several.classes) == (("bad", "good"), ("bad", "good"))
    one = msgspec.convert(GOOD, Declaration)
    assert (one.columns, one.classes) == (("probability",), ())
