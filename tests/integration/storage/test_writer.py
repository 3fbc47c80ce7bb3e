"""The writer: waiting jobs share a transaction. On both databases."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError, ProgrammingError, StatementError
from tests.support.clocks import NOW, SettableClock
from tests.support.databases import Database, PostgresServer, SqliteServer
from tests.support.factories import add, session
from tests.support.waiting import eventually

from tminus.clock import monotonic
from tminus.domain.errors import Draining, NoPinFree, Overloaded, StoreUnavailable
from tminus.storage import Store, Transaction, engine, failures, locks, server_watch, writer
from tminus.storage.locks import AdvisoryLocks
from tminus.storage.watch import Watch

Log = list[Any]


@contextmanager
def held(store: Store) -> Iterator[None]:
    """Keep the writer busy, so that jobs submitted in the block wait; they run at its end."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        begun.set()
        assert go_on.wait(30)

    holding = store.submit(hold)
    assert begun.wait(30)
    try:
        yield
    finally:
        go_on.set()
        holding.result(30)


def put(name: str, value: str = "x") -> Callable[[Transaction], str]:
    """Return a job that writes."""

    def job(tx: Transaction) -> str:
        tx.set_meta(name, value)
        return name

    return job


def meta(store: Store, name: str) -> str | None:
    return store.read(lambda view: view.meta(name))


# --- group commit -----------------------------------------------------------------------------------------------------


def test_concurrent_jobs_share_one_transaction(database: Database) -> None:
    commits: Log = []
    store = database.open(committed=lambda tx: commits.append(tx.writes))
    with held(store):
        futures = [store.submit(put(f"k{n}")) for n in range(50)]
    assert [future.result(30) for future in futures] == [f"k{n}" for n in range(50)]
    assert len(commits) == 2, "first the job that held the writer, then all fifty"


def test_a_transaction_has_at_most_one_batch(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH", 10)
    commits: Log = []
    store = database.open(committed=lambda _tx: commits.append(1))
    with held(store):
        futures = [store.submit(put(f"k{n}")) for n in range(25)]
    for future in futures:
        future.result(30)
    assert len(commits) == 1 + 3


def test_large_jobs_share_no_transaction_and_the_order_is_kept(database: Database) -> None:
    commits: Log = []
    store, order = database.open(committed=lambda tx: commits.append(tx.jobs)), list[int]()

    def job(n: int) -> Callable[[Transaction], None]:
        def run(tx: Transaction) -> None:
            tx.set_meta(f"k{n}", "x")
            order.append(n)

        return run

    with held(store):
        futures = [store.submit(job(n), large=n in (1, 3, 4)) for n in range(6)]
    for future in futures:
        future.result(30)
    assert commits[1:] == [3, 1, 2], "0 to 2, then 3, then 4 and 5"
    assert order == list(range(6))


def test_all_jobs_of_a_transaction_have_the_same_time(database: Database) -> None:
    clock = SettableClock()

    def now() -> Any:
        clock.passes(seconds=1)
        return clock.time

    store = database.open(now)
    with held(store):
        futures = [store.submit(lambda tx: tx.now) for _ in range(5)]
    assert len({future.result(30) for future in futures}) == 1
    assert store.submit(lambda tx: tx.now).result(30) > futures[0].result()


def test_jobs_run_in_the_order_of_submission(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH", 7)
    store, order = database.open(), list[int]()

    def record(n: int) -> Callable[[Transaction], None]:
        return lambda _tx: order.append(n)

    with held(store):
        futures = [store.submit(record(n)) for n in range(100)]
    for future in futures:
        future.result(30)
    assert order == list(range(100))


def test_a_result_is_returned_after_the_commit(database: Database) -> None:
    store, other = database.open(), database.open()
    for n in range(20):
        store.submit(put("k", str(n))).result(30)
        assert meta(other, "k") == str(n)


def test_a_job_sees_what_an_earlier_job_of_its_transaction_wrote(database: Database) -> None:
    store = database.open()
    with held(store):
        store.submit(lambda tx: add(tx, session(id="s1")))
        found = store.submit(lambda tx: tx.session("s1"))
    assert found.result(30) is not None


def test_every_job_of_many_threads_runs_once(database: Database) -> None:
    store = database.open()
    store.submit(put("count", "0")).result(30)

    def add(tx: Transaction) -> int:
        count = int(tx.meta("count") or 0) + 1
        tx.set_meta("count", str(count))
        return count

    results: list[int] = []

    def work() -> None:
        results.extend(store.submit(add).result(30) for _ in range(25))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(1, 201))
    assert meta(store, "count") == "200"


# --- failing jobs -----------------------------------------------------------------------------------------------------


def refuse(tx: Transaction) -> None:
    raise NoPinFree


def test_a_job_refused_before_its_first_write_does_not_affect_the_others(database: Database) -> None:
    commits: Log = []
    store = database.open(committed=lambda _tx: commits.append(1))
    with held(store):
        futures: list[Future[Any]] = [store.submit(refuse if n == 5 else put(f"k{n}")) for n in range(10)]
    with pytest.raises(NoPinFree):
        futures[5].result(30)
    assert [future.result(30) for future in futures[:5] + futures[6:]] == [f"k{n}" for n in range(10) if n != 5]
    assert len(commits) == 2, "no job ran twice"


@pytest.mark.parametrize("error", [NoPinFree(), ValueError("a defect")], ids=["a refusal", "a defect"])
def test_a_job_that_fails_after_it_has_written_is_rolled_back_alone(database: Database, error: Exception) -> None:
    store = database.open()

    def fail(tx: Transaction) -> None:
        tx.set_meta("bad", "half done")
        add(tx, session(id="bad"))
        raise error

    with held(store):
        futures: list[Future[Any]] = [store.submit(fail if n == 5 else put(f"k{n}")) for n in range(10)]
    with pytest.raises(type(error)):
        futures[5].result(30)
    for n in [0, 1, 2, 3, 4, 6, 7, 8, 9]:
        assert futures[n].result(30) == f"k{n}"
        assert meta(store, f"k{n}") == "x"
    assert meta(store, "bad") is None
    assert store.read(lambda view: view.session("bad")) is None


def test_a_defect_before_the_first_write_does_not_affect_the_others(database: Database) -> None:
    store = database.open()

    def defect(tx: Transaction) -> None:
        raise ZeroDivisionError

    with held(store):
        futures: list[Future[Any]] = [store.submit(defect if n == 1 else put(f"k{n}")) for n in range(3)]
    with pytest.raises(ZeroDivisionError):
        futures[1].result(30)
    assert [meta(store, f"k{n}") for n in range(3)] == ["x", None, "x"]
    assert store.failing is None, "a defect is no failure of the database"


@pytest.mark.parametrize("neighbours", [0, 5])
def test_a_job_whose_random_id_exists_draws_another(database: Database, neighbours: int) -> None:
    store = database.open()
    store.submit(lambda tx: add(tx, session(id="taken"))).result(30)
    draws = iter(["taken", "taken", "free"])

    def draw(tx: Transaction) -> str:
        drawn = next(draws)
        add(tx, session(id=drawn, label="drawn"))
        return drawn

    with held(store):
        others = [store.submit(put(f"k{n}")) for n in range(neighbours)]
        drawn = store.submit(draw)
    assert drawn.result(30) == "free"
    assert [future.result(30) for future in others] == [f"k{n}" for n in range(neighbours)]
    taken, free = (store.read(lambda view, name=name: view.session(name)) for name in ("taken", "free"))  # type: ignore[misc]
    assert (taken and taken.label, free and free.label) == ("Ada’s meeting", "drawn")
    assert store.failing is None


def test_a_job_that_always_draws_existing_ids_fails(database: Database) -> None:
    store = database.open()
    store.submit(lambda tx: add(tx, session(id="taken"))).result(30)
    runs: Log = []

    def draw(tx: Transaction) -> None:
        runs.append(1)
        add(tx, session(id="taken"))

    with pytest.raises(RuntimeError, match="5 times in a row"):
        store.submit(draw).result(30)
    assert len(runs) == 1 + writer.COLLISIONS
    assert store.failing is None, "the job failed, not the database"
    assert store.submit(put("k")).result(30) == "k"


def test_an_error_in_a_notification_after_the_commit_does_not_repeat_a_job(database: Database) -> None:
    def fail(tx: Transaction) -> None:
        raise RuntimeError("a defect in the notification")

    store = database.open(committed=fail)
    runs: Log = []

    def job(tx: Transaction) -> str:
        runs.append(1)
        tx.set_meta("k", str(len(runs)))
        return "done"

    assert store.submit(job).result(30) == "done"
    assert (runs, meta(store, "k")) == ([1], "1")
    assert store.submit(put("after")).result(30) == "after"


# --- the scheduler ----------------------------------------------------------------------------------------------------


def test_the_scheduler_has_precedence_over_waiting_requests(database: Database) -> None:
    store, order = database.open(), list[str]()
    with held(store):
        futures = [store.submit(lambda _tx: order.append("request")) for _ in range(3)]
        futures.append(store.submit(lambda _tx: order.append("clock"), clock=True))
    for future in futures:
        future.result(30)
    assert order == ["clock", "request", "request", "request"]


def test_a_batch_of_requests_runs_between_two_batches_of_the_scheduler(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BATCH", 2)
    store, order = database.open(), list[str]()
    with held(store):
        futures = [store.submit(lambda _tx: order.append("r")) for _ in range(5)]
        futures += [store.submit(lambda _tx: order.append("C"), clock=True) for _ in range(4)]
    for future in futures:
        future.result(30)
    assert "".join(order) == "CrrCrrCrC"


# --- overload and stop ------------------------------------------------------------------------------------------------


def test_a_job_beyond_the_queue_limit_is_refused_at_once_unless_it_is_of_the_scheduler(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WAITING", 5)
    store = database.open()
    with held(store):
        futures = [store.submit(put(f"k{n}")) for n in range(5)]
        with pytest.raises(Overloaded):
            store.submit(put("one more"))
        futures.append(store.submit(put("clock"), clock=True))
    assert [future.result(30) for future in futures] == ["k0", "k1", "k2", "k3", "k4", "clock"]
    assert meta(store, "one more") is None
    assert store.submit(put("later")).result(30) == "later", "the queue has room again"


def test_a_stop_finishes_waiting_jobs_and_refuses_new_ones(database: Database) -> None:
    store = database.open()
    refused = threading.Event()

    def submit_refused() -> bool:
        try:
            store.submit(lambda _tx: None)
        except Draining:
            refused.set()
        return refused.is_set()

    with held(store):
        futures = [store.submit(put(f"k{n}")) for n in range(300)]
        stopping = threading.Thread(target=store.close)
        stopping.start()
        eventually(submit_refused)
    stopping.join(30)
    assert not stopping.is_alive()
    assert [future.result(0) for future in futures] == [f"k{n}" for n in range(300)]
    assert meta(database.open(), "k299") == "x"


def test_after_a_stop_every_job_is_refused(database: Database) -> None:
    store = database.open()
    store.close()
    with pytest.raises(Draining):
        store.submit(put("k"))
    with pytest.raises(Draining):
        asyncio.run(store.transact(put("k")))


# --- coroutines -------------------------------------------------------------------------------------------------------


def test_concurrent_coroutines_share_a_transaction_and_each_gets_its_own_result(database: Database) -> None:
    commits: Log = []
    store = database.open(committed=lambda _tx: commits.append(1))

    async def all_at_once() -> list[Any]:
        jobs = [store.transact(refuse if n == 3 else put(f"k{n}")) for n in range(40)]
        return await asyncio.gather(*jobs, return_exceptions=True)

    with held(store):
        waiting = threading.Thread(target=lambda: results.extend(asyncio.run(all_at_once())))
        results: Log = []
        waiting.start()
        eventually(lambda: len(store._writer._requests) == 40)
    waiting.join(30)
    assert isinstance(results.pop(3), NoPinFree)
    assert results == [f"k{n}" for n in range(40) if n != 3]
    assert len(commits) == 2


def test_a_job_that_raises_stop_iteration_gets_an_error_and_does_not_affect_the_others(database: Database) -> None:
    """A future refuses `StopIteration`, which Python uses for the end of an iterator."""
    store = database.open()

    def defect(_tx: Transaction) -> None:
        raise StopIteration

    async def all_at_once() -> list[Any]:
        jobs: list[Any] = [store.transact(job) for job in (defect, put("k"))]
        return await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 30)

    error, name = asyncio.run(all_at_once())
    assert isinstance(error, RuntimeError)
    assert name == "k"


def test_the_job_of_a_cancelled_coroutine_is_still_executed(database: Database) -> None:
    store = database.open()

    async def wait_briefly() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(store.transact(put("k")), timeout=0.05)

    with held(store):
        asyncio.run(wait_briefly())  # its loop is closed before the job has run
    assert store.submit(put("after")).result(30) == "after"
    assert meta(store, "k") == "x"


def test_a_result_is_converted_after_the_commit_on_the_writers_thread(database: Database) -> None:
    commits: Log = []
    store = database.open(committed=lambda _tx: commits.append(1))

    def convert(name: str) -> tuple[str, int, str]:
        return name.upper(), len(commits), threading.current_thread().name

    assert asyncio.run(store.transact_then(put("k"), convert)) == ("K", 1, "writer")
    assert meta(store, "k") == "x"


class Panic(BaseException):
    """An exception that is no `Exception`, as extension modules raise some."""


@pytest.mark.parametrize("kind", [ZeroDivisionError, Panic])
def test_an_error_in_a_conversion_reaches_its_caller_alone_and_the_change_stays(
    database: Database, kind: type[BaseException]
) -> None:
    store = database.open()

    def fail(_name: str) -> None:
        raise kind

    async def both() -> list[Any]:
        jobs: list[Any] = [store.transact_then(put("k1"), fail), store.transact(put("k2"))]
        return await asyncio.gather(*jobs, return_exceptions=True)

    failed, name = asyncio.run(both())
    assert isinstance(failed, kind)
    assert name == "k2"
    assert [meta(store, one) for one in ("k1", "k2")] == ["x", "x"]


def test_a_refused_job_is_not_converted(database: Database) -> None:
    store = database.open()
    converted: Log = []

    with pytest.raises(NoPinFree):
        asyncio.run(store.transact_then(refuse, converted.append))
    assert not converted


# --- a failing database -----------------------------------------------------------------------------------------------


def lose_the_database(tx: Transaction) -> None:
    """Raise an error as if the database were unreachable."""
    postgresql = tx._connection.dialect.name == "postgresql"
    tx.execute(text("SELECT pg_terminate_backend(pg_backend_pid())" if postgresql else "UPDATE nowhere SET x = 1"))


def test_a_failure_and_the_recovery_are_each_logged_once(database: Database) -> None:
    health: list[str | None] = []
    store = database.open(health=health.append)
    for _ in range(3):
        with pytest.raises(StoreUnavailable) as failed:
            store.submit(lose_the_database).result(30)
        assert failed.value.__cause__ is not None
    assert len(health) == 1
    assert store.failing == health[0]
    assert store.failing
    assert store.submit(put("k")).result(30) == "k"
    assert store.failing is None
    assert health[1:] == [None]


def test_a_job_with_invalid_sql_affects_others_only_briefly(database: Database) -> None:
    store = database.open()
    with held(store):
        store.submit(put("before"))
        bad = store.submit(lambda tx: tx.execute(text("UPDATE nowhere SET x = 1")))
    with pytest.raises((StoreUnavailable, ProgrammingError)):
        bad.result(30)
    assert store.submit(put("after")).result(30) == "after"


def test_a_value_that_the_database_cannot_store_is_not_reported_as_an_unreachable_database(database: Database) -> None:
    health: list[str | None] = []
    store = database.open(health=health.append)
    with pytest.raises((StatementError, OverflowError, TypeError)):
        store.submit(lambda tx: add(tx, session(agent_id=2**80))).result(30)
    assert (health, store.failing) == ([], None)
    assert store.submit(put("k")).result(30) == "k"


def test_a_failed_read_is_reported_and_the_next_succeeds(database: Database) -> None:
    store = database.open()
    with pytest.raises((StoreUnavailable, ProgrammingError)):
        store.read(lambda view: view._connection.execute(text("SELECT * FROM nowhere")))
    assert store.read(lambda view: view.last_seq()) == 0


def test_writes_fail_only_while_another_process_holds_the_lock_of_sqlite(
    sqlite_server: SqliteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 30)
    health: list[str | None] = []
    with sqlite_server.database() as database:
        store = database.open(health=health.append)
        other = sqlite3.connect(database.url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            store.submit(put("k")).result(30)
        assert store.failing == "database is locked"
        assert store.read(lambda view: view.last_seq()) == 0, "reads still succeed"
        other.execute("ROLLBACK")
        other.close()
        assert store.submit(put("k")).result(30) == "k"
    assert health == ["database is locked", None]


def test_a_connection_that_the_server_closed_is_replaced_and_no_job_is_refused(pg_server: PostgresServer) -> None:
    cut = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'tminus' AND pid <> pg_backend_pid()"
    )
    with pg_server.database() as database:
        health: list[str | None] = []
        store, other = database.open(health=health.append), database.open()
        store.submit(put("k")).result(30)
        other.submit(lambda tx: tx.execute(cut).all()).result(30)
        assert store.submit(put("first")).result(30) == "first"
        assert health == []
        assert meta(store, "first") == "x"


def test_the_reason_of_a_failure_contains_no_label_or_token(database: Database) -> None:
    health: list[str | None] = []
    store = database.open(health=health.append)
    store.submit(lambda tx: add(tx, session(id="taken"))).result(30)
    secret = "SecretSecretSecretSecretSecretSe"
    with pytest.raises(RuntimeError) as failed:
        store.submit(lambda tx: add(tx, session(id="taken", host_auth_token=secret, created_at=NOW))).result(30)
    assert health == []
    assert secret not in str(failed.value)
    assert secret not in str(failed.value.__cause__)


# --- only on PostgreSQL -----------------------------------------------------------------------------------------------


def with_options(database: Database, options: str) -> str:
    return make_url(database.url).update_query_dict({"options": options}).render_as_string(hide_password=False)


def test_a_write_that_waits_too_long_for_a_lock_fails_with_the_reason(
    pg_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_watch, "STUCK", 1.0)
    monkeypatch.setattr(server_watch, "INTERVAL", 0.1)
    with pg_server.database() as database:
        health: list[str | None] = []
        store = database.open(health=health.append)
        with closing(psycopg.connect(database.url.replace("+psycopg", ""))) as other:
            other.execute("LOCK TABLE meta IN ACCESS EXCLUSIVE MODE")
            writing = store.submit(put("k"))
            with pytest.raises(StoreUnavailable) as unread:
                meta(store, "k")
            with pytest.raises(StoreUnavailable):
                writing.result(30)
            assert health == ["no answer within 1 s, given up"]
            assert failures.reason(unread.value.__cause__ or unread.value) == "no answer within 1 s, given up"
            unreadable = store.unreadable()
            assert unreadable is not None
            assert unreadable.why == "no answer within 1 s, given up"
            assert unreadable.seconds > 1, "counted from the start of the read"

        def is_healthy() -> bool:  # after a failure, the writer also tries to write to every table within the second
            return try_to_write(store, put("k")) == "k" and health[-1] is None

        assert eventually(is_healthy)


def test_a_daemon_frozen_in_a_transaction_blocks_the_others_only_for_seconds(pg_server: PostgresServer) -> None:
    with pg_server.database() as database:
        frozen = Store(with_options(database, "-c idle_in_transaction_session_timeout=2s"), SettableClock())
        other = database.open()
        begun, thaw = threading.Event(), threading.Event()

        def freeze(tx: Transaction) -> str:
            tx.set_meta("k", "frozen")
            begun.set()
            assert thaw.wait(30)
            tx.set_meta("k", "thawed")
            return "done"

        freezing = frozen.submit(freeze)
        assert begun.wait(30)
        assert other.submit(put("k", "other")).result(30) == "k"
        thaw.set()
        with pytest.raises(StoreUnavailable):
            freezing.result(30)
        assert meta(other, "k") == "other"
        eventually(lambda: try_to_write(frozen, put("k", "again")))
        frozen.close()


def try_to_write(store: Store, job: Callable[[Transaction], str]) -> str | None:
    with suppress(StoreUnavailable):
        return store.submit(job).result(30)
    return None


def test_locks_of_a_frozen_daemon_are_released_and_those_of_a_live_one_are_not(
    pg_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pg_server.database() as database:
        unwatched = Watch()

        def new_locks() -> AdvisoryLocks:
            return AdvisoryLocks(engine.make_engine(database.url, writes=True, idle_seconds=1), unwatched)

        monkeypatch.setattr(locks, "KEEP_ALIVE_INTERVAL", 60.0)
        with closing(new_locks()) as frozen:
            assert frozen.acquire("desk")
            monkeypatch.setattr(locks, "KEEP_ALIVE_INTERVAL", 0.1)
            with closing(new_locks()) as live:
                assert live.acquire("shop")
                begun = monotonic()
                eventually(lambda: monotonic() > begun + 1.5)
                with closing(new_locks()) as another:
                    assert another.acquire("desk")
                    assert not another.acquire("shop")
            assert not frozen.acquire("desk"), "the first attempt finds that the lock was lost"
            eventually(lambda: frozen.acquire("desk"))


def test_connection_parameters_of_the_url_override_those_of_tminus(pg_server: PostgresServer) -> None:
    with pg_server.database() as database:
        url = make_url(with_options(database, "-c search_path=mine -c tcp_keepalives_count=7"))
        named = url.update_query_dict({"application_name": "desk"}).render_as_string(hide_password=False)
        made = engine.make_engine(named, writes=True)
        with made.connect() as connection:
            shown = [
                connection.execute(text(f"SHOW {name}")).scalar()
                for name in ("search_path", "application_name", "idle_in_transaction_session_timeout")
            ]
        made.dispose()
    assert shown == ["mine", "desk", "5s"]


@pytest.mark.parametrize(
    ("of_the_server", "of_the_url", "in_force"),
    [
        ("off", "", "on"),
        ("local", "", "local"),
        ("remote_apply", "", "remote_apply"),
        ("on", "off", "off"),
    ],
)
def test_commits_wait_for_the_disk_unless_the_url_says_otherwise(
    pg_server: PostgresServer, of_the_server: str, of_the_url: str, in_force: str
) -> None:
    with pg_server.database() as database:
        name = make_url(database.url).database
        pg_server._admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = {of_the_server}")
        url = with_options(database, f"-c synchronous_commit={of_the_url}") if of_the_url else database.url
        made = engine.make_engine(url, writes=True)
        with made.connect() as connected:
            assert connected.execute(text("SHOW synchronous_commit")).scalar() == in_force
        made.dispose()


@pytest.mark.parametrize("ends", [KeyboardInterrupt, SystemExit])
def test_a_failed_opening_of_a_database_leaves_no_thread(
    pg_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, ends: type[BaseException]
) -> None:
    def interrupted(*_: object) -> None:
        raise ends

    monkeypatch.setattr("tminus.storage.migrate.upgrade", interrupted)
    with pg_server.database() as database, pytest.raises(ends):
        database.open()
    assert [thread.name for thread in threading.enumerate() if thread.name == "watch"] == []


def test_a_commit_whose_wait_for_a_standby_is_cancelled_is_not_acknowledged(pg_server: PostgresServer) -> None:
    """No standby has the transaction, so it would be lost with this server."""
    waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'"
    health: list[str | None] = []
    with pg_server.database() as database:
        store = Database("postgresql", with_options(database, "-c synchronous_commit=on")).open(health=health.append)
        assert store.submit(put("k", "before")).result(30)
        pg_server._admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        pg_server._admin.execute("SELECT pg_reload_conf()")
        try:
            written = [store.submit(put("k", "after"))]

            def is_cancelled() -> bool:
                # No query shows when the server's checkpointer has read the setting. Until then a commit does not wait.
                if written[-1].done():
                    written.append(store.submit(put("k", "after")))
                return bool(pg_server._admin.execute(f"SELECT pg_cancel_backend(pid) {waiting}").fetchall())

            eventually(is_cancelled)
            with pytest.raises(StoreUnavailable):
                written[-1].result(30)
            assert [bool(one and "canceling wait for synchronous replication" in one) for one in health] == [True]
        finally:
            pg_server._admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            pg_server._admin.execute("SELECT pg_reload_conf()")
        assert meta(store, "k") == "after", "like after a connection that broke during the commit"
        eventually(lambda: try_to_write(store, put("k", "again")) and health[-1] is None)
        store.close()


def test_postgresqls_error_messages_for_damage_are_recognised() -> None:
    for found in (psycopg.errors.DataCorrupted("invalid page in block 0"), psycopg.errors.IndexCorrupted("x")):
        assert failures.is_damage(OperationalError("SELECT", None, found))
    assert not failures.is_damage(OperationalError("SELECT", None, psycopg.errors.DiskFull("x")))
