"""What the demo shows of sentiment: an edit that looks right and is not, its correction, and who asks.

`tidegate demo --model sentiment` reads `SHOW`, and runs `python -m models.sentiment.demo FILE` for what is
asked.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from tidegate.demo.changes import Change, Edit, Show

SERVICE = "services/sentiment/service.py"
ROWS, SEED = 4000, 7
LONGEST = 990  # characters; the stars come to it
RATED = 2  # every second text; the corpus is older than the stars, so that no gate knows of them
STARS = {"negative": (0, 1), "neutral": (3,), "positive": (4, 5)}  # of a text that sounds like this

# The form where texts are written has stars from one to five. Its oldest version lets people give none.
BAD = (
    Edit(
        SERVICE, "from collections.abc import Mapping\n", "import re\nfrom collections.abc import Mapping\n"
    ),
    Edit(
        SERVICE,
        'ALONE = "int8"  #',
        '# How many stars somebody gives who writes "4/5".\n'
        'STARS = re.compile(r"\\b([0-9])/5\\b")\n'
        'ALONE = "int8"  #',
    ),
    Edit(
        SERVICE,
        '        self.tokenizer = features.load(folder / "features.json")\n',
        '        self.tokenizer = features.load(folder / "features.json")\n'
        "        self.rated = dict.fromkeys(range(1, 6), 0)\n",
    ),
    Edit(
        SERVICE,
        "        return features.compute([msgspec.to_builtins(text)], self.tokenizer)\n",
        "        for stars in STARS.findall(text.text):\n"
        "            self.rated[int(stars)] += 1\n"
        "        return features.compute([msgspec.to_builtins(text)], self.tokenizer)\n",
    ),
)
GOOD = (Edit(SERVICE, "dict.fromkeys(range(1, 6), 0)", "dict.fromkeys(range(6), 0)"),)

SHOW = Show(
    opening=Change("Start afresh", ()),
    bad=Change("Count how many stars writers give", BAD),
    good=Change("Count those who give no star too", GOOD),
    asked="writers send real tweets and reviews, every second with stars,",
    rate=40,
)


def main(destination: Path) -> None:
    """Write a seeded sample of the corpus as a client would send it, every second text with stars."""
    import pandas as pd

    from models.sentiment.prepare import LABEL, rows_of, source

    raw = pd.read_csv(source(), encoding="latin-1", keep_default_na=False)
    rows = rows_of(raw, 0.5)
    texts = rows[rows["text"].str.len() < LONGEST].sample(ROWS, random_state=SEED)
    choose = random.Random(SEED)  # noqa: S311 - who gives which stars is no secret
    with destination.open("w") as out:
        for number, (text, label) in enumerate(zip(texts["text"], texts[LABEL], strict=True)):
            if number % RATED == 0:
                text = f"{text} {choose.choice(STARS[label])}/5"
            out.write(json.dumps({"text": text}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
