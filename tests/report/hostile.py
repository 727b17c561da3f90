"""Reports with anything in them: what data, names and errors may hold."""

from __future__ import annotations

from hypothesis import strategies as st

from tidegate import report
from tidegate.core.changes import Changes, Commit, Data, Dependency, File, Parameter
from tidegate.core.exhibits import Chart, Comparison, Series, Table
from tidegate.core.verdict import Finding, Verdict
from tidegate.report.page import Material, Rollout

NASTY = (
    *("<script>alert(1)</script>", "</details>", "| a | b |", "`tick`", "```", "@someone", "#12", "GH-7"),
    *("http://example.org/x", "www.example.org", "[a](http://b.example)", "![x](http://b.example/i.png)"),
    *("</svg><img src=x onerror=y>", "\u202eevil", "\x00\x1b[31m", "%%{init: {}}%%", 'a"] --> 1', "$x$", "$"),
    *(
        "<!-- -->",
        "&lt;b&gt;",
        "\n\n# heading\n",
        "1. one",
        "_x_",
        "**b**",
        "~~s~~",
        "\\",
        "\ud800",
        "🟦" * 9,
    ),
)
texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=20), st.text("ab |`<>@", max_size=6))
numbers = st.one_of(st.none(), st.floats(allow_nan=False), st.sampled_from([0.0, 1e-9, -1e-9, 1e300, 0.5]))
cells = st.one_of(texts, numbers)
verdicts = st.sampled_from(list(Verdict))
findings = st.builds(Finding, texts, verdicts, cells, cells, texts)


@st.composite
def series(draw: st.DrawFn) -> Series:
    """A series whose places and numbers are of one length."""
    size = draw(st.integers(0, 6))
    xs = draw(st.lists(st.one_of(numbers, cells), min_size=size, max_size=size))
    return Series(draw(texts), tuple(xs), tuple(draw(st.lists(numbers, min_size=size, max_size=size))))


charts = st.builds(
    Chart, texts, st.sampled_from(["line", "bar"]), st.lists(series(), max_size=3).map(tuple), texts, texts
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """A table whose rows have a cell for each column."""
    width = draw(st.integers(1, 4))
    row = st.lists(cells, min_size=width, max_size=width).map(tuple)
    columns = draw(st.lists(texts, min_size=width, max_size=width))
    return Table(draw(texts), tuple(columns), tuple(draw(st.lists(row, max_size=6))))


words = st.sampled_from(["better", "no worse", "worse", "cannot tell"])
comparisons = st.builds(
    Comparison,
    *(texts, words, numbers, numbers, numbers, numbers, numbers, st.booleans()),
    scale=st.sampled_from(["difference", "ratio"]),
    unit=texts,
)
sources = st.builds(report.Source, command=texts, release=texts, against=texts)
reports = st.builds(
    report.Report,
    texts.map(lambda text: text or "gate"),
    texts,
    st.lists(findings, max_size=6).map(tuple),
    st.dictionaries(texts, cells, max_size=5),
    st.lists(comparisons, max_size=5).map(tuple),
    st.lists(charts, max_size=3).map(tuple),
    st.lists(tables(), max_size=3).map(tuple),
    sources,
)
changes = st.builds(
    Changes,
    *(texts, texts, texts),
    st.lists(st.builds(Parameter, texts, texts, texts), max_size=6).map(tuple),
    st.lists(st.builds(Data, texts, texts, texts, st.integers(0), st.none()), max_size=5).map(tuple),
    st.lists(st.builds(File, texts, st.integers(0), st.none()), max_size=6).map(tuple),
    st.lists(st.builds(Commit, texts, texts), max_size=6).map(tuple),
    st.lists(st.builds(Dependency, texts, texts, texts), max_size=6).map(tuple),
    st.lists(texts, max_size=3).map(tuple),
)
told = st.dictionaries(st.sampled_from(["name", "verdict", "reason", "observed", "limit"]), cells)
rollouts = st.builds(Rollout, texts, texts, st.lists(told, max_size=5))
materials = st.builds(
    Material,
    texts,
    st.lists(reports, max_size=3),
    release=texts,
    lead=texts,
    facts=st.lists(st.tuples(texts, texts), max_size=4),
    rollouts=st.lists(rollouts, max_size=3),
    changes=st.one_of(st.none(), changes),
    pending=st.dictionaries(texts, texts, max_size=3),
)
