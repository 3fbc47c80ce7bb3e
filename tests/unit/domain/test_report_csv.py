"""Reports as CSV."""

import csv

import pytest

from tminus.domain.report_csv import COUNTS, MEASURES, NUMBERS, as_table


@pytest.mark.parametrize("name", ["=1+1", " @SUM(A1)", "\uff1d1+1", "\u3000\uff0b1", "-1"])
def test_no_name_of_an_agent_is_a_formula(name: str) -> None:
    counts = dict.fromkeys(COUNTS, 1)
    measures = {measure: dict.fromkeys(NUMBERS) for measure in MEASURES}
    report = {
        **counts, **measures, "byType": [], "byReason": [], "byHour": [0] * 24,
        "byAgent": [{"agent": 7, "name": name, **counts}],
    }  # fmt: skip
    rows = list(csv.reader(as_table(report).splitlines()))
    assert [row[2] for row in rows if row[0] == "agent"] == [f"'{name}"] * len(COUNTS)
