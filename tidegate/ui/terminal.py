"""Planes as a tree for a terminal: no line wraps, and what is too long ends in `…`.

Where the terminal has no Unicode the same tree is drawn in ASCII; without colours every state still has a
mark of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text
from rich.tree import Tree

from tidegate.ui.view import CheckView, LineView, PlaneView, ShareView, StepView, planes
from tidegate.ui.words import join

STYLES = {"good": "green", "bad": "bold red", "warn": "yellow", "live": "cyan", "none": "dim"}
VERDICTS = {
    "PASS": ("✔", "green"),
    "FAIL": ("✘", "bold red"),
    "INCONCLUSIVE": ("…", "yellow"),
    "ERROR": ("?", "bold red"),
}
STEPS = {"done": ("✔", "green"), "now": ("▸", "bold cyan"), "next": ("·", "dim")}
WIDE = 100  # columns from which there is room for the sentence behind a check's numbers
SHOWN_EVENTS = 5
BAR = 8  # columns of a check's way to its threshold
_ASCII = str.maketrans(
    {
        "✔": "+",
        "✘": "x",
        "…": "~",
        "▸": ">",
        "·": "-",
        "█": "#",
        "░": ".",
        "▓": "#",
        "→": ">",
        "–": "-",
        "≤": "<",
    }
)


def render(document: Mapping[str, Any], now: float | None = None) -> RenderableType:
    """Return the tree of a `seen.snapshot` document; `now` (seconds since the epoch) by default is now."""
    return Group(*(_Plane(plane) for plane in planes(document, time.time() if now is None else now)))


class Fitted:
    """A renderable cut to the terminal's height, with a last line that says how much is below."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.inner, options.update(height=None), pad=False)
        height = options.height or console.height
        if len(lines) > height:
            below = (
                f"… {len(lines) - height + 1} more lines: make the terminal higher, or run `tidegate status`"
            )
            note = _row(Text(below, "dim"))
            lines = [
                *lines[: height - 1],
                *console.render_lines(note, options.update(height=None), pad=False),
            ]
        for number, line in enumerate(lines):
            yield from line
            if number + 1 < len(lines):
                yield Segment.line()


class _Plane:
    """One plane, drawn for the width and the letters that there are."""

    def __init__(self, plane: PlaneView) -> None:
        self.plane = plane

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _Drawing(options.max_width, options.ascii_only).plane(self.plane)


class _Drawing:
    """Draws for a width in columns; `plain`: in ASCII only."""

    def __init__(self, width: int, plain: bool) -> None:
        self.width, self.plain = width, plain

    def text(self, *parts: str | tuple[str, str]) -> Text:
        """Return one row that never wraps; parts are text or (text, style), and never markup."""
        row = Text.assemble(*parts, no_wrap=True, overflow="ellipsis", end="")
        if self.plain:
            made = row.plain.translate(_ASCII).encode("ascii", "replace").decode()
            row.plain, row.overflow = made, "crop"
        return row

    def plane(self, plane: PlaneView) -> Tree:
        agent = ("agent runs", "green") if plane.agent else ("agent stopped: tidegate up", "bold red")
        at = f" · Git {plane.commit}" if plane.commit else ""
        tree = Tree(self.text((plane.name, "bold"), " plane · ", *_and(plane.url), agent, at))
        for environment, lines in plane.environments:
            branch = tree.add(self.text((environment, "bold")))
            for line in lines:
                self.line(branch, line)
        for problem in plane.problems:
            tree.add(self.text(("! ", "bold red"), problem))
        if plane.events:
            lately = tree.add(self.text(("lately", "dim")))
            for event in plane.events[-SHOWN_EVENTS:]:
                clock = time.strftime("%H:%M:%S", time.localtime(event.at))
                lately.add(self.text((f"{clock} ", "dim"), event.text))
        return tree

    def line(self, branch: Tree, line: LineView) -> None:
        head = f"  {line.progress}" if line.progress else ""
        node = branch.add(self.text((line.model, "bold"), "  ", (line.phase, STYLES[line.tone]), head))
        if line.steps:
            node.add(self.steps(line.steps))
        room = max((len(share.role) for share in line.shares), default=0)
        for share in line.shares:
            node.add(self.share(share, room, line))
        if line.facts:
            node.add(self.text(join(line.facts)))
        if line.waits:
            node.add(self.text(("waits: ", "bold yellow"), line.waits))
        if line.command:
            node.add(self.text(("→ ", "bold yellow"), (line.command, "bold")))
        if line.reason:
            node.add(self.text((line.reason, "" if line.tone == "bad" else "dim")))
        names = min(22, max((len(check.name) for check in line.checks), default=0))
        rates = min(9, max((len(check.rate) for check in line.checks if check.told), default=0))
        for check in line.checks:
            node.add(self.check(check, names, rates))

    def steps(self, steps: tuple[StepView, ...]) -> Text:
        parts: list[str | tuple[str, str]] = []
        for number, step in enumerate(steps):
            mark, style = STEPS[step.state]
            parts += ["  " if number else "", (f"{mark} {step.text}", style)]
        return self.text(*parts)

    def share(self, share: ShareView, room: int, line: LineView) -> Text:
        most = 12 if any(each.note for each in line.shares) else 30
        bar = max(8, min(most, self.width - room - 46))
        full = round(bar * min(100, share.weight) / 100)
        full = min(bar - 1, max(1, full)) if 0 < share.weight < 100 else full
        style = "blue" if share.role in ("stable", "baseline") else STYLES[line.tone]
        return self.text(
            f"{share.role:<{room}}  ",
            (f"{share.release:<12}  ", ""),
            ("█" * full, style),
            ("░" * (bar - full), "dim"),
            f" {share.weight:>3}%",
            f"  {share.note}" if share.note else "",
        )

    def check(self, check: CheckView, names: int, rates: int) -> Text:
        mark, style = VERDICTS.get(check.verdict, ("?", ""))
        name = check.name if len(check.name) <= names else f"{check.name[: names - 1]}…"
        head = ((f"{mark} ", style), f"{name:<{names}}  ")
        dry = "(dry run) " if check.dry_run else ""
        if not check.told:
            return self.text(*head, (f"{dry}{check.reason or 'nothing is known yet'}", "dim"))
        full = round(BAR * (check.fraction or 0))
        told = check.reason if self.width >= WIDE and check.reason else f"limit {check.limit}"
        return self.text(
            *head,
            f"{check.rate:<{rates}}  ",
            ("▓" * full, "red" if check.against else "yellow"),
            ("░" * (BAR - full), "dim"),
            f" {check.evidence:<9} ",
            (f"{dry}{told}", "dim"),
        )


def _and(text: str) -> tuple[str, ...]:
    return (f"{text} · ",) if text else ()


def _row(text: Text) -> Text:
    text.no_wrap, text.overflow, text.end = True, "ellipsis", ""
    return text
