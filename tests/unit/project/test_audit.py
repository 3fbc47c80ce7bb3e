"""`make audit` interprets the report of pip-audit."""

from tests.support.audit import verdict


def test_a_known_vulnerability_is_reported_and_an_unknown_package_is_not_reported_as_safe() -> None:
    vulnerability = {"id": "PYSEC-2020-1", "fix_versions": ["1.2"], "aliases": [], "description": ""}
    report = {
        "dependencies": [
            {"name": "whole", "version": "1", "vulns": []},
            {
                "name": "leaky",
                "version": "1.1",
                "vulns": [vulnerability, {**vulnerability, "id": "PYSEC-2020-2", "fix_versions": []}],
            },
            {"name": "unheard-of", "skip_reason": "Dependency not found on PyPI and could not be audited"},
        ],
        "fixes": [],
    }
    assert verdict(report) == (
        ["leaky 1.1: PYSEC-2020-1, fixed in 1.2", "leaky 1.1: PYSEC-2020-2, fixed in no version yet"],
        ["unheard-of"],
    )
