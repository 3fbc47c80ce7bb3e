"""The composition root: the only place that builds an engine, a scheduler, a server; start, reload, drain, stop."""

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
from tminus.config import ConfigError, Configuration
from tminus.delivery import Webhooks
from tminus.domain import timestamps
from tminus.domain.errors import StartupError, printable
from tminus.domain.events import News
from tminus.logs import output
from tminus.logs.output import error_fields, log
from tminus.logs.repeated import REPEATED
from tminus.monitoring.event_log import EventLog
from tminus.monitoring.outages import Outages
from tminus.scheduler.scheduler import Scheduler
from tminus.service.health import Health
from tminus.service.http_server import LAST_REQUESTS, Server
from tminus.service.signals import StartSignals
from tminus.service.sockets import open_listeners
from tminus.service.startup import Starting
from tminus.storage import Store, StoreObserver, Transaction
from tminus.system import threads
from tminus.system.systemd import ServiceManager

HINT = 'schedule --type live --label "Demo" --in 10m5s'

AGAIN = 1.0
"""Seconds after which a start that waits for a disk tries again."""


class Daemon:
    """Everything that runs, from start to stop. A context: leaving it stops what was started, in order."""

    def __init__(
        self,
        configuration: Configuration,
        path: Path | None,
        state: Path,
        environ: Mapping[str, str],
        signals: StartSignals,
    ) -> None:
        self._path = path
        self._state = state
        self._environ = environ
        self._stopping = signals.stopping
        self._signals = signals
        self._ready = False
        settings = configuration.settings
        with contextlib.ExitStack() as started:
            self._systemd = ServiceManager(environ)
            started.callback(self._systemd.close)
            self._listeners = open_listeners(settings, state, environ, started)
            settings = settings.model_copy(update={"server": self._listeners.bound})
            database, secrets = config.read_all(
                configuration.origins,
                lambda: config.database(settings, state, environ),
                lambda: delivery.read_secrets(settings, state, environ),
            )
            self._starting = Starting(self._listeners.tcp, self._listeners.local, settings.limits.connections)
            self._starting.start()
            started.callback(self._starting.close)
            self._doing("opening the database")
            threads.report_to(_tell_thread)
            self._outages = Outages(lambda: self.store.writing_for, self._refused, self._blocked)
            self.store = self._open_store(database)
            started.callback(self.store.close)
            clock.follow(self.store.now)
            if self.store.migrated_from != self.store.schema:
                log("storage.migrated", previous_schema=self.store.migrated_from, schema=self.store.schema)
            webhooks = Webhooks(self.store, state, self._tried)
            self.services = Services(self.store, settings, webhooks, self._not_ready, socket.gethostname(), self._notes)
            started.callback(self.services.close)
            self.services.metrics.set_config(configuration.fingerprint)
            # On SQLite there is one log; on PostgreSQL one for each daemon, known by what no two of them share.
            log_name = (
                ""
                if config.database_file(settings, state) is not None
                else f"{socket.gethostname()}:{printable(state)}"
            )
            self._event_log = EventLog(self.store, self._say_events, self._ring, name=log_name)
            self.services.metrics.log_seq.set_function(lambda: self._event_log.seq)
            if left := self._event_log.left:
                log("log.resumed", events=left, after=self._event_log.seq)
            self._event_log.start()
            started.callback(self._stop_telling)
            webhooks.start()
            started.callback(webhooks.stop)
            webhooks.apply(settings, secrets)
            tell_status = self._tell_status if self._systemd.is_present else None
            self._scheduler = Scheduler(
                self.services, self._event_log, self._stopping, self._feed_watchdog, tell_status, self._outages
            )
            self._timers = self._scheduler.timers
            self._health = Health(self.store, self._timers, self._stopping)
            self.services.metrics.heartbeat_age.set_function(lambda: self._timers.age)
            application = make_application(self.services)
            # The local socket has a server of its own: whoever fills the other with connections locks no operator out.
            self._servers = [Server(application, self._listeners.tcp, settings.limits.connections, self._share)]
            if self._listeners.local:
                self._servers.append(Server(application, self._listeners.local, None))
            # Last: until here a signal to stop ends it, and what was started must not be left running.
            self._started = started.pop_all()

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        self._started.close()

    def _share(self, peer: str) -> int | None:
        """How many connections one address may have; None: any number, as a trusted proxy brings many clients."""
        settings = self.services.settings
        return None if trusted(peer, settings) else settings.limits.connections_per_address or None

    async def serve(self) -> None:
        """Does what fell due while it was away, then serves until a signal says to stop."""
        self._loop = loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain, number)
        reload = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        if self._signals.reload.is_set():
            reload.set()  # asked for while it started: the file may have changed since it was read

        self._doing("doing what fell due while no daemon was there")
        due, counts = await asyncio.to_thread(self._scheduler.first_tick)
        if self._stopping.is_set():
            return
        self._timers.start()
        self._started.callback(self._timers.stop)
        reloading = asyncio.create_task(self._reload_when_asked(reload))
        self._starting.stop()
        serving = asyncio.gather(*(server.serve_all() for server in self._servers))
        # What was loaded until now stays for ever; to look it all over takes a tenth of a second, and stops everything.
        gc.collect()
        gc.freeze()
        # Requests on their way are more objects than the usual 700: they would be looked over again and again.
        gc.set_threshold(20_000)
        self._ready = True
        self._scheduler.wait_for(due)
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
        telling = asyncio.create_task(self._tell_ready())
        await serving
        telling.cancel()
        reloading.cancel()

    async def _tell_ready(self) -> None:
        """Tells systemd as soon as all servers take connections."""
        for server in self._servers:
            await server.begun.wait()
        status = await asyncio.to_thread(self._health.status)
        if not self._stopping.is_set():
            self._systemd.ready(status)

    def _drain(self, number: int) -> None:
        if self._stopping.is_set():
            for server in self._servers:
                server.force_exit = True  # asked twice: whoever still waits is let go
            return
        log("daemon.draining", signal=signal.Signals(number).name)
        self._stopping.set()
        self._systemd.stopping()
        if self._listeners.inherited:
            # Who comes from now on waits with systemd for the next daemon. Who came just now is still served.
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

    # --- how it goes --------------------------------------------------------------------------------------------------

    def _feed_watchdog(self) -> None:
        """On the event loop, so that one that hangs starves it, too; and not while a transaction hangs."""
        if self._systemd.has_watchdog and not self.store.stuck:
            with contextlib.suppress(RuntimeError):  # the loop has ended, as the timers are about to
                self._loop.call_soon_threadsafe(self._systemd.alive)

    def _doing(self, what: str) -> None:
        """What there is to be done before it is ready."""
        self._starting.doing = f"{what}, since {timestamps.text(clock.now())}"
        self._systemd.status(what)

    def _not_ready(self) -> list[str]:
        return self._health.not_ready()

    def _notes(self) -> list[str]:
        return self._health.notes()

    def _tell_status(self) -> None:
        if not self._stopping.is_set():
            self._systemd.status(self._health.status())

    def _open_store(self, database: config.Database) -> Store:
        """Opens the database; while its disk is full or read-only, says so and waits."""
        observer = StoreObserver(
            committed=self._committed,
            health=self._outages.health,
            damaged=_tell_damage,
            waiting=self._wait_for_migration,
            peer_committed=self._peer_committed,
        )
        failing: str | None = None
        while True:
            try:
                if isinstance(database.url, Path):
                    config.create_private_database(database.url)
                return Store(database.url, None, observer, password=database.password)
            except StartupError as error:
                if not error.transient:
                    raise
                if error.problem != failing:
                    failing = error.problem
                    log("storage.unavailable", error=failing)
                    self._doing(f"waiting for the database: {failing}")
            # A signal to stop ends this.
            time.sleep(AGAIN)

    def _committed(self, tx: Transaction) -> None:
        """On the writer's thread, after a commit."""
        self.services.metrics.committed(tx.transitions, tx.jobs)
        if self._ready:
            self._scheduler.wait_for(tx.earliest_due)
        if tx.newest_seq is not None:
            self._event_log.wake(tx.recorded, tx.newest_seq)

    def _stop_telling(self) -> None:
        REPEATED.write(everything=True)
        self._outages.close()
        if left := self._event_log.stop():
            log("log.behind", events=left)

    def _peer_committed(self, due: datetime | None) -> None:
        """On a thread of the store's: another daemon has committed."""
        if not self._ready:
            return  # it is about to look at everything
        self._scheduler.wait_for(due)
        self._event_log.wake()
        if due is None:
            self.services.webhooks.wake(also_blocked=True)  # perhaps an operator has resumed one there, or replays

    def _ring(self) -> None:
        """There are new events, of this process or another one. On any thread."""
        self.services.notifier.notify()
        self.services.webhooks.wake()

    def _tried(self, endpoint: str, ok: bool, events: int) -> None:
        self.services.metrics.attempted(endpoint, ok, events)

    def _wait_for_migration(self) -> None:
        self._doing("waiting for others, to bring the database's schema up to date")
        log("storage.waiting")

    def _say_events(self, page: Sequence[News], done: Callable[[bool], None]) -> None:
        output.log_events(page, done, self.services.actor_names)

    def _refused(self) -> int:
        return self.services.unavailable if hasattr(self, "services") else 0  # the store begins first

    def _blocked(self, seconds: float) -> None:
        self.services.metrics.blocked.inc(seconds)

    # --- reload -------------------------------------------------------------------------------------------------------

    async def _reload_when_asked(self, asked: asyncio.Event) -> None:
        """However often it is asked while a reload runs, one more is enough: it reads the files anew."""
        while not self._stopping.is_set():
            await asked.wait()
            asked.clear()
            self._systemd.reloading()
            try:
                await asyncio.to_thread(self._reload)
            except Exception as error:
                log("config.failed", **error_fields(error))
            finally:
                self._systemd.reloaded()

    def _reload(self) -> None:
        """Puts a changed configuration in force: all of it, or none of it and the log says why."""
        old = self.services.settings
        try:
            loaded = config.load(config.find(self._path, self._environ), self._environ)
            [secrets] = config.read_all(
                loaded.origins, lambda: delivery.read_secrets(loaded.settings, self._state, self._environ)
            )
        except ConfigError as error:
            self._reject(error)
            return
        read = loaded.settings.model_copy(
            update={"server": self._listeners.with_bound_addresses(loaded.settings.server)}
        )
        changes = config.changes(old, read)
        new = config.apply_live(old, read)
        self.services.webhooks.apply(new, secrets)
        self.services.apply(new)
        output.configure(new.log.level, new.log.format)
        for change in changes:
            name = "config.needs_restart" if change.needs_restart else "config.changed"
            log(name, key=change.key, old=change.old or None, new=change.new or None)
        self.services.metrics.set_config(loaded.fingerprint)
        self.services.metrics.config_rejected.set(0)
        log(
            "config.reloaded",
            changes=len(changes),
            config=printable(loaded.path or "built-in defaults"),
            config_files=[printable(file) for file in loaded.files],
            config_fingerprint=loaded.fingerprint,
        )
        self._scheduler.follow(old, new)

    def _reject(self, error: ConfigError) -> None:
        self.services.metrics.config_rejected.set(1)
        log("config.rejected", faults=len(error.problems))
        log_config_problems(error)


def log_config_problems(error: ConfigError) -> None:
    """A line for each fault of a configuration."""
    for problem in error.problems:
        log("config.fault", where=problem.where, key=problem.key, error=problem.message)


def _command() -> str:
    """What to type where this was typed, to call the command again: `make run` calls one that is not on the PATH."""
    called = sys.argv[0]
    return "tminus" if Path(called).name != "tminus" or shutil.which("tminus") == called else shlex.quote(called)


def _tell_damage(text: str) -> None:
    log("storage.damaged", error=text)


def _tell_thread(name: str, error: BaseException) -> None:
    log("thread.failed", thread=name, **error_fields(error))
