"""Pages as one HTML file that needs nothing else: style, plots and all in it, no script, no request.

Elements are built by `element`, which escapes whatever is not an element itself.
"""

from __future__ import annotations

import html as std
import itertools
from collections.abc import Iterator

from tidegate.core.verdict import Verdict
from tidegate.report import plots
from tidegate.report.markdown import MARKS
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
    Words,
    visible,
)

STYLE = """
:root { color-scheme: light dark;
  --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --back: #fff; --tint: #f6f8fa;
  --good: #1a7f37; --bad: #cf222e; --unsure: #9a6700; --none: #59636e; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --back: #0d1117; --tint: #151b23;
  --good: #3fb950; --bad: #f85149; --unsure: #d29922; --none: #9198a1; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.25rem; line-height: 1.35; font-weight: 400; border-left: .4rem solid; padding: .5rem .8rem;
  margin: .5rem 0 1rem; background: var(--tint); }
h2 { font-size: 1.15rem; margin: 1.8rem 0 .6rem; padding-bottom: .2rem;
  border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .875rem; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
th { background: var(--tint); font-weight: 600; }
td { max-width: 28rem; }
td.short { white-space: nowrap; }
td.long { min-width: 13rem; }
.right { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font: .85em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { background: var(--tint); padding: .1em .3em; border-radius: .25em; }
pre { background: var(--tint); padding: .7rem; overflow-x: auto; }
details { margin: .5rem 0; border: 1px solid var(--line); border-radius: .4rem; padding: .3rem .7rem; }
summary { cursor: pointer; padding: .2rem 0; }
.made { color: var(--soft); font-size: .8rem; margin: .4rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
figure { margin: .5rem 0; max-width: 34rem; }
figcaption { font-weight: 600; font-size: .875rem; margin-bottom: .2rem; }
svg { width: 100%; height: auto; display: block; color: var(--ink); font-family: inherit; }
svg text { font-family: inherit !important; }
h1 > span { color: var(--ink); }
.PASS, .better { color: var(--good); } .FAIL, .ERROR, .worse { color: var(--bad); }
.INCONCLUSIVE, .cannot-tell { color: var(--unsure); } .NOT_APPLICABLE { color: var(--none); }
.verdict { font-weight: 600; white-space: nowrap; }
@media print { details { break-inside: avoid; } body { max-width: none; } }
"""


class Element(str):
    """Markup: what `element` made, and nothing else."""


def element(name: str, *children: str, **attributes: str) -> Element:
    """Return `<name>` around its children; those that are not elements are escaped. `cls` means class."""
    told = "".join(
        f' {key.replace("cls", "class")}="{std.escape(visible(v))}"' for key, v in attributes.items() if v
    )
    return Element(f"<{name}{told}>{join(*children)}</{name}>")


def join(*children: str) -> Element:
    """Return children side by side, escaped unless they are elements."""
    return Element(
        "".join(c if isinstance(c, Element) else std.escape(visible(c, keep_lines=True)) for c in children)
    )


def draw(page: Page) -> str:
    """Return a page as a whole HTML document; the same page gives the same bytes."""
    numbers = itertools.count(1)
    head = element("h1", element("span", *_words(page.line)), cls=str(page.verdict))
    sections = [_section(section, numbers) for section in page.sections]
    style = Element(f"<style>{STYLE}</style>")
    title = element("title", page.title)
    top = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    )
    body = element("main", head, *sections)
    return f"{top}{title}{style}</head>\n<body>\n{body}\n</body></html>\n"


def _section(section: Section, numbers: Iterator[int]) -> Element:
    parts: list[Element] = []
    for plotted, group in itertools.groupby(section.blocks, key=lambda block: isinstance(block, Plot)):
        drawn = [_block(block, numbers) for block in group]
        parts += [element("div", *drawn, cls="plots")] if plotted else drawn
    heading = [element("h2", section.title)] if section.title else []
    made = [element("p", *_words(section.made), cls="made")] if section.made else []
    return element("section", *heading, *parts, *made)


def _block(block: Block, numbers: Iterator[int]) -> Element:
    if isinstance(block, Words):
        return element("p", *_words(block))
    if isinstance(block, Grid):
        return _grid(block)
    if isinstance(block, Plot):
        caption = element("figcaption", block.chart.title)
        drawn = plots.svg(block.chart, next(numbers))
        inner = Element(drawn) if drawn else element("p", "There are no numbers to draw.")
        return element("figure", caption, inner)
    if isinstance(block, Fold):
        inner_blocks = [_block(each, numbers) for each in block.blocks]
        return element("details", element("summary", block.title), *inner_blocks)
    return element("pre", block.text)


def _grid(grid: Grid) -> Element:
    caption = [element("caption", grid.caption)] if grid.caption else []
    head = [element("th", c, scope="col", cls=_class(grid, p)) for p, c in enumerate(grid.columns)]
    top = [element("thead", element("tr", *head))] if any(grid.columns) else []
    rows = [
        element("tr", *(element("td", _shown(cell), cls=_class(grid, p, cell)) for p, cell in enumerate(row)))
        for row in grid.rows
    ]
    return element(
        "div", element("table", *caption, *top, element("tbody", *rows)), cls="scroll", tabindex="0"
    )


def _class(grid: Grid, place: int, cell: Shown = "") -> str:
    if place in grid.right:
        return "right"
    shown = cell.text if isinstance(cell, Code | Strong | Link) else cell
    return "long" if len(shown) > 32 else "short" if len(shown) < 16 else ""


def _words(words: Words) -> list[str]:
    return [_shown(part) for part in words.parts]


def _shown(part: Shown) -> str:
    if isinstance(part, Verdict):
        return element("span", f"{MARKS[part]} {part.words}", cls=f"verdict {part}")
    if isinstance(part, Strong):
        word = part.text.replace(" ", "-") if part.text in ("better", "worse", "cannot tell") else ""
        return element("strong", part.text, cls=word)
    if isinstance(part, Code):
        return element("code", part.text) if part.text else "–"
    return part.text if isinstance(part, Link) else part
