"""Build, connect, start, drain and stop the parts of the daemon. No other module does this."""

import asyncio
import contextlib
import gc
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from tminus import clock, config, delivery
from tminus.api import Services, make_application, trusted
from tminus.clock import ManualClock
from tminus.config import Configuration
from tminus.delivery import Webhooks
from tminus.domain import timestamps
from tminus.domain.errors import StartupError, printable
from tminus.domain.events import LogEvent
from tminus.domain.types import MailState
from tminus.logs import output
from tminus.logs.output import error_fields, log
from tminus.logs.repeated import REPEATED
from tminus.monitoring.event_log import EventLog
from tminus.monitoring.outages import Outages
from tminus.oidc import settings as oidc
from tminus.scheduler import sources
from tminus.scheduler.scheduler import Scheduler
from tminus.service.clock_choice import TestClockStart, bind_clock
from tminus.service.health import Health
from tminus.service.http_server import LAST_REQUESTS, Server
from tminus.service.reload import Reloader
from tminus.service.signals import StartSignals
from tminus.service.sockets import open_listeners
from tminus.service.startup import StartupServer
from tminus.service.websocket_exchange import Rates
from tminus.storage import Store, StoreObserver, Transaction
from tminus.system import threads
from tminus.system.systemd import ServiceManager

HINT = 'schedule --type live --label "Demo" --in 10m5s'
"""Arguments of a command that a new user can try, for the line `daemon.ready`."""

RETRY_AFTER = 1.0
"""Seconds after which a start that waits for the database's disk tries again."""


class Daemon:
    """All parts of the daemon. A context manager: leaving it stops what was started, in reverse order."""

    def __init__(
        self,
        configuration: Configuration,
        path: Path | None,
        state: Path,
        environ: Mapping[str, str],
        signals: StartSignals,
        test_clock: TestClockStart | None = None,
    ) -> None:
        self._state = state
        self._test_clock = None if test_clock is None else ManualClock(test_clock.at or clock.machine())
        self._stopping = signals.stopping
        self._signals = signals
        self._ready = False
        settings = configuration.settings
        with contextlib.ExitStack() as started:
            self._systemd = ServiceManager(environ)
            started.callback(self._systemd.close)
            self._listeners = open_listeners(settings, state, environ, started)
            settings = settings.model_copy(update={"server": self._listeners.bound})
            database, secrets, access = config.read_all(
                configuration.origins,
                lambda: config.database(settings, state, environ),
                lambda: delivery.read_secrets(settings, state, environ),
                lambda: oidc.read(settings, state, environ),
            )
            self._startup_server = StartupServer(
                self._listeners.tcp, self._listeners.local, settings.limits.connections
            )
            self._startup_server.start()
            started.callback(self._startup_server.close)
            self._report_progress("opening the database")
            threads.report_to(_log_thread_failure)
            self._outages = Outages(lambda: self.store.writing_for, self._refused, self._blocked)
            self.store = self._open_store(database)
            started.callback(self.store.close)
            bind_clock(self.store, self._test_clock, test_clock, _described(database))
            if self.store.migrated_from != self.store.schema:
                log("storage.migrated", previous_schema=self.store.migrated_from, schema=self.store.schema)
            webhooks = Webhooks(self.store, state, self._attempted, on_mail=self._mailed)
            self.services = Services(self.store, settings, webhooks, self._not_ready, socket.gethostname(), self._notes)
            self.services.issuer = oidc.issuer_for(access)
            started.callback(self.services.close)
            self.services.metrics.set_config(configuration.fingerprint)
            # The daemon's name in a database that several daemons may share. SQLite has one daemon, without a name.
            name = (
                ""
                if config.database_file(settings, state) is not None
                else f"{socket.gethostname()}:{printable(state)}"
            )
            self.services.rooms.name = name
            self._event_log = EventLog(self.store, self._log_events, self._notify_of_events, name=name)
            self.services.metrics.log_seq.set_function(lambda: self._event_log.seq)
            if left := self._event_log.left:
                log("log.resumed", events=left, after=self._event_log.seq)
            self._event_log.start()
            started.callback(self._stop_logging)
            webhooks.start()
            started.callback(webhooks.stop)
            webhooks.apply(settings, secrets)
            self._scheduler = self._make_scheduler()
            self._timers = self._scheduler.timers
            self._health = Health(self.store, self._timers, self._stopping, has_test_clock=self._test_clock is not None)
            self.services.metrics.heartbeat_age.set_function(lambda: self._timers.age)
            application = make_application(self.services)
            # The local socket has its own server: clients that use up the TCP connections lock out no operator.
            most = settings.limits.connections
            self._servers = [Server(application, self._listeners.tcp, most, self._most_per_address, self._rates)]
            if self._listeners.local:
                self._servers.append(Server(application, self._listeners.local, None, rates=self._rates))
            self._reloader = Reloader(path, state, environ, self._listeners, self.services, self._scheduler)
            # Last: a signal to stop raises up to here, and then this `with` statement stops what was started.
            self._started = started.pop_all()

    def _make_scheduler(self) -> Scheduler:
        report_status = self._report_status if self._systemd.is_present else None
        scheduler = Scheduler(
            self.services, self._event_log, self._stopping, self._feed_watchdog, report_status, self._outages,
            self._test_clock,
        )  # fmt: skip
        self.services.throttle_log = self._event_log.throttled
        self.services.clock.test_clock = scheduler.clock_moves
        self.services.metrics.test_clock.set(self._test_clock is not None)
        self.services.clock.next_due = sources.next_due
        return scheduler

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        self._started.close()

    def _most_per_address(self, peer: str) -> int | None:
        """Return how many connections an address may have; None: any number, for a proxy with many clients."""
        settings = self.services.settings
        return None if trusted(peer, settings) else settings.limits.connections_per_address or None

    def _rates(self) -> Rates:
        """Return what the client of a WebSocket may send."""
        limits = self.services.settings.limits
        return Rates(limits.websocket_messages, limits.websocket_bytes)

    async def serve(self) -> None:
        """Execute what fell due during the downtime, then serve until a signal to stop."""
        self._loop = loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain, number)
        reload = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        if self._signals.reload.is_set():
            reload.set()  # SIGHUP came during the start: the file may have changed since it was read

        self._report_progress("executing what fell due while no daemon ran")
        await asyncio.to_thread(self.services.rooms.await_reconnects)
        due, counts = await asyncio.to_thread(self._scheduler.first_tick)
        # Before the daemon reports that it is ready: no client may then be answered by the startup server.
        await asyncio.to_thread(self._startup_server.stop)
        if self._stopping.is_set():
            return
        self._scheduler.start()
        self._started.callback(self._scheduler.stop)
        reloading = asyncio.create_task(self._reload_on(reload))
        serving = asyncio.gather(*(server.serve_all() for server in self._servers))
        # All objects loaded so far live as long as the process. Each full collection of them would take 0.1 s.
        gc.freeze()
        self._ready = True
        self._scheduler.add_deadline(due)
        server = self.services.settings.server
        log(
            "daemon.ready",
            url=f"http://{server.listen}",
            socket=printable(server.socket_path(self._state) or "") or None,
            sessions={status.value: number for status, number in counts.items()},
            next_due=due and timestamps.text(due),
            inherited=list(self._listeners.inherited) or None,
            hint=f"{_command()} {HINT}",
        )
        notifying = asyncio.create_task(self._notify_ready())
        rooms = asyncio.create_task(self.services.rooms.run())
        known_agents = asyncio.create_task(self.services.known_agents.run(self.store))
        await serving
        known_agents.cancel()
        rooms.cancel()
        await asyncio.to_thread(self.services.rooms.await_reconnects, will_stop=True)
        notifying.cancel()
        reloading.cancel()

    async def _notify_ready(self) -> None:
        """Notify systemd as soon as all servers accept connections."""
        for server in self._servers:
            await server.begun.wait()
        status = await asyncio.to_thread(self._health.status)
        if not self._stopping.is_set():
            self._systemd.ready(status)

    def _drain(self, number: int) -> None:
        if self._stopping.is_set():
            for server in self._servers:
                server.force_exit = True  # the second signal: end the requests that still run
            return
        log("daemon.draining", signal=signal.Signals(number).name)
        self._stopping.set()
        self._systemd.stopping()
        if self._listeners.inherited:
            # Later connections wait in systemd's socket for the next daemon. Those that have just arrived are served.
            for server in self._servers:
                server.stop_listening()
            self._loop.call_later(LAST_REQUESTS, self._end_serving)
        else:
            self._end_serving()

    def _end_serving(self) -> None:
        self.services.draining = True
        self.services.notifier.notify()
        self.services.webhooks.drain()
        for server in self._servers:
            server.should_exit = True

    # --- reports ------------------------------------------------------------------------------------------------------

    def _feed_watchdog(self) -> None:
        """Feed systemd's watchdog through the event loop, so that it is not fed if the loop or a transaction hangs."""
        if self._systemd.has_watchdog and not self.store.stuck:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the timers are about to
                self._loop.call_soon_threadsafe(self._systemd.alive)

    def _report_progress(self, what: str) -> None:
        """Report what the start is doing, to systemd and at `/readyz`."""
        self._startup_server.progress = f"{what}, since {timestamps.text(clock.now())}"
        self._systemd.status(what)

    def _not_ready(self) -> list[str]:
        return self._health.not_ready()

    def _notes(self) -> list[str]:
        return self._health.notes()

    def _report_status(self) -> None:
        if not self._stopping.is_set():
            self._systemd.status(self._health.status())

    def _open_store(self, database: config.Database) -> Store:
        """Open the database; wait, with a log line, while its disk is full or read-only."""
        observer = StoreObserver(
            committed=self._committed,
            health=self._outages.health,
            damaged=_log_damage,
            waiting=self._wait_for_migration,
            peer_committed=self._peer_committed,
        )
        failing: str | None = None
        while True:
            try:
                if isinstance(database.url, Path):
                    config.create_private_database(database.url)
                now = None if self._test_clock is None else self._test_clock.now
                return Store(database.url, now, observer, password=database.password)
            except StartupError as error:
                if not error.transient:
                    raise
                if error.problem != failing:
                    failing = error.problem
                    log("storage.unavailable", error=failing)
                    self._report_progress(f"waiting for the database: {failing}")
            # A signal to stop ends this by an exception.
            time.sleep(RETRY_AFTER)

    def _committed(self, tx: Transaction) -> None:
        """Announce a commit of this process. Called on the writer's thread."""
        if not hasattr(self, "services"):
            return  # the first commit, which binds the database to its clock: nothing else is built yet
        self.services.metrics.committed(tx.transitions, tx.jobs, tx.reminders)
        if self._ready:
            self._scheduler.add_deadline(tx.earliest_due)
        if tx.newest_seq is not None:
            self._event_log.wake(tx.recorded, tx.newest_seq)

    def _stop_logging(self) -> None:
        REPEATED.write(everything=True)
        self._outages.close()
        if left := self._event_log.stop():
            log("log.behind", events=left)

    def _peer_committed(self, due: datetime | None) -> None:
        """Follow a commit of another daemon. Called on the store's listening thread."""
        if not self._ready:
            return  # the start is about to read everything
        self._scheduler.add_deadline(due)
        self._event_log.wake()
        self.services.known_agents.wake()
        if due is None:
            # A commit without a deadline may be an operator's: an endpoint was resumed, or a replay started.
            self.services.webhooks.wake(also_blocked=True)

    def _notify_of_events(self) -> None:
        """Wake the readers of the feed and the delivery workers. Called on any thread when there are new events."""
        self.services.notifier.notify()
        self.services.webhooks.wake()

    def _attempted(self, endpoint: str, ok: bool, events: int) -> None:
        self.services.metrics.attempted(endpoint, ok, events)

    def _mailed(self, state: MailState) -> None:
        self.services.metrics.mailed(state)

    def _wait_for_migration(self) -> None:
        self._report_progress("waiting for other processes to upgrade the database's schema")
        log("storage.waiting")

    def _log_events(self, page: Sequence[LogEvent], done: Callable[[bool], None]) -> None:
        output.log_events(page, done, self.services.actor_names)

    def _refused(self) -> int:
        # The store, which may call this, is opened before the services are built.
        return self.services.unavailable if hasattr(self, "services") else 0

    def _blocked(self, seconds: float) -> None:
        self.services.metrics.blocked.inc(seconds)

    # --- reload -------------------------------------------------------------------------------------------------------

    async def _reload_on(self, requested: asyncio.Event) -> None:
        """Reload on each request. Several requests during a reload cause one more, which reads the files again."""
        while not self._stopping.is_set():
            await requested.wait()
            requested.clear()
            self._systemd.reloading()
            try:
                await asyncio.to_thread(self._reloader.reload)
            except Exception as error:
                self.services.metrics.config_rejected.set(1)
                log("config.failed", **error_fields(error))
            finally:
                self._systemd.reloaded()


def _command() -> str:
    """Return how to call the command again in the same shell: that of `make run` is not on the PATH."""
    called = sys.argv[0]
    return "tminus" if Path(called).name != "tminus" or shutil.which("tminus") == called else shlex.quote(called)


def _described(database: config.Database) -> str:
    return printable(database.url) if isinstance(database.url, Path) else "the database of storage.url"


def _log_damage(text: str) -> None:
    log("storage.damaged", error=text)


def _log_thread_failure(name: str, error: BaseException) -> None:
    log("thread.failed", thread=name, **error_fields(error))
