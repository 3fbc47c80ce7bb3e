"""Find committed transactions that SQLite has dropped from a damaged -wal file, which it does without an error.

After a crash SQLite uses the transactions in that file up to the first frame with a wrong checksum, and drops the rest.
Usually the rest is one transaction that was being written and was not acknowledged. With `synchronous=FULL`, each
commit is flushed to disk before the next transaction is written. So if a commit among the dropped frames is followed by
another transaction, the file is damaged.
The format: https://sqlite.org/fileformat2.html#walformat
"""

import os
import sqlite3
import struct
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

from sqlalchemy import Connection

from tminus.storage.engine import open_read_only

_HEADER, _FRAME = 32, 24
"""Bytes of the file's header, and of the header of a frame. A frame is a header and a page."""

_INDEX = struct.Struct("=16xI12x8s")
"""The beginning of the -shm file: the number of the last frame that SQLite uses, and the salts of valid frames. A frame
with other salts is left from an earlier use of the file.
"""

SKIPPED = 10_000_000
"""More than the number of events that a -wal file can have."""

_ORDER = {b"\x37\x7f\x06\x82": "<", b"\x37\x7f\x06\x83": ">"}
"""The first bytes of the file -> the byte order of its checksums."""


def damage(database: Path) -> str | None:
    """Return a description of the committed transactions that SQLite drops from a database's -wal file; None if there
    are none.

    The database is opened for reading; a daemon may be running. If a file cannot be read, the result is None: opening
    the database will report that error.
    """
    wal, index = (database.with_name(f"{database.name}{end}") for end in ("-wal", "-shm"))
    with suppress(OSError, sqlite3.Error, struct.error):
        if wal.stat().st_size <= _HEADER:
            return None
        with closing(open_read_only(database)) as connection, wal.open("rb", buffering=0) as file:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # now SQLite has decided which frames it uses
            (size,) = connection.execute("PRAGMA page_size").fetchone()
            used, _ = _INDEX.unpack_from(index.read_bytes())
            salts, flushed = _flushed(file.fileno(), size, used)
            # Read again, because a daemon may have written meanwhile. Frames that it uses by now are not dropped. If
            # it has reused the file from its beginning, old and new frames were read, and the result is meaningless.
            used, current = _INDEX.unpack_from(index.read_bytes())
        left_out = [frame for frame in flushed if frame > used]
        if left_out and (current == salts or not used):
            return (
                f"{wal} is damaged after frame {used}: SQLite drops the transactions that were committed after it, "
                f"at least {len(left_out)}"
            )
    return None


def skip_lost_numbers(connection: Connection) -> None:
    """Skip the numbers of events that SQLite has dropped.

    Otherwise new events would get the same numbers. Receivers that have got the dropped ones would ignore them, and
    readers of the feed would not ask for them.
    """
    run = connection.exec_driver_sql
    highest = run("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'event'").scalar_one()
    continue_event_numbers(run, highest + SKIPPED)


def continue_event_numbers(run: Callable[[str, tuple[int]], object], last: int) -> None:
    """Give new events numbers above `last`. `run` executes a statement with its parameters."""
    run("DELETE FROM sqlite_sequence WHERE name = 'event' AND seq < ?", (last,))
    run(
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'event', ? "
        "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'event')",
        (last,),
    )


def _flushed(file: int, size: int, used: int) -> tuple[bytes, list[int]]:
    """Return the salts of the valid frames, and the numbers of the frames after `used` that end a transaction and are
    followed by another one.
    """
    step = _FRAME + size
    number = (os.fstat(file).st_size - _HEADER) // step
    header = os.pread(file, _HEADER, 0)
    order = _ORDER.get(header[:4], "<" if sys.byteorder == "little" else ">")
    heads = [os.pread(file, _FRAME, _HEADER + frame * step) for frame in range(number)]
    # The salts of a damaged header cannot be trusted.
    whole = _checksum(order, (0, 0), header[:24]) == struct.unpack(">2I", header[24:])
    salts = header[16:24] if whole or not heads else heads[0][8:16]
    found = []
    for frame, (head, after) in enumerate(pairwise(heads), start=1):
        is_commit = head[4:8] != b"\0\0\0\0"
        if frame > used and is_commit and head[8:16] == after[8:16] == salts:
            # The checksum of a frame continues that of the frame before. If it does so here, both were written whole.
            page = os.pread(file, size, _HEADER + frame * step + _FRAME)
            if _checksum(order, struct.unpack(">2I", head[16:]), after[:8] + page) == struct.unpack(">2I", after[16:]):
                found.append(frame)
    return salts, found


def _checksum(order: str, before: tuple[int, ...], data: bytes) -> tuple[int, int]:
    first, second = before
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for one, other in zip(words, words, strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
