"""A real pgbouncer between the daemon and a PostgreSQL that listens on a socket in the file system."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import make_url

from tests.support.databases import Database
from tests.support.waiting import eventually

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


class Pooler:
    """A running pgbouncer.

    Parameters
    ----------
    folder
        A directory for its files.
    settings
        Its settings, besides the pool mode.
    """

    def __init__(self, database: Database, folder: Path, mode: str, settings: Mapping[str, str | int]) -> None:
        self.port = free_port()
        url = make_url(database.url)
        self.url = f"postgresql+psycopg://{url.username}@127.0.0.1:{self.port}/{url.database}"
        """The database through the pooler."""
        # It refuses to run as root, and only the owner may enter the socket's directory.
        host = str(url.query.get("host") or url.host)
        self._as_user = ["-u", Path(host).owner()] if os.geteuid() == 0 else []
        self._databases = f"[databases]\n{url.database} = host={host} user={url.username}\n"
        self._settings = {
            "listen_addr": "127.0.0.1", "listen_port": self.port, "unix_socket_dir": "", "auth_type": "any",
            "ignore_startup_parameters": "options, extra_float_digits", **settings,
        }  # fmt: skip
        self._config, self._log = folder / "pgbouncer.ini", folder / "log"
        self._start(mode)

    def restart(self, mode: str) -> None:
        """Stop it, which closes all connections, and start it on the same port with another pool mode."""
        self.stop()
        self._start(mode)

    def stop(self) -> None:
        """Stop it at once; return when it has ended."""
        self._process.kill()
        self._process.wait(60)

    def _start(self, mode: str) -> None:
        assert PGBOUNCER is not None
        settings = {**self._settings, "pool_mode": mode}
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        self._config.write_text(f"{self._databases}[pgbouncer]\n{lines}")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([PGBOUNCER, *self._as_user, self._config], stdout=log, stderr=log)
        try:
            eventually(self._listens)
        except BaseException:
            self.stop()
            raise

    def _listens(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def pooler(database: Database, mode: str, **settings: str | int) -> Iterator[Pooler]:
    """Run a pgbouncer in front of a database, with no settings that are specific to tminus."""
    folder = Path(tempfile.mkdtemp(prefix="tminus-pooler-"))
    folder.chmod(0o755)
    try:
        bouncer = Pooler(database, folder, mode, settings)
        try:
            yield bouncer
        finally:
            bouncer.stop()
    finally:
        shutil.rmtree(folder)
