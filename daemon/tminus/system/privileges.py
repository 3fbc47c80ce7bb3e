"""Drop root privileges while working on files that another user controls.

The owner of a directory can replace a file in it with a symbolic link to any other file. A process that runs as root
would follow the link, and write, truncate or give away that other file. So a root process first takes the rights of
the directory's owner.
"""

import ctypes
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tminus.domain.errors import StateDirectoryUnusable

_NEW_MOUNTS = 0x20000
"""CLONE_NEWNS of unshare(2)."""

_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000
"""MS_BIND, MS_REC, MS_PRIVATE of mount(2)."""

_STEPS = 1000
"""Maximum number of path components and links to follow, so that a loop of links ends."""


def controller(path: Path) -> tuple[int, int]:
    """Return the ids of the user and the group who decide which file `path` refers to.

    They own the first directory or link on the path that does not belong to root, and so control everything below it.
    """
    found, _ = _follow(path)
    return found.st_uid, found.st_gid


def user_name(uid: int) -> str:
    """Return the user's name, or the number if the user has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@contextmanager
def acting_for(directory: Path) -> Iterator[None]:
    """Take the rights of the user who controls `directory`, for the `with` block. Do nothing unless run as root.

    This changes the rights of all threads. Raises `StateDirectoryUnusable` if that user cannot reach the directory.
    """
    uid, gid = controller(directory) if os.geteuid() == 0 else (0, 0)
    if uid == 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups(_groups(uid, gid))
    os.setegid(gid)
    try:
        _set_effective_user(directory, uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def become_controller(directory: Path) -> None:
    """Become the user who controls `directory`, for good. Do nothing unless the process runs as root.

    Raises `StateDirectoryUnusable` if that user cannot reach the directory.
    """
    uid, gid = controller(directory) if os.geteuid() == 0 else (0, 0)
    if uid == 0:
        return
    os.setgroups(_groups(uid, gid))
    os.setegid(gid)
    _set_effective_user(directory, uid)
    os.seteuid(0)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _groups(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]


def _set_effective_user(directory: Path, uid: int) -> None:
    """Set the effective user, after making the directory reachable if that user may not enter a parent of it."""
    _, real = _follow(directory)
    os.seteuid(uid)
    if _can_enter(real):
        return
    closed = next(path for path in (*reversed(real.parents), real) if not _can_enter(path))
    os.seteuid(0)
    if closed != real:
        _make_reachable(real, closed)
    os.seteuid(uid)
    if not _can_enter(real):
        raise StateDirectoryUnusable(str(directory), f"its owner, {user_name(uid)}, cannot reach it")


def _can_enter(directory: Path) -> bool:
    return os.access(directory, os.X_OK, effective_ids=True)


def _make_reachable(directory: Path, closed: Path) -> None:
    """Make `directory` reachable for this process although only root may enter its parent `closed`.

    systemd keeps the state of a service with DynamicUser= below /var/lib/private, which only root may enter, and makes
    it visible to the service in the same way: in a private mount namespace, which ends with the process.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, options: bytes | None) -> bool:
        return bool(libc.mount(source, target, kind, ctypes.c_ulong(flags), options) == 0)

    if libc.unshare(_NEW_MOUNTS) != 0 or not mount(None, b"/", None, _RECURSIVE | _PRIVATE, None):
        return
    # Opened after unshare(2): a descriptor from the old mount namespace cannot be bind-mounted.
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        if mount(b"tmpfs", os.fsencode(closed), b"tmpfs", 0, b"mode=755"):
            directory.mkdir(parents=True)
            mount(b"/proc/self/fd/%d" % descriptor, os.fsencode(directory), None, _BIND | _RECURSIVE, None)
    finally:
        os.close(descriptor)


def _follow(path: Path) -> tuple[os.stat_result, Path]:
    """Return the first entry on the path that does not belong to root, or the last directory, and the resolved path."""
    here = Path("/")
    left = [*reversed(path.absolute().parts[1:])]
    found = here.stat()
    for _ in range(_STEPS):
        if found.st_uid != 0 or not left:
            return found, here.joinpath(*reversed(left))
        name = left.pop()
        if name == "..":
            here = here.parent
            continue
        try:
            entry = (here / name).lstat()
        except FileNotFoundError:
            return found, here.joinpath(name, *reversed(left))
        if stat.S_ISLNK(entry.st_mode):
            if entry.st_uid != 0:
                return entry, here.joinpath(name, *reversed(left))
            target = (here / name).readlink()
            here = Path("/") if target.is_absolute() else here
            left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        elif stat.S_ISDIR(entry.st_mode):
            here, found = here / name, entry
        else:
            return found, here.joinpath(name, *reversed(left))
    raise StateDirectoryUnusable(str(path), "leads through too many links")
