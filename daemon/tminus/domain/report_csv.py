"""A report as CSV, for spreadsheets: one row for each number."""

import csv
import io
from collections.abc import Iterator
from typing import Any
from unicodedata import normalize

COUNTS = ("sessions", "attended", "noShows", "cancelled")
NUMBERS = ("count", "mean", "p50", "p99", "max")
MEASURES = ("waitingSeconds", "lengthSeconds", "lagMs")


def as_table(report: Any, line_end: str = "\n") -> str:
    """Return the answer of `GET /report` as CSV, with the columns section, key, name, measure and value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end)
    writer.writerow(("section", "key", "name", "measure", "value"))
    for section, key, name, measure, value in _rows(report):
        writer.writerow((section, key, _safe(name), measure, "" if value is None else value))
    return text.getvalue()


def _rows(report: Any) -> Iterator[tuple[str, object, str, str, Any]]:
    yield from (("total", "", "", count, report[count]) for count in COUNTS)
    for row in report["byType"]:
        yield from (("type", row["type"], "", count, row[count]) for count in COUNTS)
    for row in report["byAgent"]:
        yield from (("agent", row["agent"], row["name"] or "", count, row[count]) for count in COUNTS)
    yield from (("reason", row["reason"], "", "sessions", row["sessions"]) for row in report["byReason"])
    yield from (("hour", hour, "", "sessions", number) for hour, number in enumerate(report["byHour"]))
    for key in MEASURES:
        yield from ((key, "", "", name, report[key][name]) for name in NUMBERS)


def _safe(name: str) -> str:
    """Return a name in a form that spreadsheets do not execute as a formula."""
    # Some spreadsheets drop white space at the beginning, and treat the full-width forms of these characters the same.
    return f"'{name}" if normalize("NFKC", name).lstrip().startswith(("=", "+", "-", "@")) else name
