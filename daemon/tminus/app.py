"""The composition root: the only place that builds an engine, a scheduler, a server; start, reload, drain, stop."""

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import ASGIApp

from tminus import __version__, clock, config, instants, logs
from tminus.announcer import Announcer
from tminus.api import Services, make_application
from tminus.config import Address, ConfigError, Configuration, Settings
from tminus.errors import CannotListen, StartupError, StoreUnavailable
from tminus.logs import failure, say
from tminus.sessions import sweeps
from tminus.storage import Store, Transaction
from tminus.timers import Chores, Timers
from tminus.vocabulary import Timeouts

DRAIN_SECONDS = 7
"""How long running requests may take to finish once the daemon was told to stop."""

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than common proxies keep theirs, so that they close first."""

BACKLOG = 2048
"""Connections that wait to be accepted: those that come while the daemon starts, too."""

CLEANING = timedelta(minutes=10)
"""How often retention removes what is old."""

LATE = timedelta(seconds=1)
"""From here on a sweep tells how late it was."""

HINT = 'tminus schedule --type live --label "Demo" --in 10m5s'


def run(path: Path | None, environ: Mapping[str, str]) -> int:
    """Runs the daemon until a signal ends it; returns the exit code. Raises `ConfigError` before anything is begun."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload before there is anything to reload must not end it
    configuration = config.load(config.find(path, environ), environ)
    settings = configuration.settings
    logs.configure(settings.log.level, settings.log.format)
    state = config.state_directory(environ)
    say("daemon.starting", version=__version__, config=str(configuration.path or "built-in defaults"), state=str(state))
    try:
        with config.occupy(state), Daemon(configuration, path, state, environ) as daemon:
            uvloop.run(daemon.serve())
    except (StartupError, ConfigError) as error:
        say("daemon.failed", error=error.description)
        return 1
    say("daemon.stopped")
    return 0


class Daemon:
    """Everything that runs, from start to stop. A context: leaving it stops what was started, in order."""

    def __init__(
        self, configuration: Configuration, path: Path | None, state: Path, environ: Mapping[str, str]
    ) -> None:
        self._path = path
        self._state = state
        self._environ = environ
        self._stopping = threading.Event()
        self._ready = False
        self._deadlines_settled = False
        """Whether all stored deadlines follow the time-outs in force."""
        self._worst_lag = timedelta(0)
        settings = configuration.settings
        with contextlib.ExitStack() as started:
            self._sockets, settings = _listen(settings, state, started)
            database = config.database(settings, state, environ)
            self.store = Store(database.url, clock.now, self._committed, _tell_health, password=database.password)
            started.callback(self.store.close)
            if self.store.migrated_from != self.store.schema:
                say("storage.migrated", **{"from": self.store.migrated_from, "to": self.store.schema})
            self.services = Services(self.store, settings, self._not_ready, socket.gethostname())
            started.callback(self.services.close)
            self._announcer = Announcer(self.store, logs.say_event)
            self._announcer.start()
            started.callback(self._announcer.stop)
            self._timers = Timers(self._tick, self._chores(settings))
            self._started = started.pop_all()
        application = make_application(self.services)
        # The local socket has a server of its own: whoever fills the other with connections locks no operator out.
        limits = (settings.limits.connections, None)
        self._servers = [_Server(_server_config(application, limit)) for limit in limits[: len(self._sockets)]]

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        self._started.close()

    async def serve(self) -> None:
        """Does what fell due while it was away, then serves until a signal says to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain, number)
        reloads: asyncio.Queue[None] = asyncio.Queue()
        loop.add_signal_handler(signal.SIGHUP, reloads.put_nowait, None)

        due = await asyncio.to_thread(self._tick)
        if self._stopping.is_set():
            return
        self._timers.start()
        self._started.callback(self._timers.stop)
        reloading = asyncio.create_task(self._reload_when_asked(reloads))
        serving = asyncio.gather(
            *(server.serve([listener]) for server, listener in zip(self._servers, self._sockets, strict=True))
        )
        # What was loaded until now stays for ever; to look it all over takes a tenth of a second, and stops everything.
        gc.collect()
        gc.freeze()
        self._ready = True
        self._wait_for(due)
        counts = self.store.read(lambda view: view.counts())
        server = self.services.settings.server
        say(
            "daemon.ready",
            url=f"http://{server.listen}",
            socket=str(server.socket_path(self._state) or "") or None,
            sessions={status.value: number for status, number in counts.items()},
            next_due=due and instants.text(due),
            hint=HINT,
        )
        await serving
        reloading.cancel()

    def _drain(self, number: int) -> None:
        if self._stopping.is_set():
            for server in self._servers:
                server.force_exit = True  # asked twice: whoever still waits is let go
            return
        say("daemon.draining", signal=signal.Signals(number).name)
        self._stopping.set()
        self.services.draining = True
        for server in self._servers:
            server.should_exit = True

    # --- what time does -----------------------------------------------------------------------------------------------

    def _wait_for(self, due: datetime | None) -> None:
        if due is not None:
            self._timers.due_at(due)

    def _tick(self) -> datetime | None:
        """Does what is due; returns the next deadline. Raises `StoreUnavailable`."""
        if self.store.failing is not None:
            # Only a write can tell that writing works again, and nobody else may be asking for one.
            self.store.submit(lambda tx: tx.set_meta("written", instants.text(tx.now)), clock=True).result()
        timeouts = self.services.settings.lifecycle.timeouts
        if not self._deadlines_settled:
            self._deadlines_settled = True
            self._settle_deadlines(timeouts)
        due = self.store.read(lambda view: view.next_due())
        if due is None or due > clock.now():
            return due
        with self._announcer.held_back():
            sweep = sweeps.advance(self.store.submit, timeouts, self._should_stop)
        self._worst_lag = max(self._worst_lag, sweep.worst_lag)
        for trigger, moves in sweep.moves.items():
            self.services.metrics.moves.labels(trigger).inc(moves)
        self.services.metrics.lag.observe(sweep.worst_lag.total_seconds())
        if sweep.worst_lag > LATE:
            say("clock.late", lag_ms=instants.milliseconds(sweep.worst_lag), moves=sweep.moves.total())
        if sweep.without_pin:
            say("clock.no_pin", waiting=sweep.without_pin)
        return self.store.read(lambda view: view.next_due())

    def _settle_deadlines(self, timeouts: Timeouts) -> None:
        try:
            sweeps.prepare(self.store.submit, timeouts)
            moved = sweeps.follow_timeouts(self.store.submit, timeouts, self._should_stop)
        except StoreUnavailable:
            self._deadlines_settled = False  # the next tick tries again
            raise
        if moved:
            say("deadlines.moved", moved=moved)

    def _should_stop(self) -> bool:
        """Asked between two batches of a long sweep."""
        self._timers.beat()
        return self._stopping.is_set()

    def _chores(self, settings: Settings) -> Chores:
        chores: Chores = {"retention": (CLEANING, self._clean)}
        if settings.log.heartbeat is not None:
            chores["heartbeat"] = (settings.log.heartbeat, self._heartbeat)
        return chores

    def _clean(self) -> None:
        removed = sweeps.clean(self.store.submit, self.services.settings.storage.retention, self._stopping.is_set)
        if removed:
            say("retention.removed", removed=removed)

    def _heartbeat(self) -> None:
        counts, due = self.store.read(lambda view: (view.counts(), view.next_due()))
        worst, self._worst_lag = self._worst_lag, timedelta(0)
        requests, self.services.requests = self.services.requests, 0
        say(
            "daemon.heartbeat",
            sessions={status.value: number for status, number in counts.items()},
            next_due=due and instants.text(due),
            worst_lag_ms=instants.milliseconds(worst),
            requests=requests,
        )

    def _committed(self, tx: Transaction) -> None:
        """On the writer's thread, after a commit."""
        if tx.earliest_due is not None and self._ready:
            self._timers.due_at(tx.earliest_due)
        if tx.told:
            self._announcer.wake()

    def _not_ready(self) -> list[str]:
        reasons = []
        if self._stopping.is_set():
            reasons.append("it is stopping")
        if not self._timers.alive:
            reasons.append("the clock has stopped")
        if self.store.failing is not None:
            reasons.append(f"the database cannot be written: {self.store.failing}")
        try:
            self.store.read(lambda view: view.next_due())
        except StoreUnavailable as error:
            reasons.append(f"the database cannot be read: {type(error.__cause__).__name__}")
        return reasons

    # --- reload -------------------------------------------------------------------------------------------------------

    async def _reload_when_asked(self, asked: asyncio.Queue[None]) -> None:
        while True:
            await asked.get()
            try:
                await asyncio.to_thread(self._reload)
            except Exception as error:
                say("config.failed", **failure(error))

    def _reload(self) -> None:
        """Puts a changed configuration in force: all of it, or none of it and the log says why."""
        old = self.services.settings
        try:
            read = config.load(config.find(self._path, self._environ), self._environ).settings
        except ConfigError as error:
            say("config.rejected", faults=len(error.faults))
            for fault in error.faults:
                say("config.fault", where=fault.where, key=fault.key, error=fault.message)
            return
        # `listen` with port 0 became a real port at start: that is no change.
        if read.server.listen.port == 0:
            listen = Address(read.server.listen.host, old.server.listen.port)
            read = read.model_copy(update={"server": read.server.model_copy(update={"listen": listen})})
        changes = config.changes(old, read)
        new = config.apply_live(old, read)
        self.services.apply(new)
        logs.configure(new.log.level, new.log.format)
        for change in changes:
            name = "config.needs_restart" if change.needs_restart else "config.changed"
            say(name, key=change.key, old=change.old or "(nothing)", new=change.new or "(nothing)")
        say("config.reloaded", changes=len(changes))
        self._timers.set_chores(self._chores(new))
        self._deadlines_settled = False
        self._wait_for(self._tick())


class _Server(uvicorn.Server):
    """uvicorn, without its signal handlers: it would raise SIGTERM again after its own graceful stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server_config(application: ASGIApp, connections: int | None) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http="httptools",
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        limit_concurrency=connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )


def _tell_health(failing: str | None) -> None:
    if failing is None:
        say("storage.recovered")
    else:
        say("storage.unavailable", error=failing)


# --- the process's surroundings ---------------------------------------------------------------------------------------


def _listen(settings: Settings, state: Path, started: contextlib.ExitStack) -> tuple[list[socket.socket], Settings]:
    """Opens the listening sockets before anything else is begun, so that whoever calls meanwhile waits, and is not
    refused. Returns them, and the settings with the port that was really taken.
    """
    address, path = settings.server.listen, settings.server.socket_path(state)
    sockets = []
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        tcp = socket.socket(family, socket.SOCK_STREAM)
        started.callback(tcp.close)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((address.host, address.port))
        tcp.listen(BACKLOG)
        sockets.append(tcp)
    except OSError as error:
        raise CannotListen(str(address), f"cannot be listened on ({error.strerror or error})") from error
    if path is not None:
        try:
            sockets.append(_listen_locally(path, started))
        except OSError as error:
            raise CannotListen(str(path), f"cannot be listened on ({error.strerror or error})") from error
    bound = Address(address.host, tcp.getsockname()[1])
    server = settings.server.model_copy(update={"listen": bound})
    return sockets, settings.model_copy(update={"server": server})


def _listen_locally(path: Path, started: contextlib.ExitStack) -> socket.socket:
    """The local socket: whoever the file system lets in (owner and group) is trusted."""
    local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    started.callback(local.close)
    _remove_stale(path)
    before = os.umask(0o117)
    try:
        local.bind(str(path))
    finally:
        os.umask(before)
    started.callback(path.unlink, missing_ok=True)
    local.listen(BACKLOG)
    return local


def _remove_stale(path: Path) -> None:
    """Removes the socket that a killed daemon has left behind; nothing else, and none that somebody listens on."""
    if not path.exists():
        return
    if not path.is_socket():
        raise OSError(errno.EEXIST, "there is another file of that name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise OSError(errno.EADDRINUSE, "somebody listens there")
    path.unlink()
