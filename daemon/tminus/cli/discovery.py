"""Find the daemon's local socket, and the users that may be trusted to listen on it.

A command reads only `server.socket` of the configuration, and loads the full parser only if that cannot be read. So it
starts fast with a large configuration, and works while another part of the configuration is wrong.
"""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import NamedTuple

from tminus.system import checkout

SYSTEM_FILE = Path("/etc/tminus/tminus.toml")
SERVICE_SOCKET = Path("/run/tminus/tminus.sock")
"""The local socket of `systemd/tminus.socket`."""

SERVICE_STATE = Path("/var/lib/tminus")
"""The state directory of `systemd/tminus.service`."""

ROOT = 0


class Candidate(NamedTuple):
    """A socket that may be the daemon's, and the users who may listen on it."""

    socket: Path
    owners: frozenset[int] | None
    """None: any user, since only root and the caller can create a socket there."""


def candidates(explicit: Path | None, environ: Mapping[str, str]) -> list[Candidate]:
    """Return where to look for the local socket, in this order; nothing if the configuration has none.

    With `$STATE_DIRECTORY`, that is the socket there, and no other one. Otherwise it is the socket in `./var`, and then
    those of the systemd service, unless `explicit` (--config), `$TMINUS_CONFIG` or a checkout names a configuration. In
    `./var`, only sockets of the caller and of root are trusted, since others may be able to write there.

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
    """Return the candidate for a socket that the caller has named, or that of the systemd service.

    If only root or the caller can create a socket in its directory, any user may listen: systemd passes its socket to
    the user of the daemon. Otherwise root, the caller and the directory's owner may listen.
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
    """Return `server.socket`. If there is anything unusual, load the whole configuration, which reports errors."""
    path = explicit or Path(environ.get("TMINUS_CONFIG") or checkout.configuration_file() or SYSTEM_FILE)
    try:
        name = _from_environment(environ)
        if name is None:
            name = _from_files(path, is_optional=not _is_named(explicit, environ))
        return "tminus.sock" if name is None else name
    except (OSError, ValueError, RecursionError):
        from tminus import config  # noqa: PLC0415 - loading pydantic takes longer than most commands

        read = config.load(config.find(explicit, environ), environ)
        return read.settings.server.socket


def _is_named(explicit: Path | None, environ: Mapping[str, str]) -> bool:
    return explicit is not None or bool(environ.get("TMINUS_CONFIG"))


def _from_environment(environ: Mapping[str, str]) -> str | None:
    """Return the variable's value, or None. Raises `ValueError` if it is quoted, since then it is TOML."""
    text = environ.get("TMINUS_SERVER__SOCKET")
    if text is None or text[:1] not in ('"', "'"):
        return text
    raise ValueError("this is a TOML value")


def _from_files(path: Path, *, is_optional: bool) -> str | None:
    """Return the value in the last file that has the key, or None. Raises `OSError`, `ValueError`."""
    found: str | None = None
    for file in _files(path, is_optional=is_optional):
        if file is not path and not file.is_file():
            raise ValueError(f"{file} is not a regular file")
        data = file.read_bytes()
        if b"socket" not in data:
            continue
        import tomllib  # noqa: PLC0415 - few files have the key

        server = tomllib.loads(data.decode("utf-8-sig")).get("server", {})
        value = server.get("socket") if isinstance(server, dict) else ""
        if not isinstance(server, dict) or not isinstance(value, str | NoneType):
            raise ValueError("this is not a path")  # noqa: TRY004 - a ValueError, as tomllib raises
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
