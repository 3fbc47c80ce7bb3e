"""The daemon with real monitoring programs: Prometheus with the sample rules and queries, fail2ban, rsyslog.

Most tests share one daemon, which has received guesses of tokens and PINs, and text that imitates its log lines.
"""

import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon, check_health
from tests.acceptance.daemons import JSON, Daemon, token_of
from tests.acceptance.test_log import metric, piped
from tests.acceptance.times import from_now, parsed
from tests.support.receivers import SECRET, Receiver, status
from tests.support.waiting import eventually
from tests.unit.project.test_docs import page, rows

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "config"
RULES = CONFIG / "prometheus" / "tminus.rules.yml"
FILTER = CONFIG / "fail2ban" / "filter.d" / "tminus.conf"

NEVER_BANNED = "203.0.113.9"
"""The address that a client tries to get banned with forged text. No program may take it for a guesser."""

FORGED = f"wrong token from {NEVER_BANNED} (unknown), attempts: 12"
HOSTILE = (
    f'\u2028{{"ts":"2026-01-01T00:00:00.000Z","level":"warning","event":"auth.failed","instance":"a/1",'
    f'"message":"{FORGED}",\u2028"}} tminus[1]: {FORGED}'
)
GUESSED = 25
"""Guesses of each kind from each address: enough for the limit of 20, and for a line that counts ten or more."""

GUESSES = {"auth.failed", "auth.limited", "pin.unknown", "pin.limited"}


def tool(name: str, package: str) -> str:
    """Return the path of a program; skip the test if it is not installed."""
    path = shutil.which(name, path="/usr/bin:/usr/sbin:/lib/systemd")
    if path is None:
        pytest.skip(f"NOT TESTED: no {name} here (Debian package {package})")
    return path


def output(*command: str | Path, **more: Any) -> str:
    """Return the output of a command; fail unless its exit code is 0."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    text: str = done.stdout
    return text


@contextmanager
def running(*command: str | Path, cwd: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with (cwd / "said").open("wb") as out:
        process = subprocess.Popen([str(part) for part in command], cwd=cwd, stdout=out, stderr=out)
        try:
            yield process
            assert process.poll() is None, (cwd / "said").read_text()
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def monitored() -> Iterator[Daemon]:
    """A daemon that received guesses of tokens and PINs, and forged log lines."""
    daemon = Daemon()
    secret = daemon.home / "secret"
    secret.write_text(SECRET)
    receiver = Receiver()
    daemon.configure(
        limits={"failed_tokens": "20/minute", "pin_lookups": "20/minute"},
        server={"trusted_proxies": ["127.0.0.0/8"]},
        webhooks=[{"name": "desk", "url": receiver.url, "secret_file": str(secret)}],
    )
    try:
        daemon.start()
        guess(daemon)
        daemon.restart()  # at its stop, the daemon logs what it has counted
        send_forged_lines(daemon)
        opening = daemon.make(startTime=from_now(minutes=10, seconds=0.5))
        daemon.logged("session.ready", session_id=opening["id"])
        eventually(lambda: opening["id"] in [event["id"] for one in receiver.requests for event in one.events])
        yield daemon
        check_health(daemon)
    finally:
        daemon.remove()
        receiver.close()


def guess(daemon: Daemon) -> None:
    for address, local in (("192.0.2.1", False), ("2001:db8::1", False), ("", True)):
        transport = httpx.HTTPTransport(uds=str(daemon.socket)) if local else None
        with httpx.Client(base_url=daemon.url, headers={"X-Forwarded-For": address}, transport=transport) as client:
            for _ in range(GUESSED):
                assert client.get("/v3/me", headers={"Session-id": "wrong" * 8}).status_code in {200, 401, 429}
                assert client.get("/v3/support/123456/meta").status_code in {400, 404}


def send_forged_lines(daemon: Daemon) -> None:
    """Send text that looks like log lines in every place where a client may send text."""
    headers = {"X-Request-Id": f'x","message":"{FORGED}', "client-app": FORGED, "User-Agent": FORGED}
    made = daemon.make(type="support", label=HOSTILE[:255], userDescription=FORGED)
    daemon.make(label=FORGED, headers=headers)
    daemon.join(made["id"], name=FORGED)
    daemon.get(f"/{FORGED}", headers=headers)
    daemon.call("TRACE", "/me", headers=headers)
    # A zone of an IPv6 address may be any text.
    zone = {"X-Forwarded-For": f"fe80::1%x from {NEVER_BANNED}"}
    assert daemon.get("/me", by=None, headers={**zone, "Session-id": "wrong" * 8}).status_code == 401
    # When the log has this line, it has all earlier ones.
    daemon.logged("session.created", session_id=daemon.make()["id"])


@pytest.fixture(scope="module")
def scrape(monitored: Daemon) -> str:
    return scraped(monitored)


def scraped(daemon: Daemon) -> str:
    answer = daemon.http.get(f"{daemon.url}/metrics", headers={"Authorization": f"Bearer {token_of('monitor')}"})
    assert answer.status_code == 200
    return answer.text


# --- the metrics ------------------------------------------------------------------------------------------------------


def test_promtool_accepts_a_scrape(scrape: str) -> None:
    assert output(tool("promtool", "prometheus"), "check", "metrics", input=scrape) == ""


def test_the_page_has_every_metric_with_type_labels_and_meaning(scrape: str) -> None:
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", scrape, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", scrape, re.MULTILINE))
    documented = {row[0]: row[1:] for row in rows(page("docs/monitoring.md")) if re.match(r"(tminus|process)_", row[0])}

    assert set(documented) == set(types)
    for name, kind in types.items():
        documented_kind, documented_labels, meaning = documented[name]
        assert (documented_kind, meaning) == (kind, helps[name].rstrip("."))
        samples = re.findall(rf"^{name}(?:_bucket)?\{{(.*)\}} ", scrape, re.MULTILINE)
        if samples or not documented_labels:
            labels = set(re.findall(r'(\w+)="', samples[0])) - {"le"} if samples else set()
            assert set(re.findall(r"`(\w+)`", documented_labels)) == labels, name


def test_a_scrape_counts_what_happened(monitored: Daemon) -> None:
    text = scraped(monitored)

    assert 'tminus_moves_total{trigger="open"} 1.0' in text
    assert 'tminus_moves_total{trigger="join"} 1.0' in text
    assert 'tminus_http_requests_total{code="405",method="(other)",route="/v3/me"} 1.0' in text
    assert "tminus_storage_writable 1.0" in text
    age = re.search(r"^tminus_heartbeat_age_seconds (\S+)$", text, re.MULTILINE)
    assert age is not None
    assert 0 <= float(age[1]) < 10
    assert FORGED not in text
    assert not [token for token in monitored.tokens.values() if token in text]


# --- Prometheus and Grafana -------------------------------------------------------------------------------------------


class Prometheus:
    """A Prometheus that scrapes the daemon with the sample configuration."""

    def __init__(self, http: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
        self._http = http
        self._process = process

    def reload(self) -> None:
        """Let Prometheus read its configuration again."""
        self._process.send_signal(signal.SIGHUP)

    def ready(self) -> bool:
        """Return whether Prometheus listens and has scraped twice."""
        try:
            return self._http.get("/-/ready").is_success and bool(self.query("rate(tminus_commits_total[10s])"))
        except httpx.TransportError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=parameters)
        assert answer.json()["status"] == "success", f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def query(self, expression: str) -> list[JSON]:
        found: list[JSON] = self.get("query", query=expression)["result"]
        return found


@pytest.fixture(scope="module")
def prometheus(monitored: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with scraping(monitored, tmp_path_factory.mktemp("prometheus")) as started:
        yield started


@contextmanager
def scraping(daemon: Daemon, home: Path, rules: Path = RULES) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes a daemon four times a second."""
    program = tool("prometheus", "prometheus")
    (home / "token").write_text(f"{token_of('monitor')}\n")
    sample = (CONFIG / "prometheus" / "scrape.yml").read_text()
    for sampled, real in (
        ("127.0.0.1:8710", daemon.url.partition("//")[2]),
        ("/etc/prometheus/tminus.token", str(home / "token")),
        ("/etc/prometheus/rules/tminus.rules.yml", str(rules)),
        ("scrape_interval: 15s", "scrape_interval: 250ms"),
    ):
        assert sampled in sample
        sample = sample.replace(sampled, real)
    (home / "prometheus.yml").write_text(f"global:\n  evaluation_interval: 250ms\n{sample}")
    output(tool("promtool", "prometheus"), "check", "config", home / "prometheus.yml")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = (f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data")
    with (
        running(program, *arguments, f"--web.listen-address={address}", cwd=home) as process,
        httpx.Client(base_url=f"http://{address}", timeout=60) as client,
    ):
        started = Prometheus(client, process)
        eventually(started.ready)
        yield started


def metrics_in(expression: str) -> set[str]:
    """Return the metrics that a query names."""
    bare = re.sub(r'"[^"]*"|\[[^]]*\]', "", expression)
    bare = re.sub(r"\{[^}]*\}|\b(by|on|without|ignoring) *\([^)]*\)", "", bare)
    return set(re.findall(r"\b[a-zA-Z_]\w*\b(?! *\()", bare)) - {"unless", "and", "or"}


def names_in(scrape: str) -> set[str]:
    """Return the names that a query may use."""
    found = {"up"}  # Prometheus's own
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", scrape, re.MULTILINE):
        found |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return found


def dashboard_queries() -> dict[str, set[str]]:
    """Return every query of the dashboard, with Grafana's variables filled in, and the labels of its legend."""
    dashboard = json.loads((CONFIG / "grafana" / "tminus.json").read_text())
    queries = dashboard["annotations"]["list"] + [
        one for panel in dashboard["panels"] for one in panel.get("targets", ())
    ]
    return {
        one["expr"].replace("$instance", ".+").replace("$__rate_interval", "10s"): set(
            re.findall(r"\{\{(\w+)\}\}", one.get("legendFormat", ""))
        )
        for one in queries
    }


def test_every_query_of_the_dashboard_names_metrics_that_exist(scrape: str) -> None:
    assert {name for query in dashboard_queries() for name in metrics_in(query)} <= names_in(scrape)


def test_every_query_of_the_dashboard_returns_data(prometheus: Prometheus, scrape: str) -> None:
    """A real Prometheus evaluates each query: one with a wrong label or name would return nothing."""
    may_be_empty = ("changes(process_start_time_seconds",)  # it returns data only shortly after a start
    queries = dashboard_queries()

    assert len(queries) > 20
    for query, legend in queries.items():
        # On a busy machine a scrape may fail, and then there is no data until the next one.
        found = (
            prometheus.query(query) if query.startswith(may_be_empty) else eventually(partial(prometheus.query, query))
        )
        assert all(legend <= set(one["metric"]) for one in found), f"{query} has no {legend}"


def test_prometheus_accepts_the_rules_and_no_alert_fires_for_a_healthy_daemon(
    prometheus: Prometheus, scrape: str
) -> None:
    def evaluated() -> list[JSON]:
        found: list[JSON] = prometheus.get("rules")["groups"][0]["rules"]
        return found if all(rule["health"] != "unknown" for rule in found) else []

    alerts = eventually(evaluated)
    assert {alert["health"] for alert in alerts} == {"ok"}
    # On a busy machine a scrape may fail, and then an alert is pending until the next one.
    assert [alert["name"] for alert in alerts if alert["state"] == "firing"] == []
    assert {name for alert in alerts for name in metrics_in(alert["query"])} <= names_in(scrape)
    for alert in alerts:
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert set(alert["annotations"]) == {"summary", "description"}


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool = tool("promtool", "prometheus")
    tests = CONFIG / "prometheus" / "tminus.rules.test.yml"

    output(promtool, "check", "rules", RULES)
    output(promtool, "test", "rules", tests)

    rules = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    query = r"""expr: 'ALERTS\{alertname="(\w+)", alertstate="firing"\}'\n +eval_time: \S+\n +exp_samples:"""
    assert set(re.findall(rf"{query}\n", tests.read_text())) == rules, "fires"
    assert set(re.findall(rf"{query} \[\]\n", tests.read_text())) == rules, "does not fire"


def test_alerts_of_crash_reload_guesses_and_lock_fire_for_real_faults(make_daemon: StartDaemon, tmp_path: Path) -> None:
    """The faults: a crash, a rejected reload, limited guesses of tokens and PINs, a lock."""
    daemon = make_daemon()
    daemon.configure(limits={"failed_tokens": "20/minute", "pin_lookups": "30/minute"})
    daemon.start()
    daemon.kill()
    daemon.start()
    with scraping(daemon, tmp_path) as prometheus:
        daemon.config.write_text(daemon.config.read_text() + "nonsense = 1\n")
        daemon.signal(signal.SIGHUP)
        for _ in range(130):
            daemon.get("/me", by=None, headers={"Session-id": "wrong" * 8})
            daemon.get("/support/123456/meta", by=None)
        with sqlite3.connect(daemon.state / "tminus.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            with httpx.Client(base_url=daemon.url, timeout=60) as client:
                headers = {"Session-id": daemon.tokens["admin"]}

                def held_up() -> bool:
                    client.post("/v3/supportsessions", json={"type": "live", "label": "A"}, headers=headers)
                    found = re.search(r"^tminus_writes_blocked_seconds_total (\S+)$", scraped(daemon), re.MULTILINE)
                    return found is not None and float(found[1]) > 5.5

                eventually(held_up, deadline=60)
            other.execute("ROLLBACK")
        other.close()

        def firing() -> set[str]:
            return {one["metric"]["alertname"] for one in prometheus.query('ALERTS{alertstate="firing"}')}

        expected = {
            "TminusCrashed", "TminusConfigRejected", "TminusTokensGuessed", "TminusPinsGuessed", "TminusWritesBlocked",
        }  # fmt: skip
        eventually(lambda: expected <= firing())


def test_alerts_of_lateness_receivers_and_log_fire_for_real_faults(
    make_daemon: StartDaemon, receiver: Receiver, tmp_path: Path
) -> None:
    """The faults: a receiver that is down, an unread log, a daemon suspended four times when a session is due.

    The rules are those of the sample, with seconds instead of minutes in the rules for receivers and the log.
    """
    rules = RULES.read_text()
    for span, short in (
        ("for: 10m", "for: 1s"),
        ("for: 2m", "for: 1s"),
        ("tminus_webhook_failing_seconds) > 600", "tminus_webhook_failing_seconds) > 3"),
        ("changes(tminus_log_seq[5m])", "changes(tminus_log_seq[3s])"),
    ):
        assert span in rules
        rules = rules.replace(span, short)
    (tmp_path / "rules.yml").write_text(rules)
    daemon = make_daemon()
    secret = daemon.home / "secret"
    secret.write_text(SECRET)
    webhook = {"name": "desk", "url": receiver.url, "secret_file": str(secret)}
    daemon.configure(lifecycle={"lead": "1s"}, webhooks=[webhook])
    receiver.answer = status(500)
    expected = {"TminusClockLate", "TminusDeliveriesFailing", "TminusLogBehind", "TminusLogDropped"}
    with piped(daemon), scraping(daemon, tmp_path, tmp_path / "rules.yml") as prometheus:

        def firing() -> set[str]:
            return {one["metric"]["alertname"] for one in prometheus.query('ALERTS{alertstate="firing"}')} & expected

        assert firing() == set()
        while not metric(daemon, "tminus_log_dropped_lines_total"):
            for _ in range(100):
                daemon.get("/me")
        for late in range(1, 5):
            sweep_late(daemon, late)
        eventually(lambda: firing() == expected)
        assert daemon.terminate() == 0


def sweep_late(daemon: Daemon, times: int) -> None:
    """Suspend the daemon when a session is due; return after it has counted a number of late sweeps."""

    def counted() -> float:
        swept = metric(daemon, "tminus_clock_lag_seconds_count")
        return swept - metric(daemon, r'tminus_clock_lag_seconds_bucket\{le="1.0"\}')

    session = daemon.make(startTime=from_now(seconds=3))
    daemon.signal(signal.SIGSTOP)
    eventually(lambda: from_now(seconds=-1) > session["startTime"])
    daemon.signal(signal.SIGCONT)
    eventually(lambda: counted() >= times)


def test_every_alert_is_in_the_page() -> None:
    documented = {row[0]: row[1] for row in rows(page("docs/monitoring.md")) if row[0].startswith("Tminus")}

    assert documented == dict(re.findall(r"- alert: (\w+).*?severity: (\w+)", RULES.read_text(), re.DOTALL))


# --- fail2ban ---------------------------------------------------------------------------------------------------------


def guessers(daemon: Daemon) -> list[str]:
    """Return the addresses that fail2ban has to find, in the order of the log."""
    return [line["remote_ip"] for line in guesses(daemon)]


def guesses(daemon: Daemon) -> list[JSON]:
    """Return the lines about guesses, in order, except those that count less than ten or are about the local socket."""
    lines = [line for line in daemon.log_lines() if line["event"] in GUESSES]
    assert {line["event"] for line in lines} == GUESSES
    return [
        line
        for line in lines
        if line["remote_ip"] != "local" and (line["event"].endswith(".limited") or line["count"] >= 10)
    ]


def test_fail2ban_finds_only_guessing_addresses_in_a_file(monitored: Daemon) -> None:
    found = output(tool("fail2ban-regex", "fail2ban"), "-o", "<ip>", monitored.log, FILTER).split()

    assert found == guessers(monitored)
    assert set(found) == {"192.0.2.1", "2001:db8::1"}
    assert FORGED in monitored.log_text


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_fail2ban_reads_the_time_of_a_line_as_utc(monitored: Daemon, zone: str) -> None:
    lines = guesses(monitored)
    text = output(tool("fail2ban-regex", "fail2ban"), "-o", "<time>", monitored.log, FILTER, env={"TZ": zone})

    written = [line["ts"] for line in lines]
    assert [int(float(second)) for second in text.split()] == [int(parsed(ts).timestamp()) for ts in written]


@pytest.mark.parametrize("style", ["sentence", "json"])
def test_fail2ban_finds_only_guessing_addresses_in_the_journal(monitored: Daemon, tmp_path: Path, style: str) -> None:
    """An entry of the journal has only the message of a line, which is the default, or the whole line as JSON."""
    remote = tool("systemd-journal-remote", "systemd-journal-remote")
    program = tool("fail2ban-regex", "fail2ban")
    entries = b""
    for number, line in enumerate(monitored.log_lines()):
        fields = {
            "__REALTIME_TIMESTAMP": 1_900_000_000_000_000 + number,
            "__MONOTONIC_TIMESTAMP": 1 + number,
            "_BOOT_ID": "0" * 31 + "1",
            "_HOSTNAME": "host",
            "_PID": 7,
            "_SYSTEMD_UNIT": "tminus.service",
            "SYSLOG_IDENTIFIER": "tminus",
            "MESSAGE": line["message"] if style == "sentence" else orjson_line(line),
        }
        entries += "".join(f"{name}={value}\n" for name, value in fields.items()).encode() + b"\n"
    journal = tmp_path / "t.journal"
    output(remote, "-o", journal, "-", input=entries.decode())

    text = subprocess.run(
        [program, "-o", "<ip>", f"systemd-journal[journalfiles={journal}]", str(FILTER)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    if "systemd library not found" in text.stdout + text.stderr:
        pytest.skip("NOT TESTED: fail2ban cannot read a journal here (Debian package python3-systemd)")
    assert text.stdout.split() == guessers(monitored)


def orjson_line(line: JSON) -> str:
    """Return the line as the daemon wrote it, without spaces between its parts."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def test_fail2ban_accepts_the_jail(tmp_path: Path) -> None:
    program = tool("fail2ban-client", "fail2ban")
    etc = tmp_path / "fail2ban"
    shutil.copytree("/etc/fail2ban", etc)
    (etc / "jail.d" / "defaults-debian.conf").unlink(missing_ok=True)  # it needs the log of an sshd
    shutil.copytree(CONFIG / "fail2ban", etc, dirs_exist_ok=True)

    dump = output(program, "-c", etc, "-d")

    assert "['add', 'tminus', 'systemd']" in dump
    assert "['set', 'tminus', 'maxretry', 3]" in dump
    assert "['set', 'tminus', 'addaction', 'nftables']" in dump
    assert "tminus.service" in dump


# --- rsyslog ----------------------------------------------------------------------------------------------------------


def test_rsyslog_writes_warnings_and_errors_to_a_separate_file(monitored: Daemon, tmp_path: Path) -> None:
    """rsyslog reads the daemon's log file, or lines that the journal forwards to a socket."""
    program = tool("rsyslogd", "rsyslog")
    sample = (CONFIG / "rsyslog" / "tminus.conf").read_text()
    sample = sample.replace("/var/log/tminus/tminus.log", str(monitored.log)).replace("/var/log/tminus", str(tmp_path))
    (tmp_path / "tminus.conf").write_text(sample)
    (tmp_path / "rsyslog.conf").write_text(
        f'global(workDirectory="{tmp_path}")\nmodule(load="imuxsock" SysSock.Use="off")\n'
        f'input(type="imuxsock" Socket="{tmp_path}/log.sock")\ninclude(file="{tmp_path}/tminus.conf")\n'
    )
    output(program, "-N1", "-f", tmp_path / "rsyslog.conf")
    warnings, journal = tmp_path / "warnings.log", tmp_path / "journal.log"

    def written(path: Path) -> list[str]:
        return path.read_text().split("\n")[:-1] if path.exists() else []

    lines = monitored.log_text.split("\n")[:-1]
    grave = [line for line in lines if json.loads(line)["level"] != "info"]
    with running(program, "-n", "-f", tmp_path / "rsyslog.conf", "-i", tmp_path / "pid", cwd=tmp_path):
        eventually(lambda: len(written(warnings)) >= len(grave))
        eventually((tmp_path / "log.sock").exists)
        for priority, text in (("info", "was created"), ("warning", FORGED), ("info", grave[0]), ("info", lines[0])):
            logger = ("logger", "-u", tmp_path / "log.sock", "-t", "tminus", "-p", f"daemon.{priority}")
            output(*logger, text)
        eventually(lambda: len(written(journal)) == 4)

    assert len(grave) > 8
    assert written(warnings)[:-2] == grave
    assert written(warnings)[-2:] == written(journal)[1:3]
    assert [line.partition(" tminus: ")[2] for line in written(journal)] == ["was created", FORGED, grave[0], lines[0]]


def test_logrotate_loses_no_line_that_rsyslog_has_written(tmp_path: Path) -> None:
    rsyslogd, logrotate = tool("rsyslogd", "rsyslog"), tool("logrotate", "logrotate")
    for name, sample in (("rotate", "logrotate/tminus"), ("tminus.conf", "rsyslog/tminus.conf")):
        text = (CONFIG / sample).read_text().replace("/var/log/tminus", str(tmp_path))
        # Debian's script sends this signal to the system's rsyslogd. Here, the test's own process gets it.
        (tmp_path / name).write_text(
            text.replace("/usr/lib/rsyslog/rsyslog-rotate", f"kill -HUP $(cat {tmp_path}/pid)")
        )
    (tmp_path / "rsyslog.conf").write_text(
        f'global(workDirectory="{tmp_path}")\nmodule(load="imuxsock" SysSock.Use="off")\n'
        f'input(type="imuxsock" Socket="{tmp_path}/log.sock")\ninclude(file="{tmp_path}/tminus.conf")\n'
    )
    logged: list[str] = []

    def log(text: str) -> None:
        output("logger", "-u", tmp_path / "log.sock", "-t", "tminus", "-p", "daemon.warning", text)
        logged.append(text)

    def written(*names: str) -> list[str]:
        existing = (tmp_path / name for name in names if (tmp_path / name).exists())
        return [line.partition(" tminus: ")[2] for path in existing for line in path.read_text().splitlines()]

    with running(rsyslogd, "-n", "-f", tmp_path / "rsyslog.conf", "-i", tmp_path / "pid", cwd=tmp_path):
        eventually((tmp_path / "log.sock").exists)
        log("before")
        (tmp_path / "tminus.log").write_text("a line of the daemon's\n")
        eventually(lambda: written("journal.log") == logged)
        output(logrotate, "--force", "--state", tmp_path / "state", tmp_path / "rotate")
        assert (tmp_path / "tminus.log").read_text() == ""
        assert (tmp_path / "tminus.log.1").read_text() == "a line of the daemon's\n"
        while "journal.log" not in {path.name for path in tmp_path.iterdir()}:  # until rsyslogd creates it
            log(f"after {len(logged)}")
        eventually(lambda: written("journal.log.1", "journal.log") == logged)
