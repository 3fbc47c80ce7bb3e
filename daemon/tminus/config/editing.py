"""Changes to the agents in a configuration file, which keep its comments and layout, its owner and its mode.

A change is checked twice: the file must mean the same as before but for that change, and the whole configuration must
be right with it. Then the file is replaced at once.
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
"""From the text of a file to its new text."""

LOCK_SECONDS = 5.0
"""How long a change waits for another one in the same directory."""


class CannotEdit(Exception):
    """The file is written in a way that these changes cannot keep; the message says what to do by hand."""


def with_agent(text: str, agent: dict[str, Any]) -> str:
    """Return the text with one more `[[agents]]` table at its end. Raises `CannotEdit`."""
    lines = "".join(f"{key} = {toml(value)}\n" for key, value in agent.items())
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
    changed = text + f"{gap}[[agents]]\n{lines}".replace("\n", newline)
    return _checked(text, changed, lambda values: values.setdefault("agents", []).append(agent))


def with_token(text: str, agent_id: int, digest: str) -> str:
    """Return the text with one more hash for the agent, who has a table in it. Raises `CannotEdit`."""

    def change(values: Any) -> None:
        agent = _agent(values, agent_id)
        if "token_sha256" in agent:
            agent["token_sha256"].append(digest)
        else:
            agent["token_sha256"] = [digest]

    if (at := _line_of_first_token(text, agent_id)) is not None:
        # tomlkit would put it behind the blank lines and comments that stand before the next table.
        lines = _lines(text)
        end = "\r\n" if lines[at - 1].endswith("\r\n") else "\n"
        lines[at - 1] = lines[at - 1].rstrip("\r\n") + end
        lines.insert(at, f'token_sha256 = ["{digest}"]{end}')
        return _checked(text, "".join(lines), change)
    return _checked(text, _edited(text, agent_id, change), change)


def _line_of_first_token(text: str, agent_id: int) -> int | None:
    """The number of the line behind which an agent's first token belongs; None if the agent has some, or no table."""
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
    """Change the agent's own table. As a part of the whole file tomlkit would move it beside the other agents."""
    first, end = _table_of(text, agent_id)
    lines = _lines(text)
    table = "".join(lines[first:end])
    try:
        document = tomlkit.parse(table)
        if tomlkit.dumps(document) != table:
            raise CannotEdit("its TOML cannot be changed by this command and keep its layout")
        change(document)
        changed = tomlkit.dumps(document)
    except (TOMLKitError, TypeError, AttributeError, ValueError) as error:
        raise CannotEdit(f"its TOML cannot be changed by this command ({error})") from None
    return "".join([*lines[:first], changed, *lines[end:]])


def _lines(text: str) -> list[str]:
    """The lines as TOML counts them, each with its end."""
    return re.findall(r"[^\n]*\n|[^\n]+$", text)


def _table_of(text: str, agent_id: int) -> tuple[int, int]:
    """The lines of an agent's `[[agents]]` table, from its header to the next one; all, if it is written otherwise."""
    agents = tomllib.loads(text).get("agents", [])
    at = next((at for at, agent in enumerate(agents) if agent.get("id") == agent_id), None)
    places = key_lines(text)
    if at is None or ("agents", at) not in places:
        return 0, text.count("\n") + 1
    first = places["agents", at]
    later = [line for path, line in places.items() if line > first and path[:2] != ("agents", at)]
    return first - 1, min(later) - 1 if later else text.count("\n") + 1


def _checked(before: str, after: str, change: Callable[[Any], None]) -> str:
    """Return `after` if it means what `before` means, but for the change."""
    try:
        expected, found = tomllib.loads(before), tomllib.loads(after)
    except ValueError as error:
        raise CannotEdit(f"its TOML cannot be changed by this command ({error})") from None
    change(expected)
    if found != expected:
        raise CannotEdit("its TOML cannot be changed by this command without changing something else")
    return after


def replace(path: Path, edit: Edit, check: Callable[[bytes], None], like: Path | None) -> None:
    """Replace a file by its edited text, at once: after a crash it is the old one or the new one.

    Owner, group, mode and extended attributes stay. A file that is not there is made with those of `like`, if given.
    Root works with the rights of whoever controls the directory: a link is followed with these, and no others. `check`
    is called with the new content before anything is written. Raises `OSError`, `NotText`, `CannotEdit`, and what
    `check` raises.
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
    """Open a directory, and keep other changes of files in it waiting."""
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
    """The content of a file and its attributes; nothing and None if there is none."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except FileNotFoundError:
        return b"", None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise OSError(errno.EINVAL, "it is no plain file, or has a second name")
        return file.read(), found


def _write(directory: int, name: str, content: bytes, attributes: os.stat_result | None, like: Path | None) -> None:
    # A name that the configuration leaves out, should a crash leave the file behind.
    partial = f".{name}.{token_hex(4)}"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if attributes is None:
                _open_to_readers(descriptor, like)
            else:
                _take_attributes(directory, name, descriptor, attributes)
            os.fsync(descriptor)
        os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial, dir_fd=directory)
        raise
    os.fsync(directory)


def _open_to_readers(descriptor: int, like: Path | None) -> None:
    """Give a new file the group and mode of another one, which the daemon can read."""
    if like is None:
        mask = os.umask(0o077)
        os.umask(mask)
        os.fchmod(descriptor, 0o666 & ~mask)
        return
    found = like.stat()
    with suppress(PermissionError):  # of a directory that is not root's its owner makes the file, and can read it
        os.fchown(descriptor, -1, found.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & 0o666)


def _take_attributes(directory: int, name: str, descriptor: int, attributes: os.stat_result) -> None:
    """Give a file the owner, group, mode and extended attributes of the one that it replaces."""
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) != (attributes.st_uid, attributes.st_gid):
        os.fchown(descriptor, attributes.st_uid, attributes.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(attributes.st_mode))
    before = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        with suppress(OSError):  # a file system without them
            for attribute in os.listxattr(before):
                with suppress(OSError):  # those that only the kernel sets
                    os.setxattr(descriptor, attribute, os.getxattr(before, attribute))
    finally:
        os.close(before)
