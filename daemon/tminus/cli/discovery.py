"""Where a command finds the daemon: the local socket, and whose it may be.

A command reads of the configuration only `server.socket`; what checks the rest is loaded only where that cannot be
read. So it starts fast however large the configuration is, and works while another part of it is wrong.
"""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

from tminus.system import checkout

SYSTEM_FILE = Path("/etc/tminus/tminus.toml")
SERVICE_SOCKET = Path("/run/tminus/tminus.sock")
"""Where `systemd/tminus.socket` has the local socket."""

SERVICE_STATE = Path("/var/lib/tminus")
"""The state directory of `systemd/tminus.service`."""

ROOT = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A socket that may be the daemon's, and the users who may listen there."""

    socket: Path
    owners: frozenset[int] | None
    """None: whoever does, root or the caller has let him."""


def candidates(explicit: Path | None, environ: Mapping[str, str]) -> list[Candidate]:
    """Where to look for the local socket, in this order; empty if the configuration has none.

    Where nothing says which daemon is meant, neither `explicit` (--config) nor a variable, it is the one of the working
    directory, else the one that runs as a service. In a working directory that others can write to anybody may have
    put a socket: only the caller's own, and root's, are trusted there.

    Raises `ConfigError` if the configuration cannot be read.
    """
    name = _socket_name(explicit, environ)
    if not name:
        return []
    state = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if state:
        return [named(Path(state).absolute() / name)]
    here = Path("var")
    with suppress(FileNotFoundError):  # a working directory that was removed has no path
        here = here.absolute()
    found = [Candidate(here / name, frozenset({ROOT, os.geteuid()}))]
    if not _is_named(explicit, environ) and checkout.configuration_file() is None:
        found += [named(SERVICE_SOCKET), named(SERVICE_STATE / name)]
    return found


def named(socket: Path) -> Candidate:
    """A socket that the caller has named, or that is the service's.

    Where nobody but root or the caller can put a socket, any user may listen: systemd's socket is the daemon's by then.
    Elsewhere the directory's owner may, too.
    """
    me = os.geteuid()
    try:
        folder = socket.parent.stat()
    except OSError:
        return Candidate(socket, frozenset({ROOT, me}))
    if folder.st_uid in (ROOT, me) and not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Candidate(socket, None)
    return Candidate(socket, frozenset({ROOT, me, folder.st_uid}))


def _socket_name(explicit: Path | None, environ: Mapping[str, str]) -> str:
    """`server.socket`. What is not plainly right is left to those who read all of it, and say what is wrong."""
    path = explicit or Path(environ.get("TMINUS_CONFIG") or checkout.configuration_file() or SYSTEM_FILE)
    try:
        name = _override(environ)
        if name is None:
            name = _written(path, is_optional=not _is_named(explicit, environ))
        return "tminus.sock" if name is None else name
    except (OSError, ValueError, RecursionError):
        from tminus import config  # noqa: PLC0415 - pydantic takes longer to load than most commands take

        read = config.load(config.find(explicit, environ), environ)
        return read.settings.server.socket


def _is_named(explicit: Path | None, environ: Mapping[str, str]) -> bool:
    return explicit is not None or bool(environ.get("TMINUS_CONFIG"))


def _override(environ: Mapping[str, str]) -> str | None:
    text = environ.get("TMINUS_SERVER__SOCKET")
    if text is None or text[:1] not in ('"', "'"):
        return text
    raise ValueError("this is a TOML value")


def _written(path: Path, *, is_optional: bool) -> str | None:
    """The last of the files that has the key, as they are merged. Raises `OSError`, `ValueError`."""
    found: str | None = None
    for file in _files(path, is_optional=is_optional):
        if file is not path and not file.is_file():
            raise ValueError(f"{file} is no plain file")
        data = file.read_bytes()
        if b"socket" not in data:
            continue
        import tomllib  # noqa: PLC0415 - few files have the key

        server = tomllib.loads(data.decode("utf-8-sig")).get("server", {})
        value = server.get("socket") if isinstance(server, dict) else ""
        if not isinstance(server, dict) or not isinstance(value, str | NoneType):
            raise ValueError("this is no path")  # noqa: TRY004 - as TOML's own errors
        found = found if value is None else value
    return found


def _files(path: Path, *, is_optional: bool) -> list[Path]:
    if not path.exists():
        if is_optional:
            return []
        raise FileNotFoundError(path)
    try:
        beside = sorted(file for file in (path.parent / "conf.d").iterdir() if file.suffix == ".toml")
    except (FileNotFoundError, NotADirectoryError):
        beside = []
    return [path, *(file for file in beside if file.name[0] != ".")]
