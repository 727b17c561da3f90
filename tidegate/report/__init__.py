"""Findings and measurements → JSON, Markdown and HTML; for gates, promotions and rollbacks alike.

`document` is what a report is and how it is read and written, `markdown` what a person reads of it.
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
from tidegate.report.markdown import combine, rollout_section, to_markdown, write

__all__ = [
    "MAX_BYTES",
    "SCHEMA",
    "Report",
    "Source",
    "broken",
    "combine",
    "current",
    "read_folder",
    "read_report",
    "rollout_section",
    "schema",
    "to_json",
    "to_markdown",
    "with_missing",
    "write",
]
