"""Metrics of commits, and the queries of a scrape. On both databases."""

import os
import re
import resource
import sqlite3
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from tests.integration.storage.test_writer import held, lose_the_database
from tests.support.clocks import NOW, SettableClock
from tests.support.databases import Database, SqliteServer
from tests.support.factories import put, session
from tests.support.worlds import World

from tminus import clock as wall_clock
from tminus.domain.errors import StoreUnavailable
from tminus.domain.lifecycle import TABLE
from tminus.domain.types import SessionType, Status, Timeouts, Trigger
from tminus.monitoring.metrics import BACKLOG, JOBS, Metrics, _Process
from tminus.storage import Transaction, View
from tminus.storage import store as store_module
from tminus.storage.writer import BATCH

HOUR = timedelta(hours=1)


class Commits:
    """Records the transitions and the number of jobs of each commit."""

    def __init__(self) -> None:
        self.transitions: Counter[str] = Counter()
        self.jobs: list[int] = []

    def __call__(self, tx: Transaction) -> None:
        self.transitions += tx.transitions
        self.jobs.append(tx.jobs)


def value(metrics: Metrics, sample: str) -> float | None:
    """Return the value of one sample of a scrape, or None if the scrape does not have it."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", metrics.scrape().decode(), re.MULTILINE)
    return float(found[1]) if found else None


def test_every_trigger_is_counted_whatever_causes_it(database: Database, clock: SettableClock) -> None:
    commits = Commits()
    world = World(database.open(clock, committed=commits), clock)
    world.settings = world.settings.model_copy(
        update={"lifecycle": world.settings.lifecycle.model_copy(update={"max_active": HOUR})}
    )

    world.close(world.create())
    later = world.schedule(5 * HOUR)
    world.reschedule(later, NOW + 6 * HOUR)
    opened_by_hand = world.schedule(HOUR, SessionType.SUPPORT)
    world.reschedule(opened_by_hand, NOW + timedelta(minutes=1))
    left, stayed = world.create(), world.create()
    world.leave(left, world.join(left))
    world.join(stayed)
    knocked = world.create(preferences={"knock": True})
    world.admit(knocked, world.knock(knocked))
    world.deny(knocked, world.knock(knocked))
    world.close(knocked)
    world.passes(hours=2)

    assert commits.transitions == {
        Trigger.CREATE: 4, Trigger.CLOSE: 2, Trigger.SCHEDULE: 2, Trigger.RESCHEDULE: 2, Trigger.OPEN: 1,
        Trigger.KNOCK: 2, Trigger.ADMIT: 1, Trigger.DENY: 1, Trigger.JOIN: 2, Trigger.LEAVE: 1, Trigger.IDLE: 1,
        Trigger.TIME_LIMIT: 1, Trigger.EXPIRE: 1,
    }  # fmt: skip
    assert set(commits.transitions) == {row.trigger for row in TABLE}


def test_rolled_back_transitions_are_not_counted(database: Database, clock: SettableClock) -> None:
    commits = Commits()
    world = World(database.open(clock, committed=commits), clock)

    def fail(tx: Transaction) -> None:
        write(tx)
        raise RuntimeError("after it has written")

    def write(tx: Transaction) -> Any:
        tx.add(session(id=f"s{len(commits.jobs)}"), TABLE[0], Timeouts())

    with held(world.store):
        good, bad = world.store.submit(write), world.store.submit(fail)
    good.result(30)
    with pytest.raises(RuntimeError):
        bad.result(30)

    assert commits.transitions == {Trigger.CREATE: 1}
    assert commits.jobs == [1, 1], "first the job that held the writer, then the job that did not fail"


def test_the_number_of_jobs_of_a_commit_is_counted(database: Database) -> None:
    commits = Commits()
    store = database.open(committed=commits)

    with held(store):
        futures = [store.submit(lambda tx: tx.set_meta("a", "b")) for _ in range(5)]
    for future in futures:
        future.result(30)

    assert commits.jobs == [1, 5]


def test_counts_of_a_commit_are_in_the_next_scrape(database: Database) -> None:
    metrics = Metrics(database.open(), lambda _view: [])

    metrics.committed({Trigger.OPEN: 300}, 1)
    metrics.committed({}, 40)

    assert value(metrics, 'tminus_moves_total{trigger="open"}') == 300
    assert value(metrics, 'tminus_moves_total{trigger="idle"}') == 0
    assert value(metrics, "tminus_commits_total") == 2
    assert value(metrics, 'tminus_commit_jobs_bucket{le="32.0"}') == 1
    assert value(metrics, "tminus_commit_jobs_sum") == 41
    assert JOBS[-1] == BATCH


def test_the_backlog_counts_sessions_that_are_due_and_not_processed(database: Database) -> None:
    store = database.open(wall_clock.now)
    metrics = Metrics(store, lambda _view: [])
    now = wall_clock.now()

    def fill(tx: Transaction) -> None:
        for name, due in (("late", -HOUR), ("due", timedelta(0)), ("later", HOUR)):
            put(tx, session(id=name, status=Status.NEW, due_at=now + due, due_trigger=Trigger.EXPIRE))
        put(tx, session(id="over", status=Status.CLOSED, due_at=None, due_trigger=None))

    store.submit(fill).result(30)

    assert value(metrics, "tminus_due_backlog") == 2
    assert store.read(lambda view: view.backlog(now, 1)) == 1, "the count stops at its limit"
    assert BACKLOG > 1


def test_the_backlog_is_counted_in_the_index_of_the_scheduler(database: Database) -> None:
    """The cost of a scrape must not depend on the number of stored sessions."""
    store = database.open()
    plan = "EXPLAIN QUERY PLAN " if database.kind == "sqlite" else "EXPLAIN "

    def explain(tx: Transaction) -> str:
        if database.kind == "postgresql":
            tx._connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # it scans empty tables
        counted = "SELECT count(*) FROM (SELECT id FROM session WHERE due_at <= 1 LIMIT 10)"
        return str(tx._connection.exec_driver_sql(f"{plan}{counted} AS late").all())

    assert "session_due" in store.submit(explain).result(30)


def test_storage_is_writable_until_a_write_fails_and_again_after_one(database: Database) -> None:
    store = database.open()
    metrics = Metrics(store, lambda _view: [])
    assert value(metrics, "tminus_storage_writable") == 1

    with pytest.raises(StoreUnavailable):
        store.submit(lose_the_database).result(30)
    assert value(metrics, "tminus_storage_writable") == 0

    store.submit(lambda tx: tx.set_meta("a", "b")).result(30)
    assert value(metrics, "tminus_storage_writable") == 1


def test_a_database_that_cannot_be_read_fails_no_scrape(sqlite_server: SqliteServer) -> None:
    with sqlite_server.database() as database:
        metrics = Metrics(database.open(), lambda _view: [])
        with sqlite3.connect(make_url(database.url).database or "") as spoiler:
            spoiler.execute("ALTER TABLE session RENAME TO gone")
        spoiler.close()

        assert value(metrics, "tminus_storage_writable") == 0
        assert value(metrics, "tminus_commits_total") == 0
        assert value(metrics, 'tminus_sessions{status="new"}') is None


def test_no_text_of_a_client_creates_a_new_time_series(database: Database) -> None:
    metrics = Metrics(database.open(), lambda _view: [])

    for method in ("PROPFIND", "ANYTHING", "GET"):
        metrics.answered(method, "(none)", 404)

    series = re.findall(r'^tminus_http_requests_total.*method="(.*?)"', metrics.scrape().decode(), re.MULTILINE)
    assert sorted(series) == ["(other)", "GET"]


def test_process_metrics_are_present_although_the_boot_time_is_hidden(tmp_path: Path) -> None:
    """A unit with `ProcSubset=pid` hides /proc/stat."""
    (tmp_path / "self").symlink_to("/proc/self")

    values = {metric.name: metric.samples[0].value for metric in _Process(proc=str(tmp_path), registry=None).collect()}

    assert values["process_resident_memory_bytes"] > 0
    assert 0 < wall_clock.now().timestamp() - values["process_start_time_seconds"] < 3600


def test_the_number_of_open_files_is_present_although_none_can_be_opened() -> None:
    process = _Process(registry=None)
    own, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, most))
    try:
        values = {metric.name: metric.samples[0].value for metric in process.collect()}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (own, most))

    assert (values["process_open_fds"], values["process_max_fds"]) == (free, free)


def test_sessions_are_counted_again_only_after_new_events(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = 0
    count = View.counts

    def counted(view: View) -> dict[Status, int]:
        nonlocal queries
        queries += 1
        return count(view)

    monkeypatch.setattr(View, "counts", counted)
    monkeypatch.setattr(store_module, "QUICK_COUNT", float("inf"))
    assert world.store.counts() == {Status.SCHEDULED: 0, Status.NEW: 0, Status.ACTIVE: 0}
    session = world.create()
    assert [world.store.counts()[Status.NEW] for _ in range(3)] == [1, 1, 1]
    assert queries == 2
    world.close(session)
    monkeypatch.setattr(store_module, "QUICK_COUNT", -1.0)  # every count is slow now
    assert world.store.counts()[Status.NEW] == 0
    monkeypatch.setattr(store_module, "monotonic", lambda: 0.0)
    world.create()
    assert world.store.counts()[Status.NEW] == 0, "the count from before this session is still valid"


def test_counts_are_not_older_than_their_limit_after_one_slow_count(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "QUICK_COUNT", -1.0)
    monkeypatch.setattr(store_module, "COUNT_AGE", 0.0)
    for number in range(1, 4):
        world.create()
        assert world.store.counts()[Status.NEW] == number
