"""Connections to PostgreSQL: their settings, and the checks that each new connection has to pass.

There may be a pooler between the daemon and the server. It may drop start-up options without an error, and it may run
two transactions of one connection in two sessions of the server. Then settings, advisory locks, LISTEN and prepared
statements are lost, or belong to another client. Therefore the daemon makes its settings with `set_config` and checks
every new connection.
"""

import re
import select
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import psycopg
from psycopg.pq import Escaping, ExecStatus

from tminus import clock
from tminus.storage.failures import NoAnswer, TimedOut, Unsuitable

ANSWER_TIMEOUT = 3
"""Maximum seconds for connecting, and for each answer to a check or to the watchdog's query. libpq needs an integer."""

PROBES = 2
"""Number of other connections that are opened to check a connection through a pooler. Each occupies a session of the
server. Poolers assign the session that was used last, or first. If a connection still has the same session while two
others are occupied, that is not by chance: the pooler assigns whole sessions.
"""

_PARAMETERS: Mapping[str, Any] = {
    "application_name": "tminus",
    "connect_timeout": ANSWER_TIMEOUT,
    # So that the daemon detects within seconds that the server has vanished without closing its connections.
    "tcp_user_timeout": 5000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
}
_SETTINGS: Mapping[str, str] = {
    # So that the server detects that a daemon has vanished.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "2",
    # If a daemon or its machine is suspended in a transaction, it holds a lock for which all other daemons wait.
    "idle_in_transaction_session_timeout": "5s",
}
_SETTING = re.compile(r"(?:-c\s*|--)([A-Za-z_][\w.-]*)=((?:\\.|[^\\\s])*)")
"""One setting in libpq's `options`. In a value, a space is escaped by a backslash."""


class Server:
    """A PostgreSQL server, or a pooler in front of one.

    Parameters
    ----------
    parameters
        The arguments of `psycopg.connect`, as SQLAlchemy derives them from a URL.
    idle_seconds
        Seconds without a statement after which the server closes a connection; None: never.
    """

    _probe_lock = threading.Lock()
    """Held during a check that opens `PROBES` connections: the pool may have few more than the daemon needs."""

    def __init__(self, parameters: Mapping[str, Any], idle_seconds: int | None = None) -> None:
        given = str(parameters.get("options", ""))
        left, settings = _SETTING.sub("", given).strip(), dict(_SETTINGS)
        if idle_seconds is not None:
            settings["idle_session_timeout"] = f"{idle_seconds}s"
        # Settings in the URL are made like the others, because a pooler may drop start-up options.
        settings |= {name.replace("-", "_"): re.sub(r"\\(.)", r"\1", value) for name, value in _SETTING.findall(given)}
        self._parameters = {**_PARAMETERS, **parameters, "options": left}
        self._settings = settings | {"client_encoding": "UTF8"}

    def connect(self, *, autocommit: bool = False) -> psycopg.Connection:
        """Return a checked connection. Raises `Unsuitable`, `NoAnswer`, `psycopg.Error`."""
        connection = psycopg.connect(**self._parameters, autocommit=autocommit)
        try:
            self._check(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def connect_unchecked(self, seconds: int) -> psycopg.Connection:
        """Return a connection for single queries. Raises `psycopg.Error`, at the latest after `seconds`."""
        return psycopg.connect(**{**self._parameters, "connect_timeout": seconds}, autocommit=True)

    def _check(self, connection: psycopg.Connection) -> None:
        asked = b"SELECT pg_backend_pid(), current_setting('server_encoding'), current_setting('synchronous_commit')"
        [[pid, encoding, commits]] = query_rows(connection, asked)
        if encoding != "UTF8":
            raise Unsuitable(
                f"the database's encoding is {encoding}, and tminus needs UTF8"
                " (CREATE DATABASE tminus ENCODING 'UTF8' TEMPLATE template0)"
            )
        if int(pid or 0) != connection.pgconn.backend_pid:
            # The process that answers is not the one that accepted the connection, so there is a pooler. It is checked
            # before settings are made, because they might remain in sessions of other clients.
            with self._probe_lock:
                self._check_pooler(connection, pid)
        escape = Escaping(connection.pgconn).escape_literal
        settings = self._settings
        if commits == "off":  # a server that fails would lose changes which it has acknowledged
            settings = {"synchronous_commit": "on"} | settings
        names = [bytes(escape(name.encode())) for name in settings]
        values = [bytes(escape(value.encode())) for value in settings.values()]
        made = b", ".join(b"set_config(%s, %s, false)" % both for both in zip(names, values, strict=True))
        kept = b", ".join(b"current_setting(%s)" % name for name in names)
        [[*wanted]] = query_rows(connection, b"SELECT " + made)
        [[after, *found]] = query_rows(connection, b"SELECT pg_backend_pid(), " + kept)
        if after != pid:
            raise Unsuitable(_TRANSACTIONS)
        for name, value, want in zip(settings, found, wanted, strict=True):
            if value != want:
                raise Unsuitable(f"the setting {name} is {value} in the next transaction after it was set to {want}")

    def _check_pooler(self, connection: psycopg.Connection, pid: str | None) -> None:
        """Check that this connection keeps its session of the server while other connections run transactions."""
        with ExitStack() as opened:
            for _ in range(PROBES):
                try:
                    other = opened.enter_context(psycopg.connect(**self._parameters, autocommit=True))
                    query_rows(other, b"BEGIN")
                    [[another]] = query_rows(other, b"SELECT pg_backend_pid()")
                    # If the other connection has the same session, the pool may have no second one, and a query on the
                    # first connection would wait.
                    again = pid if another == pid else query_rows(connection, b"SELECT pg_backend_pid()")[0][0]
                except NoAnswer:
                    raise Unsuitable(
                        "a pooler between tminus and PostgreSQL gives it no connection of its own:"
                        " its pool is too small, or it does not pool whole sessions (pool_mode = session)"
                    ) from None
                except psycopg.Error as error:
                    message = " ".join(str(error).split())
                    raise Unsuitable(
                        f"a pooler between tminus and PostgreSQL refuses a transaction ({message}): tminus needs"
                        " whole sessions (pool_mode = session)"
                    ) from None
                if another == pid or again != pid:
                    raise Unsuitable(_TRANSACTIONS)


_TRANSACTIONS = (
    "a pooler between tminus and PostgreSQL gives each transaction another session of the server:"
    " tminus needs whole sessions (pool_mode = session), or no pooler"
)


def query_rows(connection: psycopg.Connection, query: bytes, seconds: float = ANSWER_TIMEOUT) -> list[list[str | None]]:
    """Run one statement outside of psycopg's transactions; return its rows as text.

    Raises `TimedOut` after `seconds`, `psycopg.Error` if the statement is refused or the connection is lost.
    """
    server = connection.pgconn
    until = clock.monotonic() + seconds
    server.send_query(query)
    poll = select.poll()
    poll.register(server.socket, select.POLLIN)
    rows: list[list[str | None]] = []
    refused: bytes | None = None
    while True:
        while server.is_busy():
            if not poll.poll(max(0.0, until - clock.monotonic()) * 1000):
                raise TimedOut(seconds)
            server.consume_input()
        if (result := server.get_result()) is None:
            break
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            refused = refused or result.error_message
            continue
        rows += [
            [_text(result.get_value(row, column)) for column in range(result.nfields)] for row in range(result.ntuples)
        ]
    if refused is not None:
        raise psycopg.OperationalError(refused.decode(errors="replace").strip())
    return rows


def _text(value: bytes | None) -> str | None:
    return None if value is None else bytes(value).decode(errors="replace")
