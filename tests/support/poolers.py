"""A real pgbouncer between the daemon and a PostgreSQL that listens on a socket in the file system."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url

from tests.support.databases import Database
from tests.support.waiting import eventually

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@dataclass
class Pooler:
    """A running pgbouncer; `url` is the database through it."""

    url: str
    port: int


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def pooler(database: Database, mode: str, **settings: str | int) -> Iterator[Pooler]:
    """Run a pgbouncer in front of a database, with no settings that are specific to tminus."""
    assert PGBOUNCER is not None
    url, port = make_url(database.url), free_port()
    folder = Path(tempfile.mkdtemp(prefix="tminus-pooler-"))
    folder.chmod(0o755)
    lines = {
        "listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "any", "pool_mode": mode,
        "ignore_startup_parameters": "options, extra_float_digits", **settings,
    }  # fmt: skip
    # It refuses to run as root, and only the owner may enter the socket's directory.
    host = str(url.query.get("host") or url.host)
    as_user = ["-u", Path(host).owner()] if os.geteuid() == 0 else []
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{url.database} = host={host} user={url.username}\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in lines.items())
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([PGBOUNCER, *as_user, config], stdout=log, stderr=log)

    def listens() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        eventually(listens)
        yield Pooler(f"postgresql+psycopg://{url.username}@127.0.0.1:{port}/{url.database}", port)
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder)
