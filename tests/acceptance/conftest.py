"""Fixtures that start daemons: one that all tests share, and others for a single test or module."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.acceptance.daemons import JSON, Daemon, Section
from tests.support.databases import KINDS, PostgresServer
from tests.support.receivers import SECRET, Receiver
from tminus.logs.catalogue import LOG_LINES
from tminus.logs.event_fields import EVENT_FIELDS
from tminus.logs.fields import FIELDS, HEAD, fits

StartDaemon = Callable[..., Daemon]


def unexpected_fields(line: JSON) -> list[str]:
    """Return the fields of a line that its catalogue entry does not list, or whose values have another type."""
    known = {*HEAD, *(LOG_LINES[line["event"]].fields if line["event"] in LOG_LINES else EVENT_FIELDS)}
    return [name for name, value in line.items() if name not in known or not fits(FIELDS[name].kind, value)]


DEFECTS = ("http.failed", "clock.failed", "library.said", "storage.unavailable", "storage.damaged")
"""Log lines that a healthy daemon never writes."""

HARMLESS = ("Cancel 1 running task(s), timeout graceful shutdown exceeded",)
"""First words of errors that the HTTP library logs if a request never ends. The client is to blame, not the daemon."""


def check_health(daemon: Daemon) -> None:
    """Stop a daemon; fail the test if it logged a defect or a wrong field, or wrote to standard error."""
    if daemon.process is not None and daemon.process.poll() is None:
        assert daemon.terminate() == 0
    lines = [
        line
        for line in daemon.log_lines()
        if line["event"] in DEFECTS and not line.get("error", "").startswith(HARMLESS)
    ]
    assert not lines, "\n".join(map(str, lines))
    wrong = [(line["event"], names) for line in daemon.log_lines() if (names := unexpected_fields(line))]
    assert not wrong, f"fields that are not in the catalogue, or have another type: {wrong[:5]}"
    assert daemon.errors.read_text() == ""


def shared(**sections: Section) -> Iterator[Daemon]:
    """Yield a daemon that several tests use; its log is checked after the last of them."""
    one = Daemon(**sections)
    try:
        one.start()
        yield one
        check_health(one)
    finally:
        one.remove()


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """A daemon that all tests of one worker share. A test must not stop it, or assume that it has no other sessions."""
    yield from shared(server={"cors_origins": ["https://desk.example.com"]})


@pytest.fixture(scope="module")
def pg_daemon(pg_server: PostgresServer) -> Iterator[Daemon]:
    """A daemon on PostgreSQL. Only the tests of one module share it, because those of other modules stop the server."""
    with pg_server.database(empty=True) as database:
        yield from shared(storage={"url": database.configured})


@pytest.fixture(scope="module", params=KINDS)
def each_daemon(request: pytest.FixtureRequest) -> Daemon:
    """The shared daemons: one on SQLite, one on PostgreSQL."""
    one: Daemon = request.getfixturevalue("daemon" if request.param == "sqlite" else "pg_daemon")
    return one


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The `[storage]` section for an empty database of each kind. Request it before a fixture that starts a daemon."""
    with ExitStack() as stack:
        yield storage_of(request, stack)


def storage_of(request: pytest.FixtureRequest, stack: ExitStack) -> dict[str, Any]:
    """Return the `[storage]` section for an empty database of the kind in `request.param`; `stack` removes it."""
    if request.param == "sqlite":
        return {}
    server: PostgresServer = request.getfixturevalue("pg_server")
    return {"url": stack.enter_context(server.database(empty=True)).configured}


@pytest.fixture
def make_daemon() -> Iterator[StartDaemon]:
    """Return a function that creates a daemon, without starting it; its arguments are sections of the configuration."""
    with ExitStack() as made:

        def make(**sections: Section) -> Daemon:
            one = Daemon(**sections)
            made.callback(one.remove)
            return one

        yield make


@pytest.fixture
def start_daemon(make_daemon: StartDaemon) -> Iterator[StartDaemon]:
    """Return a function that creates and starts a daemon; its log is checked at the end."""
    started: list[Daemon] = []

    def start(**sections: Section) -> Daemon:
        one = make_daemon(**sections)
        one.start()
        started.append(one)
        return one

    yield start
    for one in started:
        check_health(one)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


@pytest.fixture
def sections(
    pg_server: PostgresServer, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Section]]:
    """Return the configuration for several daemons that share one PostgreSQL database and one webhook endpoint."""
    secret = tmp_path_factory.mktemp("secret") / "desk"
    secret.write_text(SECRET)
    with pg_server.database(empty=True) as database:
        yield {
            "storage": {"url": database.configured},
            "lifecycle": {"lead": "1s"},
            "webhooks": [{"name": "desk", "url": receiver.url, "secret_file": str(secret)}],
        }
