"""The systems under test: daemons, their database, their callers and receivers, and the means to inject faults."""

import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine

from tests.soak.calendars import Subscriber
from tests.soak.callers import Caller
from tests.soak.followers import FeedReader, Moods, Moody, Sink
from tests.soak.lives import LongLived
from tests.soak.mailbox import Mailbox
from tests.soak.model import Model
from tests.soak.planners import Planner
from tests.soak.requests import Requester
from tests.support.databases import start_postgresql
from tests.support.proxy import Proxy
from tests.support.receivers import SECRET
from tminus.storage.engine import read_only_engine

FIXTURES = Path(__file__).parents[1] / "acceptance" / "fixtures"

CALLERS = 5
PAUSE = 0.2
"""Mean seconds between two calls of one caller."""

PLANNERS = 2
PLANNERS_PAUSE = 1.5

LEADS = ("500ms", "1s", "2s")
LONGEST_LEAD = 2.0


class Stage:
    """Daemons on one database, with their callers and the receivers of their events.

    Parameters
    ----------
    folder
        The directory of their files.
    seed
        The seed of all random choices.
    """

    name = ""
    daemons_wanted = 1

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(f"{seed} {self.name}")
        self.model = Model()
        self.kept = False
        """Whether its database and directories are kept at the end, for an examination."""
        self.prepare()
        self.sinks = {name: Sink(random.Random(f"{seed} {self.name} {name}")) for name in ("desk", "extra")}
        self.mailbox = Mailbox(random.Random(f"{seed} {self.name} mailbox"))
        self.secret = folder / "secret"
        self.secret.write_text(SECRET)
        self.daemons = [LongLived(f"{self.name} {number + 1}") for number in range(self.daemons_wanted)]
        self._daemon_choice = random.Random(f"{seed} {self.name} turn")
        self.feed = FeedReader(f"{self.name} feed", self.url)
        self.subscriber = Subscriber(self.name, self.url, self.model.count)
        receivers: dict[str, Moody] = {**self.sinks, "mail": self.mailbox}
        self.moods = [
            Moods(name, one, random.Random(f"{seed} {self.name} mood {name}")) for name, one in receivers.items()
        ]
        self.callers = [
            Caller(
                f"{self.name} caller {number}", self.model, self.url, random.Random(f"{seed} {self.name} {number}"),
                PAUSE, lambda: self.sinks["desk"].high,
            )
            for number in range(CALLERS)
        ]  # fmt: skip
        self.planners = [
            Planner(
                f"{self.name} planner {number}", self.model, self.url,
                random.Random(f"{seed} {self.name} planner {number}"), PLANNERS_PAUSE,
            )
            for number in range(PLANNERS)
        ]  # fmt: skip

    # --- what a subclass defines --------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Create the database and the means to inject faults."""

    def storage(self) -> Mapping[str, Any]:
        """Return the `[storage]` section of the configuration."""
        return {}

    def environment(self) -> Mapping[str, str]:
        """Return additional environment variables of the daemons."""
        return {}

    def engine(self) -> Engine:
        """Return an engine on the database that no fault affects."""
        raise NotImplementedError

    def calm(self) -> None:
        """End all faults outside the daemons."""

    def close(self) -> None:
        """Stop the database."""

    # --- common to all stages -----------------------------------------------------------------------------------------

    def url(self) -> str:
        """Return the URL of a random daemon, which may be down."""
        return self._daemon_choice.choice(self.daemons).url

    def configure(self, *, extra: bool) -> None:
        """Write a configuration with random time-outs, the same for all daemons. `extra`: with a second endpoint."""
        lifecycle = {
            "lead": self.random.choice(LEADS),
            "new_timeout": self.random.choice(("10s", "30s", "1h")),
            "empty_timeout": self.random.choice(("2s", "6s")),
            "max_active": self.random.choice(("", "15s", "40s")),
            "reminders": self.random.choice(([], ["1s"], ["3s", "500ms"])),
        }
        mail = {
            "host": "127.0.0.1", "port": self.mailbox.port, "security": "none", "from": "Desk <desk@example.com>",
            "timeout": "2s", "language": self.random.choice(("en", "de")),
        }  # fmt: skip
        webhooks = [
            {"name": name, "url": sink.url, "secret_file": str(self.secret), "from": "beginning", "timeout": "1s500ms"}
            for name, sink in self.sinks.items()
            if extra or name != "extra"
        ]
        for daemon in self.daemons:
            daemon.configure(
                storage=self.storage(), lifecycle=lifecycle, webhooks=webhooks, mail=mail,
                limits={"mails_per_agent": ""},
                log={"format": "json", "heartbeat": self.random.choice(("2s", "10s"))},
            )  # fmt: skip

    def reload(self, *, extra: bool) -> None:
        self.configure(extra=extra)
        for daemon in self.daemons:
            daemon.signal(signal.SIGHUP)

    def open(self) -> None:
        """Start the daemons."""
        self.configure(extra=True)
        for daemon in self.daemons:
            daemon.start(**self.environment())

    def begin(self) -> None:
        """Start the callers and the readers."""
        self.kept = True  # until all checks have passed
        for thread in (self.feed, self.subscriber, *self.moods, *self.callers, *self.planners):
            thread.start()

    def stop_calling(self) -> None:
        threads: list[Moods | Requester | Subscriber] = [
            *self.moods, *self.callers, *self.planners, self.subscriber,
        ]  # fmt: skip
        for thread in threads:
            thread.stopping.set()
        for thread in threads:
            thread.join(120)

    def end(self) -> None:
        """Stop everything that still runs, and remove what is not kept."""
        self.feed.stopping.set()
        for daemon in self.daemons:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.wanted = False
                daemon.kill()
            if not self.kept:
                daemon.remove()
        for sink in self.sinks.values():
            sink.close()
        self.mailbox.close()
        self.close()


class OnSqlite(Stage):
    """One daemon on SQLite, whose wall clock can be set, and whose disk can fail, if there is a C compiler."""

    name = "sqlite"

    def prepare(self) -> None:
        self.shift = self.folder / "shift"
        self.shift.write_text("0\n")
        self.disk = self.folder / "disk"
        self.fail_disk()
        self.has_compiler = shutil.which("cc") is not None
        self.libraries = [self.folder / f"{name}.so" for name in ("shiftclock", "faildisk")]
        for library in self.libraries if self.has_compiler else ():
            source = FIXTURES / f"{library.stem}.c"
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)

    def environment(self) -> Mapping[str, str]:
        if not self.has_compiler:
            return {}
        return {
            "LD_PRELOAD": " ".join(map(str, self.libraries)),
            "SHIFTCLOCK": str(self.shift),
            "FAILDISK": str(self.disk),
            "FAILDISK_UNDER": str(self.daemons[0].state / "tminus.db"),
        }

    def fail_disk(self, *, sync: int = 0, write: int = 0, slow: int = 0) -> None:
        """Set the error numbers of fsync and write (0: none), and the milliseconds that each fsync takes."""
        self.disk.write_text(f"{sync} {write} {slow} \n")

    def set_clock(self, seconds: int) -> None:
        # In place and with the same length, because a daemon may read it at any moment.
        with self.shift.open("r+b") as file:
            file.write(b"%+06d\n" % seconds)

    def engine(self) -> Engine:
        return read_only_engine(self.daemons[0].state / "tminus.db")

    def calm(self) -> None:
        self.set_clock(0)
        self.fail_disk()


class OnPostgres(Stage):
    """Two daemons on one PostgreSQL, behind a proxy that can be cut and slowed."""

    name = "postgres"
    daemons_wanted = 2

    def prepare(self) -> None:
        # Not in a directory that only its owner may enter, because for root the server runs as another user.
        self.data = Path(tempfile.mkdtemp(prefix="tminus-pg-"))
        self._server = start_postgresql(self.data)
        with psycopg.connect(self._server.get_uri(), autocommit=True) as admin:
            # Its processes are killed, but its power never fails, so no fsync is needed.
            admin.execute("ALTER SYSTEM SET fsync = off")
            admin.execute("SELECT pg_reload_conf()")
            admin.execute("CREATE DATABASE soak")
            row = admin.execute("SHOW unix_socket_directories").fetchone()
            assert row is not None
            folder = row[0].split(",")[0].strip()
        self.proxy = Proxy(f"{folder}/.s.PGSQL.5432")

    def storage(self) -> Mapping[str, Any]:
        return {"url": f"postgresql+psycopg://postgres@127.0.0.1:{self.proxy.port}/soak"}

    def engine(self) -> Engine:
        return create_engine(self._server.get_uri("soak", driver="psycopg"))

    def query(self, query: str) -> list[tuple[Any, ...]]:
        """Run a query on the server without the proxy."""
        with psycopg.connect(self._server.get_uri("soak"), autocommit=True) as connection:
            return connection.execute(query).fetchall()

    def has_recovered(self) -> bool:
        """Return whether the server has recovered. The pause lets it detect that a process was killed."""
        time.sleep(0.2)
        try:
            return bool(self.query("SELECT 1"))
        except psycopg.OperationalError:
            return False

    def calm(self) -> None:
        self.proxy.delay = 0
        self.proxy.end_faults()

    def close(self) -> None:
        self.proxy.__exit__()
        self._server.cleanup()
        if not self.kept:
            shutil.rmtree(self.data, ignore_errors=True)


STAGES: Mapping[str, tuple[type[Stage], ...]] = {
    "sqlite": (OnSqlite,),
    "postgres": (OnPostgres,),
    "both": (OnSqlite, OnPostgres),
}
