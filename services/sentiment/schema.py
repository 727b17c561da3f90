"""What a request to sentiment and its answer may say.

A field that is not declared is refused by name. A text is 1 to 1,000 characters, of which the model reads the
first 62 words or parts of words; an empty one says nothing, and a longer one is no tweet or short review.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One text, in English."""

    text: Annotated[
        str, Meta(min_length=1, max_length=1000, description="what was written: 1 to 1,000 characters")
    ]


def _probability(name: str) -> Meta:
    return Meta(ge=0, le=1, description=f"the probability that it is {name}")


class Sentiment(msgspec.Struct, frozen=True, kw_only=True):
    """How a text sounds: the likeliest of three, and how likely each is."""

    sentiment: Annotated[Literal["negative", "neutral", "positive"], Meta(description="the likeliest")]
    negative: Annotated[float, _probability("negative")]
    neutral: Annotated[float, _probability("neutral")]
    positive: Annotated[float, _probability("positive")]
