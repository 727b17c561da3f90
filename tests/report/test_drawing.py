"""Markdown and HTML of a page: whatever is in it, it fits and does nothing, and both say the same."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.report import hostile
from tidegate import report
from tidegate.core import gate
from tidegate.core.exhibits import Chart, Comparison, Series, Table
from tidegate.core.verdict import Finding, Verdict
from tidegate.report import html, markdown, mermaid, plots
from tidegate.report.page import Material, page

EXAMPLES = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


# ---------------------------------------------------------------- Markdown
@EXAMPLES
@given(hostile.materials, st.sampled_from([300, 2_000, 20_000, markdown.LIMIT]))
def test_markdown_always_fits_and_is_always_the_same(material: Material, limit: int) -> None:
    """However much there is, GitHub takes it; the verdict's line comes first; twice drawn is the same."""
    whole = page(material)
    text = report.draw(whole, limit)
    assert markdown.length(text) <= limit
    assert text.startswith(f"**{markdown.MARKS[whole.verdict]} {whole.verdict.words}**")
    assert text == report.draw(page(material), limit)


def test_a_huge_page_fits_and_keeps_what_decides() -> None:
    """Of hundreds of findings a gate and sixty gates, the verdict, the reason and the worst gate stay."""
    findings = tuple(gate.at_most(f"column {i} | of many", 1, 2) for i in range(200))
    failed = gate.at_least("auc", 0.6, 0.7)
    many = [report.Report(f"gate-{i}", "toy", findings, {"rows": list(range(5000))}) for i in range(60)]
    text = report.draw(page(Material("toy", [*many, report.Report("quality", "toy", (failed,))])))
    assert markdown.length(text) <= markdown.LIMIT
    assert "auc 0.6 < limit 0.7" in text.splitlines()[0]
    assert "| **quality** | ❌ FAIL |" in text
    assert "Left out for want of room" in text


@EXAMPLES
@given(hostile.materials)
def test_nothing_from_data_is_markup(material: Material) -> None:
    """No tag but our own, no mention, no link, no image, no reference: data shows as it is."""
    text = report.draw(page(material))
    outside = re.sub(r"(?s)^(`{3,})[a-z]*\n.*?^\1$", "", text, flags=re.M)
    outside = re.sub(r"(?<![\\`])(`+)(?!`)(?:.*?)(?<!`)\1(?!`)", "", outside)
    tags = set(re.findall(r"(?<!\\)<[a-zA-Z/!?][^>]*>?", outside))
    assert tags <= {"<details>", "</details>", "<summary>", "</summary>", "<sub>", "</sub>"}
    assert outside.count("<details>") == outside.count("</details>")
    assert not re.search(r"@\w|(?<!&)#\d|://|www\.", outside)
    assert not re.search(r"(?<!\\)\]\(", outside)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)


@EXAMPLES
@given(hostile.materials)
def test_every_row_has_the_columns_of_its_table(material: Material) -> None:
    """No text ends its cell: each row of a table has as many cells as the head."""
    width = 0
    for line in report.draw(page(material)).splitlines():
        cells = len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) if line.startswith("|") else 0
        if cells and width:
            assert cells == width, line
        width = cells


# ---------------------------------------------------------------- mermaid
_CHART = re.compile(
    r"```mermaid\n---\nconfig: [^\n]*\n---\nxychart-beta( horizontal)?\n"
    r'  title "[^"\n]+"\n  x-axis (\["[^"\n]*"(, "[^"\n]*")*\]|-?[\d.]+ --> -?[\d.]+)\n'
    r"  y-axis -?[\d.]+ --> -?[\d.]+\n(  (bar|line) \[-?[\d.]+(, -?[\d.]+)*\]\n)+```"
)


@EXAMPLES
@given(hostile.charts)
def test_a_chart_is_only_what_mermaid_reads(chart: Chart) -> None:
    """Numbers without exponents, quoted text without quotes, ends that differ: or no chart at all."""
    text = mermaid.fenced(chart)
    if not text:
        return
    block = text[: text.rindex("```") + 3]
    assert _CHART.fullmatch(block), block
    low, high = map(float, re.findall(r"y-axis (-?[\d.]+) --> (-?[\d.]+)", block)[0])
    rows = [[float(n) for n in row.split(", ")] for row in re.findall(r"(?:bar|line) \[(.*)\]", block)]
    assert low < high
    assert len({len(row) for row in rows}) == 1
    slack = 1e-6 * max(abs(low), abs(high))
    assert all(low - slack <= number <= high + slack for row in rows for number in row)


def test_bars_of_two_series_take_turns() -> None:
    """mermaid draws bars of several series over each other, so each has places of its own."""
    both = (Series("a", ("x", "y"), (1.0, 2.0)), Series("b", ("x", "y"), (3.0, 4.0)))
    text = mermaid.fenced(Chart("two", "bar", both))
    assert "bar [1, 0, 2, 0]" in text
    assert "bar [0, 3, 0, 4]" in text
    assert '["x", " ", "y", "  "]' in text
    assert "🟦 a · 🟧 b" in text


def test_a_line_over_uneven_numbers_is_resampled() -> None:
    """mermaid sets points evenly: what lies between two of ours is on the line between them."""
    line = Series("a", (0.0, 1.0, 10.0), (0.0, 10.0, 100.0))
    text = mermaid.fenced(Chart("uneven", "line", (line,)))
    assert "0 --> 10\n" in text
    row = [float(n) for n in text.split("line [")[1].split("]")[0].split(", ")]
    assert row == pytest.approx([100 * i / (len(row) - 1) for i in range(len(row))], abs=1e-4)
    even = mermaid.fenced(Chart("even", "line", (Series("a", (0.0, 1.0, 2.0), (0.0, 5.0, 1.0)),)))
    assert "line [0, 5, 1]" in even


def test_what_has_no_number_is_a_gap_that_is_told() -> None:
    """A missing number is never drawn as 0."""
    bars = Series("a", ("x", "y", "z"), (1.0, None, 2.0))
    text = mermaid.fenced(Chart("gap", "bar", (bars,)))
    assert "bar [1, 2]" in text
    assert "1 places are not drawn here" in text
    assert mermaid.fenced(Chart("none", "bar", (Series("a", ("x",), (None,)),))) == ""


# ---------------------------------------------------------------- HTML
class _Seen(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


_OURS = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "p", "span", "strong"),
    *("code", "pre", "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary"),
    *("figure", "figcaption", "svg", "desc", "defs", "g", "path", "use", "text", "clippath", "rect", "tspan"),
}


@settings(parent=EXAMPLES, max_examples=5)
@given(hostile.materials)
def test_html_is_whole_and_asks_for_nothing(material: Material) -> None:
    """No script, no address outside the file, every element closed, whatever the reports hold."""
    text = html.draw(page(material))
    seen = _Seen(text)
    assert seen.open == []
    assert {tag for tag, _ in seen.tags} <= _OURS
    for tag, attributes in seen.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                assert (value or "").startswith("#"), (tag, name, value)
    style = "".join(re.findall(r"(?s)<style.*?</style>", text))
    assert "url(" not in style.replace("url(#", "")
    assert "@import" not in text


def shown() -> Material:
    """A page with everything that may be on it."""
    compared = (
        Comparison("auc", "worse", 0.6, 0.7, -0.12, -0.08, 0.005, True),
        Comparison("p99", "no worse", 11.0, 10.0, 1.05, 1.15, 0.2, False, "ratio", unit="ms"),
        Comparison("loss", "cannot tell", 0.5, None, None, None, None, False),
    )
    lines = Chart("ROC", "line", (Series("candidate", (0.0, 0.5, 1.0), (0.0, 0.8, 1.0)),), "fpr", "tpr")
    bars = Chart(
        "Drift", "bar", (Series("distance", ("carrier", "dest"), (0.1, None)),), "column", "distance"
    )
    table = Table(
        "Worst slices", ("slice", "rows", "AUC"), (("carrier=UA | x", 1200.0, 0.61), ("–", None, None))
    )
    finding = Finding("auc", Verdict.FAIL, 0.6, 0.7, "auc 0.6 < limit 0.7")
    source = report.Source(command="tidegate gate run quality toy", against="aaaabbbbcccc")
    quality = report.Report("quality", "toy", (finding,), {}, compared, (lines, bars), (table,), source)
    return Material(
        "toy", [quality], release="ddddeeeeffff", files={"quality": "build/toy/gates/quality.json"}
    )


def test_both_drawings_show_the_same_numbers_in_the_same_order() -> None:
    """Every cell of the page is in the Markdown and in the HTML, in one order."""
    seen = " ".join("".join(_Seen(html.draw(page(shown()))).text).split())
    text = re.sub(r"\\([|\[\]*`$~\\])", r"\1", report.draw(page(shown())))
    cells = [
        "0.6",
        "0.7",
        "-0.1 (-0.12 to -0.08)",
        "≥ -0.005",
        "11 ms",
        "×1.100 (×1.050 to ×1.150)",
        "≤ ×1.200",
    ]
    cells += [
        "carrier=UA | x",
        "1,200",
        "0.61",
        "tidegate gate run quality toy",
        "build/toy/gates/quality.json",
    ]
    for drawn in (text, seen):
        places = []
        start = drawn.index("Metrics beside")
        for cell in cells:
            start = drawn.index(cell, start)
            places.append(start)
        assert places == sorted(places)
    for word in ("worse", "no worse", "cannot tell"):
        assert f"**{word}**" in text


def test_html_is_readable_on_a_phone_in_light_and_dark() -> None:
    """It takes the screen's width, its tables scroll within it, and its colours follow the reader's."""
    text = html.draw(page(shown()))
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert text.count("<table") == text.count('<div class="scroll" tabindex="0"><table')
    assert "prefers-color-scheme: dark" in text
    assert "color-scheme: light dark" in text


def test_a_plot_says_what_it_shows_and_takes_the_pages_colour() -> None:
    """Each plot has a name and a description for who can't see it; its ink is the page's."""
    seen = _Seen(html.draw(page(shown())))
    plotted = [attributes for tag, attributes in seen.tags if tag == "svg"]
    ids = [
        attributes["id"] for tag, attributes in seen.tags if tag in ("title", "desc") and "id" in attributes
    ]
    assert len(plotted) == 2
    for attributes in plotted:
        assert attributes["role"] == "img"
        assert all(name in ids for name in str(attributes["aria-labelledby"]).split())
    assert "distance: 1 values from 0.1 to 0.1" in "".join(seen.text)
    drawn = plots.svg(shown().reports[0].charts[0], 1)
    assert plots.INK not in drawn
    assert "currentColor" in drawn


def test_html_is_the_same_each_time() -> None:
    """No date and no random id: the same page gives the same bytes."""
    assert html.draw(page(shown())) == html.draw(page(shown()))


@pytest.mark.parametrize("made", [plots.svg, lambda chart, _: mermaid.fenced(chart)])
@pytest.mark.parametrize("kind", ["line", "bar"])
@pytest.mark.parametrize(
    "row", [(), ((), ()), (("a",), (1e300,)), ((0.0, 0.0), (1.0, 1.0)), ((None, "x", 3.0), (1.0, 2.0, 0.0))]
)
def test_odd_charts_do_no_harm(made: Any, kind: Any, row: Any) -> None:
    """Nothing to draw, one point, huge numbers, mixed places: a drawing or none, never an error."""
    series = (Series("a", *row),) if row else ()
    assert isinstance(made(Chart("odd", kind, series), 1), str)
