"""Findings and exhibits → JSON, Markdown and HTML; for gates, promotions and rollbacks alike.

`document` is what a report is and how it is read and written, `page` what a person reads of many of them,
`markdown` and `html` draw that, with charts by `mermaid` and `plots`.
"""

from tidegate.report.document import (
    MAX_BYTES,
    SCHEMA,
    Report,
    Source,
    broken,
    current,
    read_folder,
    read_report,
    schema,
    to_json,
    with_missing,
)
from tidegate.report.markdown import draw, to_markdown, write
from tidegate.report.page import Material, Rollout, page

__all__ = [
    "MAX_BYTES",
    "SCHEMA",
    "Material",
    "Report",
    "Rollout",
    "Source",
    "broken",
    "current",
    "draw",
    "page",
    "read_folder",
    "read_report",
    "schema",
    "to_json",
    "to_markdown",
    "with_missing",
    "write",
]
