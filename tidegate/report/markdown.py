"""Pages as Markdown that GitHub renders by itself: tables, `<details>`, mermaid charts; nothing hosted.

Everything from data is escaped: it can't end a cell, start HTML, mention a person or link anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tidegate.core.verdict import Verdict
from tidegate.files import write_atomic
from tidegate.report import mermaid
from tidegate.report.document import Report, to_json
from tidegate.report.page import (
    Block,
    Code,
    Fold,
    Grid,
    Link,
    Page,
    Plot,
    Section,
    Shown,
    Strong,
    Verbatim,
    Words,
    one,
    visible,
)

LIMIT = 64_000  # characters; GitHub takes 65,536, and the forge's own marker needs a few
MOST_IN_CELL = 400
MOST_NOTE = 700  # characters kept free to say what is left out
MARKS = {
    Verdict.NOT_APPLICABLE: "➖",
    Verdict.PASS: "✅",
    Verdict.INCONCLUSIVE: "🟡",
    Verdict.ERROR: "⚠️",
    Verdict.FAIL: "❌",
}


def length(text: str) -> int:
    """Return a text's length as GitHub may count it: in UTF-16 units, so never fewer than characters."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def to_markdown(report: Report, title: str = "") -> str:
    """Return one report as Markdown: verdict first, then the findings, then what it shows."""
    return draw(one(report, title))


def write(report: Report, folder: Path) -> Path:
    """Write `<gate>.md`, then `<gate>.json`, each whole or not at all; returns the JSON's path."""
    write_atomic(folder / f"{report.gate}.md", to_markdown(report))
    path = folder / f"{report.gate}.json"
    write_atomic(path, to_json(report))
    return path


# ---------------------------------------------------------------- fitting
@dataclass(frozen=True)
class _Piece:
    """A part of the drawing that can be left out as a whole; a low rank is kept longest."""

    text: str
    rank: tuple[int, int]
    name: str


def draw(page: Page, limit: int = LIMIT) -> str:
    """Return a page as Markdown of at most `limit` characters.

    What does not fit is left out from the least important end: folded details before what is open, later
    sections before earlier ones. The text says what is missing. The verdict's line always stays.
    """
    head = _words(page.line)
    pieces = [piece for place, section in enumerate(page.sections) for piece in _pieces(section, place)]
    kept = sorted(pieces, key=lambda piece: piece.rank)
    left: list[_Piece] = []
    total = length(head) + sum(length(piece.text) + 2 for piece in pieces) + 1
    while total > limit and kept:
        total += MOST_NOTE * (not left) - length(kept[-1].text) - 2
        left.append(kept.pop())
    ranks = {piece.rank for piece in kept}
    text = _join(head, [piece for piece in pieces if piece.rank in ranks], left)
    return text if length(text) <= limit else _hard(head, limit)


def _join(head: str, pieces: Sequence[_Piece], left: Sequence[_Piece]) -> str:
    parts = [head, *(piece.text for piece in pieces)]
    if left:
        names = list(dict.fromkeys(piece.name for piece in reversed(left)))
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        parts.append(f"✂️ Left out for want of room: {text(shown)}. The whole page is report.html.")
    return "\n\n".join(parts) + "\n"


def _hard(head: str, limit: int) -> str:
    note = "\n\n✂️ Left out for want of room: all but this line.\n"
    cut = head.encode("utf-16-le", "surrogatepass")[: 2 * max(0, limit - length(note))]
    return cut.decode("utf-16-le", "ignore") + note


def _pieces(section: Section, place: int) -> list[_Piece]:
    """Return a section's pieces: what is open with its heading, and each fold and chart after it."""
    name = section.title or "details"
    heading = [f"### {text(section.title)}"] if section.title else []
    lines = [*heading]
    found: list[_Piece] = []
    for number, block in enumerate(section.blocks):
        if isinstance(block, Fold | Plot):
            rank = 1 if isinstance(block, Plot) else 2
            label = f"{name}: {block.title if isinstance(block, Fold) else block.chart.title}"
            found.append(_Piece(_block(block), (rank, place * 1000 + number), label))
        else:
            lines.append(_block(block))
    made = [f"<sub>{_words(section.made)}</sub>"] if section.made else []
    opening = _Piece("\n\n".join([*lines, *made]), (0, place), name)
    return [opening, *found] if lines or made else found


# ---------------------------------------------------------------- drawing
def _block(block: Block) -> str:
    if isinstance(block, Words):
        return _words(block)
    if isinstance(block, Grid):
        return _grid(block)
    if isinstance(block, Plot):
        return mermaid.fenced(block.chart) or f"{text(block.chart.title)}: there are no numbers to draw."
    if isinstance(block, Verbatim):
        return _fence(block.text)
    inner = "\n\n".join(_block(each) for each in block.blocks)
    return f"<details><summary>{text(block.title)}</summary>\n\n{inner}\n\n</details>"


def _words(words: Words) -> str:
    return "".join(_shown(part) for part in words.parts)


def _shown(part: Shown) -> str:
    if isinstance(part, Verdict):
        return f"**{MARKS[part]} {part.words}**"
    if isinstance(part, Strong):
        return f"**{text(part.text)}**" if part.text.strip() else ""
    if isinstance(part, Code):
        return code(part.text)
    if isinstance(part, Link):
        return f"[{text(part.text)}]({part.address})"
    lead, tail = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    return f"{' ' * bool(lead)}{text(part)}{' ' * bool(tail)}" if part.strip() else " "


def _grid(grid: Grid) -> str:
    columns = [text(column) for column in grid.columns]
    rule = ["---:" if place in grid.right else "---" for place in range(len(columns))]
    rows = [columns, rule, *([_cell(cell) for cell in row] for row in grid.rows)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"**{text(grid.caption)}**\n\n{table}" if grid.caption else table


def _cell(cell: Shown) -> str:
    if isinstance(cell, Verdict):
        return f"{MARKS[cell]} {cell.words}"
    return _shown(cell).strip() or " "


def _fence(raw: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", raw)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}json\n{visible(raw, keep_lines=True)}\n{ticks}"


# ---------------------------------------------------------------- escaping
_GAP = "\u200b"  # shows as nothing, and keeps two characters from meaning something together


def text(raw: str) -> str:
    """Escape a text from data for a paragraph or a cell: it shows as it is, on one line, and does nothing."""
    flat = visible(raw)
    if len(flat) > MOST_IN_CELL:
        flat = f"{flat[:MOST_IN_CELL]}…"
    flat = re.sub(r"([\\`*\[\]|$~])", r"\\\1", flat)
    flat = re.sub(r"&(?=[#\w])", "&amp;", flat)
    flat = re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", flat)
    flat = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", flat)
    flat = re.sub(r"@(?=\w)|#(?=\d)|(?<=[GHgh]-)(?=\d)|:(?=//)|(?<=www)(?=\.)", rf"\g<0>{_GAP}", flat)
    return re.sub(r"^(?=>|([#+-]|\d+[.)])(\s|$))", _GAP, flat)


def code(raw: str) -> str:
    """Return a text as a span of code that may stand in a cell."""
    flat = visible(raw)[:MOST_IN_CELL]
    longest = max((len(run) for run in re.findall(r"`+", flat)), default=0)
    ticks = "`" * (longest + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{ticks}{pad}{flat}{pad}{ticks}".replace("|", "\\|") if flat else "–"
