"""Change the agents in a configuration file; keep its comments, layout, owner and mode.

Each change is checked twice: apart from the change, the file must mean the same as before, and the whole configuration
must be valid with it. Then the file is replaced atomically.
"""

import codecs
import errno
import fcntl
import os
import re
import stat
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from tminus.config.effective import toml
from tminus.config.lines import key_lines
from tminus.config.text import decode
from tminus.system.privileges import acting_for

Edit = Callable[[str], str]
"""Takes the text of a file and returns its new text."""

LOCK_SECONDS = 5.0
"""Seconds to wait for another process that changes a file in the same directory."""


class CannotEdit(Exception):
    """The layout of the file does not allow the change; the message says why."""


def with_agent(text: str, agent: dict[str, Any]) -> str:
    """Return the text with a new `[[agents]]` table at its end. Raises `CannotEdit`."""
    lines = "".join(f"{key} = {toml(value)}\n" for key, value in agent.items())
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
    changed = text + f"{gap}[[agents]]\n{lines}".replace("\n", newline)
    return _checked(text, changed, lambda values: values.setdefault("agents", []).append(agent))


def with_token(text: str, agent_id: int, digest: str) -> str:
    """Return the text with one more token hash for an agent that it defines. Raises `CannotEdit`."""

    def change(values: Any) -> None:
        agent = _agent(values, agent_id)
        if "token_sha256" in agent:
            agent["token_sha256"].append(digest)
        else:
            agent["token_sha256"] = [digest]

    if (at := _line_before_first_token(text, agent_id)) is not None:
        # Not with tomlkit, which would insert it after the blank lines and comments before the next table.
        lines = _lines(text)
        end = "\r\n" if lines[at - 1].endswith("\r\n") else "\n"
        lines[at - 1] = lines[at - 1].rstrip("\r\n") + end
        lines.insert(at, f'token_sha256 = ["{digest}"]{end}')
        return _checked(text, "".join(lines), change)
    return _checked(text, _edited(text, agent_id, change), change)


def _line_before_first_token(text: str, agent_id: int) -> int | None:
    """Return the line after which to insert an agent's first token; None if it has tokens already, or no table."""
    agents = tomllib.loads(text).get("agents", [])
    at = next((at for at, agent in enumerate(agents) if agent.get("id") == agent_id), None)
    if at is None or "token_sha256" in agents[at]:
        return None
    return key_lines(text).get(("agents", at, "id"))


def without_tokens(text: str, agent_id: int, digests: frozenset[str]) -> str:
    """Return the text without these hashes of the agent. Raises `CannotEdit`."""

    def change(values: Any) -> None:
        tokens = _agent(values, agent_id).get("token_sha256", [])
        for at in reversed(range(len(tokens))):
            if str(tokens[at]).lower() in digests:
                del tokens[at]

    return _checked(text, _edited(text, agent_id, change), change)


def _agent(values: Any, agent_id: int) -> Any:
    for agent in values.get("agents", ()):
        if agent.get("id") == agent_id:
            return agent
    raise CannotEdit("the agent is not in this file any more")


def _edited(text: str, agent_id: int, change: Callable[[Any], None]) -> str:
    """Change only the agent's table: given the whole file, tomlkit would move the table next to the other agents."""
    first, end = _table_of(text, agent_id)
    lines = _lines(text)
    table = "".join(lines[first:end])
    try:
        document = tomlkit.parse(table)
        if tomlkit.dumps(document) != table:
            raise CannotEdit("this command cannot change its TOML without losing its layout")
        change(document)
        changed = tomlkit.dumps(document)
    except (TOMLKitError, TypeError, AttributeError, ValueError) as error:
        raise CannotEdit(f"this command cannot change its TOML ({error})") from None
    return "".join([*lines[:first], changed, *lines[end:]])


def _lines(text: str) -> list[str]:
    """Split text into lines as TOML defines them; keep the line ends."""
    return re.findall(r"[^\n]*\n|[^\n]+$", text)


def _table_of(text: str, agent_id: int) -> tuple[int, int]:
    """Return the range of lines of an agent's `[[agents]]` table; all lines if it is written in another form."""
    agents = tomllib.loads(text).get("agents", [])
    at = next((at for at, agent in enumerate(agents) if agent.get("id") == agent_id), None)
    lines = key_lines(text)
    if at is None or ("agents", at) not in lines:
        return 0, text.count("\n") + 1
    first = lines["agents", at]
    later = [line for path, line in lines.items() if line > first and path[:2] != ("agents", at)]
    return first - 1, min(later) - 1 if later else text.count("\n") + 1


def _checked(before: str, after: str, change: Callable[[Any], None]) -> str:
    """Return `after` if it differs from `before` by nothing but the change. Raises `CannotEdit`."""
    try:
        expected, found = tomllib.loads(before), tomllib.loads(after)
    except ValueError as error:
        raise CannotEdit(f"this command cannot change its TOML ({error})") from None
    change(expected)
    if found != expected:
        raise CannotEdit("this command cannot change its TOML without changing something else")
    return after


def replace(path: Path, edit: Edit, check: Callable[[bytes], None], like: Path | None) -> None:
    """Replace a file by its edited text, atomically: after a crash it has the old or the new content.

    Owner, group, mode and extended attributes are kept. A new file gets the group and mode of `like`, if that is given.
    Root takes the rights of the user who controls the directory, also to follow a link. `check` is called with the new
    content before anything is written. Raises `OSError`, `NotText`, `CannotEdit`, and whatever `check` raises.
    """
    with acting_for(path.parent):
        real = path.resolve()
        with acting_for(real.parent), _directory(real.parent) as directory:
            before, attributes = _read(directory, real.name)
            mark = codecs.BOM_UTF8 if before.startswith(codecs.BOM_UTF8) else b""
            after = mark + edit(decode(before)).encode()
            check(after)
            _write(directory, real.name, after, attributes, like)


@contextmanager
def _directory(path: Path) -> Iterator[int]:
    """Open a directory and lock it against other processes that change files in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        left = LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if left <= 0:
                    raise OSError(errno.EAGAIN, "another process has locked its directory") from None
                time.sleep(0.05)
                left -= 0.05
        yield descriptor
    finally:
        os.close(descriptor)


def _read(directory: int, name: str) -> tuple[bytes, os.stat_result | None]:
    """Return the content of a file and its attributes; `b""` and None if the file does not exist."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except FileNotFoundError:
        return b"", None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise OSError(errno.EINVAL, "it is not a regular file, or has more than one hard link")
        return file.read(), found


def _write(directory: int, name: str, content: bytes, attributes: os.stat_result | None, like: Path | None) -> None:
    # A crash may leave this file behind: its name begins with a dot, so that no daemon reads it.
    partial = f".{name}.{token_hex(4)}"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if attributes is None:
                _make_readable(descriptor, like)
            else:
                _copy_attributes(directory, name, descriptor, attributes)
            os.fsync(descriptor)
        os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial, dir_fd=directory)
        raise
    os.fsync(directory)


def _make_readable(descriptor: int, like: Path | None) -> None:
    """Give a new file the group and mode of `like`, which the daemon can read; without it, those that umask allows."""
    if like is None:
        mask = os.umask(0o077)
        os.umask(mask)
        os.fchmod(descriptor, 0o666 & ~mask)
        return
    found = like.stat()
    with suppress(PermissionError):  # the owner of the directory creates the file, and can read it anyway
        os.fchown(descriptor, -1, found.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & 0o666)


def _copy_attributes(directory: int, name: str, descriptor: int, attributes: os.stat_result) -> None:
    """Give a file the owner, group, mode and extended attributes of the file that it replaces."""
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) != (attributes.st_uid, attributes.st_gid):
        os.fchown(descriptor, attributes.st_uid, attributes.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(attributes.st_mode))
    before = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        with suppress(OSError):  # the file system has no extended attributes
            for attribute in os.listxattr(before):
                with suppress(OSError):  # only the kernel may set this attribute
                    os.setxattr(descriptor, attribute, os.getxattr(before, attribute))
    finally:
        os.close(before)
