"""`tidegate status`: documents of what runs → the text that a terminal shows."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tidegate.adapters.sqlite import SqliteState
from tidegate.ports import Event
from tidegate.ui.terminal import Fitted, render
from tidegate.ui.view import planes
from tidegate.ui.words import duration, short

NOW = 1_700_000_000.0
WIDTHS = (60, 80, 140)


def finding(
    name: str, verdict: str, observed: str, limit: str, log_evidence: float, **more: Any
) -> dict[str, Any]:
    """A check as `analysis.CheckResult.as_dict` says it."""
    return {
        "name": name,
        "verdict": verdict,
        "observed_text": observed,
        "limit_text": limit,
        "log_evidence": log_evidence,
        "threshold": 400.0,
        "reason": f"{name}: {observed} where {limit} is the limit, and more words than fit a terminal",
        "dry_run": False,
        "applicable": True,
        "against": log_evidence > 1.1,
        **more,
    }


CANARY = {
    "release": "3f9c02a7b51e",
    "phase": "Progressing",
    "weight": 25,
    "reason": "pause 108 of 300 s",
    "step": 1,
    "seen": 812,
    "stable": "88d0417c2a90",
    "strategy": "canary",
    "steps": [{"weight": 5}, {"weight": 25}, {"weight": 50, "manual": True}],
    "pause_until": NOW + 192,
    "deadline": NOW + 3700,
    "alpha": 0.01,
    "findings": [
        finding("errors", "INCONCLUSIVE", "3.1%", "1%", 2.42),
        finding("latency", "PASS", "0.2% over 200 ms", "1% over 200 ms", -3.9),
        finding("drift", "INCONCLUSIVE", "0.01", "0.05", 0.2, dry_run=True),
        finding("latency-vs-stable", "INCONCLUSIVE", "–", "–", 0.0, reason="stable's p99 is not known"),
    ],
}
HEALTHY = {
    "release": "88d0417c2a90",
    "phase": "Healthy",
    "weight": 75,
    "reason": "",
    "step": None,
    "seen": None,
}


def document(canary: Any = None, **plane: Any) -> dict[str, Any]:
    """A plane with one model in canary and production."""
    made = {
        "plane": "production",
        "url": "http://127.0.0.1:8080",
        "commit": "1a2b3c4d5e6f",
        "agent": "running",
        "models": {"flight-delay": {"production": HEALTHY, "canary": CANARY if canary is None else canary}},
        "problems": [],
        "events": [{"at": NOW - 9, "kind": "weight", "text": "canary: weight 5 → 25"}],
    }
    return {"planes": [{**made, **plane}]}


def drawn(found: Any, width: int = 80, **console: Any) -> str:
    """The text on a terminal without colours."""
    out = io.StringIO()
    Console(file=out, width=width, **console).print(render(found, NOW))
    return out.getvalue()


def changed(**changes: Any) -> dict[str, Any]:
    """The document with another canary line."""
    return document({**CANARY, **changes})


# ---------------------------------------------------------------- what is shown
@pytest.mark.parametrize(
    ("found", "rows"),
    [
        pytest.param(
            document(),
            [
                "production plane · http://127.0.0.1:8080 · agent runs · Git 1a2b3c4",
                "flight-delay  Progressing  canary, step 2 of 3",
                "✔ 5%  ▸ 25%  · 50% by hand",
                "candidate  3f9c02a7b51e  ██████░░░░░░░░░░░░░░░░░░░  25%",
                "stable     88d0417c2a90  ███████████████████░░░░░░  75%",
                "pause: 3m 12s left · 812 requests · deadline in 1h 01m · alpha 0.01",
                "… errors             3.1%  ▓▓▓░░░░░ 11/400    limit 1%",
                "✔ latency            0.2%  ░░░░░░░░ 0.02/400  limit 1% over 200 ms",
                "(dry run) limit 0.05",
                "… latency-vs-stable  stable's p99 is not known",
                "canary: weight 5 → 25",
            ],
            id="on its way",
        ),
        pytest.param(
            changed(phase="Paused", waits="approve", reason="50% waits for `tidegate approve`"),
            ["waits: 50% waits for `tidegate approve`", "→ tidegate approve canary flight-delay"],
            id="waits for an approval",
        ),
        pytest.param(
            changed(phase="Paused", waits="resume", reason="x", paused="paused by anna: lunch"),
            ["waits: paused by anna: lunch", "→ tidegate resume canary flight-delay"],
            id="paused by hand",
        ),
        pytest.param(
            changed(strategy="shadow", weight=0, mirror=30, step=0, steps=[{"mirror": 30}, {"weight": 100}]),
            ["▸ mirror 30%  · 100%", "░░░░   0%  copies of 30%", "████ 100%"],
            id="mirrored",
        ),
        pytest.param(
            changed(
                strategy="bandit",
                weight=30,
                arms=[
                    {"release": "bbbbbbbbbbbb", "weight": 20},
                    {"release": "cccccccccccc", "weight": 0, "out": "9%"},
                    {"release": "88d0417c2a90-baseline", "weight": 10},
                ],
            ),
            [
                "arm        bbbbbbbbbbbb  ██░░░░░░░░░░  20%",
                "░░   0%  out: 9%",
                "stable     88d0417c2a90  █████░░░░░░░  40%",
                "baseline   88d0417c2a90-baseline",
            ],
            id="arms",
        ),
        pytest.param(changed(deadline=NOW - 61), ["deadline 1m 01s ago"], id="overdue"),
        pytest.param(
            changed(phase="RolledBack", seen=None, reason="error rate 9% > 1%"),
            ["flight-delay  RolledBack", "error rate 9% > 1%"],
            id="rolled back",
        ),
        pytest.param(
            document(agent="stopped", problems=["origin did not answer"]),
            ["agent stopped: tidegate up", "! origin did not answer"],
            id="problems",
        ),
        pytest.param(
            {"planes": [{"plane": "staging", "agent": "stopped", "models": {}}]},
            ["staging plane · agent stopped: tidegate up"],
            id="never started",
        ),
    ],
)
def test_what_is_shown(found, rows):
    """Releases, bars, legs, what is left of pause and deadline, who is waited for, and each check."""
    text = drawn(found)
    assert [row for row in rows if row not in text] == []


def test_environments_come_in_the_order_of_the_way():
    """The canary stands before production, whatever the document's order."""
    text = drawn(document())
    assert text.index("canary\n") < text.index("production\n", text.index("plane"))


def test_a_wide_terminal_gets_the_whole_sentence():
    """Where there is room a check says its reason, with the counts behind the rate."""
    assert "where 1% is the limit" in drawn(document(), 140)
    assert "where 1% is the limit" not in drawn(document(), 80)


# ---------------------------------------------------------------- how it fits
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_wraps(width):
    """Every row is one line of at most the terminal's width; what is longer ends in `…`."""
    long = changed(reason="x" * 300, release="r" * 50)
    normal = drawn(long, 1000).splitlines()
    text = drawn(long, width).splitlines()
    assert len(text) == len(normal)
    assert max(map(cell_len, text)) <= width
    assert [row for row in text if row.endswith("…")]


HOSTILE = [
    "[bold red]x[/]",
    "a\nb\r\nc",
    "\x1b[31mred\x1b[0m\x07",
    "‮txet",
    "名前" * 60,
    "[/]",
    "\x00",
    "{0}%s",
]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(text, width):
    """Markup, escapes, line ends and reversed text in any place are shown as text, in one line."""
    line = {**CANARY, "release": text, "reason": text, "stable": text, "paused": text, "waits": text}
    line["findings"] = [
        finding(text, "ERROR", "–", text, 0.0, reason=text),
        finding(text, text, text, text, 9.0),
    ]
    found = document(line, problems=[text], url=text, events=[{"at": NOW, "text": text}])
    found["planes"][0]["models"] |= {text: {text: line}}
    rows = drawn(found, width, force_terminal=True, no_color=True).splitlines()
    harmless = drawn(json.loads(json.dumps(found).replace(json.dumps(text)[1:-1], "x")), width).splitlines()
    assert len(rows) <= len(harmless)  # what is nothing but control characters is left out
    assert max(cell_len(_bare(row)) for row in rows) <= width
    assert not [row for row in rows if any(ord(c) < 32 or c in "‮\x7f" for c in _bare(row))]


def _bare(row: str) -> str:
    """A row without the console's own bold and dim."""
    return re.sub(r"\x1b\[[\d;]*m", "", row)


def test_without_colours_every_state_has_its_own_mark():
    """In a pipe or with NO_COLOR nothing but text is written, and verdicts differ by their mark."""
    text = drawn(changed(findings=[finding(v, v, "1%", "1%", 1.0) for v in ("PASS", "FAIL", "INCONCLUSIVE")]))
    assert "\x1b" not in text
    assert [mark in text for mark in ("✔ PASS", "✘ FAIL", "… INCONCLUSIVE")] == [True] * 3


def test_a_terminal_without_unicode_gets_ascii():
    """Where the encoding has no such letters the same rows are drawn in ASCII."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=out, width=80).print(render(document(), NOW))
    out.flush()
    raw = out.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert len(raw.splitlines()) == len(drawn(document()).splitlines())
    assert "+ 5%  > 25%  - 50% by hand" in raw


@pytest.mark.parametrize("height", [3, 10, 100])
def test_a_tree_higher_than_the_terminal_says_what_is_below(height):
    """The followed tree never scrolls: what does not fit is counted in the last line."""
    out = io.StringIO()
    console = Console(file=out, width=80, height=height)
    whole = drawn(document()).splitlines()
    console.print(Fitted(render(document(), NOW)), height=height)
    rows = out.getvalue().splitlines()
    assert len(rows) <= max(height, 1)
    if height < len(whole):
        assert f"{len(whole) - height + 1} more lines" in rows[-1]
    else:
        assert [row.rstrip() for row in rows] == whole


# ---------------------------------------------------------------- reading
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys((*CANARY, "mirror", "arms", "waits", "paused"), json_values)
    ),
    st.fixed_dictionaries({}, optional=dict.fromkeys(finding("", "", "", "", 0.0), json_values)),
    st.sampled_from(["Progressing", "Paused", "Verified", "RollingBack", "nonsense"]),
)
def test_any_document_is_drawn(line, check, phase):
    """A document of another age, with keys missing or of another type, is drawn as far as it is known."""
    line = {"release": "r", "seen": 1, "findings": [check], **line, "phase": phase}
    assert drawn(document(line))


@given(st.floats(min_value=-800, max_value=800), st.floats(min_value=-800, max_value=800))
def test_the_way_to_the_threshold_is_monotone(one, other):
    """More evidence never draws a shorter way; it is full at the threshold and not before."""
    low, high = sorted((one, other))

    def way(log_evidence: float) -> float:
        line = {**CANARY, "findings": [finding("x", "INCONCLUSIVE", "1%", "1%", log_evidence)]}
        fraction = planes(document(line), NOW)[0].lines[0].checks[0].fraction
        assert fraction is not None
        return fraction

    assert 0 <= way(low) <= way(high) <= 1
    assert (way(high) == 1) == (high >= 5.9914645471079817)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-5, "0s"),
        (59.2, "1m 00s"),
        (61, "1m 01s"),
        (3700, "1h 01m"),
        (90000, "1d 1h"),
        (1e300, "11574d 1h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds, text):
    """Time left is short, and never less than it is."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "1"), (2.42, "11"), (11.86, "1.4e5"), (690.0, "1e299"), (-9.0, "<0.01"), (-0.6, "0.55")],
)
def test_evidence_is_told_in_a_few_characters(value, text):
    """From its logarithm, so that no evidence overflows."""
    assert short(value) == text


# ---------------------------------------------------------------- the command
@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose production agent has stored a status."""
    for environment in ("staging", "canary", "production"):
        folder = tmp_path / "envs" / environment
        folder.mkdir(parents=True)
        (folder / "platform.yaml").write_text("plane: production\n" if environment == "canary" else "")
    state = SqliteState(tmp_path / ".tidegate" / "state.db")
    fence = state.acquire("production", "me", NOW, 60)
    stored = document(problems=["x" * 300])["planes"][0]
    del stored["agent"]
    state.save(
        "production", {"status": stored}, [Event(NOW, "production", "m", "r", "weight", "moved")], fence
    )
    state.close()
    return tmp_path


def run(checkout: Path, *options: str) -> str:
    command = [sys.executable, "-m", "tidegate", "status", *options]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_a_pipe_gets_whole_lines(checkout):
    """Into a pipe nothing is cut to a terminal's width, and no colour is written."""
    text = run(checkout)
    assert "x" * 300 in text
    assert "\x1b" not in text
    assert "agent stopped: tidegate up" in text


def test_json_is_the_document(checkout):
    """`--json` prints what the agents stored, whether they run, and the last events."""
    found = json.loads(run(checkout, "--json"))
    production = next(p for p in found["planes"] if p["plane"] == "production")
    assert production["models"]["flight-delay"]["canary"]["weight"] == 25
    assert production["agent"] == "stopped"
    assert production["events"][0]["text"] == "moved"


def test_watching_as_json_prints_a_line_a_change(checkout):
    """`--watch --json` prints one document a line, another only when something changed."""
    command = [sys.executable, "-m", "tidegate", "status", "--watch", "--json"]
    with subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        first = json.loads(process.stdout.readline())
        state = SqliteState(checkout / ".tidegate" / "state.db")
        fence = state.acquire("production", "me", NOW, 60)
        status = {"plane": "production", "models": {}, "problems": ["news"]}
        state.save("production", {"status": status}, [], fence)
        state.close()
        second = json.loads(process.stdout.readline())
        process.terminate()
    assert [p["problems"] for p in first["planes"]][-1] == ["x" * 300]
    assert [p["problems"] for p in second["planes"]][-1] == ["news"]


def test_following_draws_over_and_ends_with_ctrl_c(checkout):
    """On a terminal the picture is drawn over, whole and never cleared; Ctrl-C ends it without a word."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 80, 0, 0))
    # A size in the environment, as another test of this process may have left, would count for more.
    known = {key: value for key, value in os.environ.items() if key not in ("LINES", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tidegate", "status", "--watch"],
        cwd=checkout,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=known | {"TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(follower)
    raw = b""
    try:
        while raw.count(b"\x1b[?2026l") < 3 and select.select([leader], [], [], 30)[0]:
            raw += os.read(leader, 65536)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # the other end is closed
            while more := os.read(leader, 65536):
                raw += more
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    text = raw.decode()
    frames = [part.split("\x1b[?2026l")[0] for part in text.split("\x1b[?2026h")[1:]]
    assert b"\x1b[?1049h" in raw
    assert raw.rindex(b"\x1b[?1049l") > raw.rindex(b"production")
    assert all("\x1b[2J" not in frame and "\x1b[K" not in frame for frame in frames)
    assert [frame for frame in frames[:-1] if frame.count("\n") > 12] == []
    assert "Traceback" not in text
