"""Each alert fires for its fault, caused on a real daemon.

The tests here cause a fault, and apply the sample rules to the real values of scrapes before, during and after it.
`test_monitoring` tests the other alerts, with a daemon and a Prometheus.
"""

import inspect
import os
import re
import resource
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import make_url

from tests.acceptance import test_monitoring as monitoring
from tests.acceptance.conftest import StartDaemon
from tests.acceptance.test_log import metric
from tests.acceptance.times import from_now
from tests.support.databases import PostgresServer
from tests.support.proxy import Proxy
from tests.support.receivers import SECRET, Receiver, status
from tests.support.scrapes import History
from tests.support.waiting import eventually

Check = Callable[[History], None]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Return a function that fails unless the sample rules fire as a history states."""
    promtool = monitoring.tool("promtool", "prometheus")
    return lambda history: history.check(promtool, monitoring.RULES, tmp_path / "history.json")


@pytest.mark.slow
def test_the_alerts_of_a_lost_daemon_and_of_a_lost_target_fire(make_daemon: StartDaemon, tmp_path: Path) -> None:
    """A daemon that was killed does not answer Prometheus; later the configuration of Prometheus names no target.

    The rules are those of the sample, with seconds instead of minutes.
    """
    rules = tmp_path / "rules.yml"
    rules.write_text(re.sub(r"for: 10?m\b", "for: 1s", monitoring.RULES.read_text()))
    daemon = make_daemon()
    daemon.start()
    with monitoring.scraping(daemon, tmp_path, rules) as prometheus:

        def firing() -> set[str]:
            return {one["metric"]["alertname"] for one in prometheus.query('ALERTS{alertstate="firing"}')}

        eventually(lambda: firing() == set())
        daemon.kill()
        eventually(lambda: firing() == {"TminusDown"})
        config = tmp_path / "prometheus.yml"
        config.write_text(config.read_text().replace(f'["{daemon.url.partition("//")[2]}"]', "[]"))
        prometheus.reload()
        eventually(lambda: firing() == {"TminusNotScraped"})


@pytest.mark.slow
def test_the_alert_of_restarts_fires_at_the_third_restart_within_minutes(
    start_daemon: StartDaemon, check: Check
) -> None:
    """The daemon is restarted three times."""
    daemon = start_daemon()
    history = History(daemon)
    history.scrape(minutes=2)
    for _ in range(2):
        daemon.restart()
        history.scrape(minutes=2)
    history.expect()
    daemon.restart()
    history.scrape()
    history.expect("TminusRestarting")
    history.scrape(minutes=15)
    history.expect()
    check(history)


HANGING = """
import os, time
from tminus.cli import main
from tminus.scheduler.scheduler import Scheduler

do_due = Scheduler._do_due
def hangs(self):
    while os.path.exists("hangs"):
        time.sleep(0.05)
    return do_due(self)
Scheduler._do_due = hangs

main()
"""


@pytest.mark.slow
def test_the_alerts_of_a_stopped_scheduler_and_of_overdue_sessions_fire(make_daemon: StartDaemon, check: Check) -> None:
    """The scheduler hangs and everything else works, while a session falls due."""
    daemon = make_daemon(lifecycle={"lead": "1s"})
    hangs = daemon.home / "hangs"
    daemon.spawn_patched(HANGING)
    daemon.url = eventually(lambda: daemon.log_lines("daemon.ready"))[0]["url"]
    history = History(daemon)
    history.scrape(minutes=5)
    history.expect()

    hangs.touch()
    session = daemon.make(startTime=from_now(seconds=3))
    eventually(lambda: metric(daemon, "tminus_heartbeat_age_seconds") > 10)
    assert daemon.session(session["id"])["status"] == "scheduled"
    history.scrape(minutes=1)
    history.expect("TminusClockStopped")
    history.scrape(minutes=2)
    history.expect("TminusClockStopped", "TminusDueBacklog")

    hangs.unlink()
    daemon.logged("session.ready", session_id=session["id"])
    eventually(lambda: metric(daemon, "tminus_heartbeat_age_seconds") < 10)
    history.scrape()
    history.expect()
    check(history)
    assert daemon.terminate() == 0


@pytest.mark.slow
def test_the_alerts_of_the_database_and_of_refused_requests_fire(
    pg_server: PostgresServer, make_daemon: StartDaemon, check: Check
) -> None:
    """The database is away, so that each second request is refused."""
    with pg_server.database(empty=True) as database:
        url = make_url(database.url)
        with Proxy(f"{url.query.get('host') or url.host}/.s.PGSQL.5432") as proxy:
            through = f"postgresql+psycopg://{url.username}@127.0.0.1:{proxy.port}/{url.database}"
            daemon = make_daemon(storage={"url": through})
            daemon.start()
            history = History(daemon)

            def scrape_after_requests(times: int) -> None:
                for _ in range(times):
                    daemon.get("/me")
                    daemon.post("/supportsessions", {"type": "live", "label": "A"})
                    history.scrape()

            scrape_after_requests(20)
            history.expect()
            proxy.cut()
            daemon.post("/supportsessions", {"type": "live", "label": "A"})
            daemon.logged("storage.unavailable")
            scrape_after_requests(4)
            history.expect("TminusStorageNotWritable")
            scrape_after_requests(20)
            history.expect("TminusServerErrors", "TminusStorageNotWritable")

            proxy.end_faults()
            eventually(lambda: daemon.http.get(f"{daemon.url}/readyz").status_code == 200)
            scrape_after_requests(1)
            history.expect("TminusServerErrors")
            scrape_after_requests(20)
            history.expect()
            assert daemon.terminate() == 0
    check(history)


def test_the_alerts_of_receivers_that_are_gone_or_down_fire(
    make_daemon: StartDaemon, receiver: Receiver, check: Check
) -> None:
    """One receiver answers that it is gone, another one fails for twenty minutes of the test clock."""
    daemon = make_daemon()
    secret = daemon.home / "secret"
    secret.write_text(SECRET)
    with Receiver() as gone:
        receivers = {"desk": receiver, "gone": gone}
        webhooks = [{"name": name, "url": one.url, "secret_file": str(secret)} for name, one in receivers.items()]
        daemon.configure(webhooks=webhooks)
        daemon.arguments = ["--test-clock"]
        daemon.start()
        history = History(daemon)

        backlog = 'tminus_webhook_backlog_events{{endpoint="{}"}}'

        def is_logged() -> bool:
            return metric(daemon, "tminus_log_seq") == metric(daemon, "tminus_last_event_seq")

        daemon.make()
        eventually(lambda: receiver.seqs and gone.seqs)
        eventually(lambda: not any(metric(daemon, backlog.format(name)) for name in receivers))
        eventually(is_logged)
        history.scrape(minutes=10)
        history.expect()

        gone.answer, receiver.answer = status(410), status(500)
        daemon.make()
        daemon.logged("webhook.paused", endpoint="gone")
        daemon.logged("webhook.failed", endpoint="desk")
        eventually(is_logged)
        history.scrape(minutes=5.5)
        history.expect("TminusWebhookPaused")
        assert daemon.post("/clock", {"advance": "20m"}).status_code == 200
        history.scrape(minutes=6)
        history.expect("TminusEventsUndelivered", "TminusWebhookPaused")
        history.scrape(minutes=6)
        history.expect("TminusDeliveriesFailing", "TminusEventsUndelivered", "TminusWebhookPaused")
        assert daemon.terminate() == 0
    check(history)


FILES = 230
"""Limit of open files. The connections of one socket never use 128 of them, so the test connects to two sockets."""


def test_the_alert_of_file_descriptors_fires_when_most_are_in_use_and_when_all_are(
    start_daemon: StartDaemon, check: Check
) -> None:
    """Idle connections use most file descriptors of the daemon, and then all."""
    daemon = start_daemon()
    assert daemon.process is not None
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
    opened = Path(f"/proc/{daemon.process.pid}/fd")
    port = urlsplit(daemon.url).port
    history = History(daemon)
    history.scrape(minutes=10)
    history.expect()
    with ExitStack() as connections:

        def connect() -> None:
            """Connect to each of the two sockets."""
            for family, address in ((socket.AF_UNIX, str(daemon.socket)), (socket.AF_INET, ("127.0.0.1", port))):
                connections.enter_context(socket.socket(family)).connect(address)

        def all_are_open() -> bool:
            if len(os.listdir(opened)) < FILES:
                connect()
            return len(os.listdir(opened)) == FILES

        for _ in range((FILES * 9 // 10 - len(os.listdir(opened))) // 2):
            connect()
        eventually(lambda: len(os.listdir(opened)) > FILES * 85 // 100)
        history.scrape(minutes=5)
        history.expect()
        history.scrape(minutes=1)
        history.expect("TminusFileDescriptors")
        eventually(all_are_open)
        history.scrape(minutes=6)
        history.expect("TminusFileDescriptors")
    eventually(lambda: len(os.listdir(opened)) < FILES // 2)
    history.scrape()
    history.expect()
    check(history)


CAUSED: Mapping[str, Callable[..., Any]] = {
    "TminusDown": test_the_alerts_of_a_lost_daemon_and_of_a_lost_target_fire,
    "TminusNotScraped": test_the_alerts_of_a_lost_daemon_and_of_a_lost_target_fire,
    "TminusRestarting": test_the_alert_of_restarts_fires_at_the_third_restart_within_minutes,
    "TminusClockStopped": test_the_alerts_of_a_stopped_scheduler_and_of_overdue_sessions_fire,
    "TminusStorageNotWritable": test_the_alerts_of_the_database_and_of_refused_requests_fire,
    "TminusDueBacklog": test_the_alerts_of_a_stopped_scheduler_and_of_overdue_sessions_fire,
    "TminusClockLate": monitoring.test_alerts_of_lateness_receivers_and_log_fire_for_real_faults,
    "TminusServerErrors": test_the_alerts_of_the_database_and_of_refused_requests_fire,
    "TminusTokensGuessed": monitoring.test_alerts_of_crash_reload_guesses_and_lock_fire_for_real_faults,
    "TminusPinsGuessed": monitoring.test_alerts_of_crash_reload_guesses_and_lock_fire_for_real_faults,
    "TminusWebhookPaused": test_the_alerts_of_receivers_that_are_gone_or_down_fire,
    "TminusEventsUndelivered": test_the_alerts_of_receivers_that_are_gone_or_down_fire,
    "TminusDeliveriesFailing": monitoring.test_alerts_of_lateness_receivers_and_log_fire_for_real_faults,
    "TminusConfigRejected": monitoring.test_alerts_of_crash_reload_guesses_and_lock_fire_for_real_faults,
    "TminusCrashed": monitoring.test_alerts_of_crash_reload_guesses_and_lock_fire_for_real_faults,
    "TminusWritesBlocked": monitoring.test_alerts_of_crash_reload_guesses_and_lock_fire_for_real_faults,
    "TminusLogBehind": monitoring.test_alerts_of_lateness_receivers_and_log_fire_for_real_faults,
    "TminusLogDropped": monitoring.test_alerts_of_lateness_receivers_and_log_fire_for_real_faults,
    "TminusFileDescriptors": test_the_alert_of_file_descriptors_fires_when_most_are_in_use_and_when_all_are,
}
"""The test that causes the fault of each alert on a real daemon."""


def test_every_alert_has_a_test_that_causes_its_fault() -> None:
    """Each alert of the sample rules is in the table above, and its test names it."""
    alerts = re.findall(r"- alert: (\w+)", monitoring.RULES.read_text())
    assert sorted(CAUSED) == sorted(alerts), "add a test with a real daemon to the table CAUSED"
    unnamed = [alert for alert, test in CAUSED.items() if f'"{alert}"' not in inspect.getsource(test)]
    assert unnamed == [], "the test of these alerts does not name them"
