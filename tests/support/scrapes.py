"""Scrapes of a real daemon as a history, to which promtool applies the alert rules."""

import json
import math
import subprocess
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.daemons import Daemon, token_of

INTERVAL = 15
"""Seconds of the history between two scrapes: the interval of the sample configuration."""

LABELS = {"job": "tminus", "instance": "here"}

Values = dict[str, float]
"""The value of each series."""


class History:
    """What Prometheus would have scraped from a daemon. The values are real, only their times are chosen.

    So a rule can be tested with its real durations, although the test takes seconds.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._scrapes: list[Values] = []
        self._expected: list[tuple[int, tuple[str, ...]]] = []
        """The time in seconds of the history, and the alerts that fire then."""

    def scrape(self, minutes: float = 0) -> None:
        """Scrape the daemon once. The history has these values for a number of minutes, or in one scrape."""
        values = scraped(self._daemon)
        self._scrapes += [values] * max(1, round(minutes * 60 / INTERVAL))

    def expect(self, *alerts: str) -> None:
        """State that at the time of the last scrape these alerts fire, and no other one."""
        self._expected.append(((len(self._scrapes) - 1) * INTERVAL, alerts))

    def check(self, promtool: str, rules: Path, file: Path) -> None:
        """Fail unless the rules fire as stated. `file` is for promtool."""
        names = sorted({name for values in self._scrapes for name in values})
        series = [
            {
                "series": name,
                "values": " ".join(number(values[name]) if name in values else "stale" for values in self._scrapes),
            }
            for name in names
        ]
        tests = [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{seconds}s",
                "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts],
            }
            for seconds, alerts in self._expected
        ]
        interval = f"{INTERVAL}s"
        whole = {"interval": interval, "input_series": series, "promql_expr_test": tests}
        file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": interval, "tests": [whole]}))
        done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def scraped(daemon: Daemon) -> Values:
    """Return the values of a scrape, with `up` as Prometheus sets it."""
    try:
        answer = daemon.http.get(f"{daemon.url}/metrics", headers={"Authorization": f"Bearer {token_of('monitor')}"})
    except httpx.TransportError:
        return {series("up", {}): 0}
    values = {
        series(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(answer.raise_for_status().text)
        for sample in family.samples
    }
    return {**values, series("up", {}): 1}


def series(name: str, labels: dict[str, str]) -> str:
    """Return a series in the notation of Prometheus."""
    return f"{name}{{{', '.join(f'{label}={json.dumps(value)}' for label, value in {**labels, **LABELS}.items())}}}"


def number(value: float) -> str:
    """Return a value in the notation of promtool, which knows no exponents."""
    return f"{value:.6f}" if math.isfinite(value) else str(value)
