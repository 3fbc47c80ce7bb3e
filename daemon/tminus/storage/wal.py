"""What SQLite does not tell: that there are committed transactions in the -wal file which it cannot use any more.

After a crash it takes the transactions in that file up to the first frame with a wrong checksum, and drops the rest
without a word. The rest is mostly what a crash leaves: a transaction that was just being written, acknowledged to
nobody. But a commit that others were written after had been flushed to disk before them (`synchronous=FULL`): one such
commit among what is dropped means that the file was damaged.
The format: https://sqlite.org/fileformat2.html#walformat
"""

import os
import sqlite3
import struct
import sys
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

from tminus.storage.engine import look_at

_HEADER, _FRAME = 32, 24
"""Bytes of the file's header, and of a frame's, which its page follows."""

_INDEX = struct.Struct("=16xI12x8s")
"""How the -shm file begins: the number of the last frame that SQLite uses, and the salts of all frames that count."""

_ORDER = {b"\x37\x7f\x06\x82": "<", b"\x37\x7f\x06\x83": ">"}
"""In which order checksums take bytes, by how the file begins."""


def damage(database: Path) -> str | None:
    """What SQLite leaves out of the -wal file beside a database although it was committed; None if there is nothing.

    Opens the database as any reader does, also while a daemon works on it. A file that cannot be read at all is for
    others to tell.
    """
    wal, index = (database.with_name(f"{database.name}{end}") for end in ("-wal", "-shm"))
    with suppress(OSError, sqlite3.Error, struct.error):
        if wal.stat().st_size <= _HEADER:
            return None
        with closing(look_at(database)) as connection, wal.open("rb", buffering=0) as file:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # now it knows what it can use
            (size,) = connection.execute("PRAGMA page_size").fetchone()
            used, _ = _INDEX.unpack_from(index.read_bytes())
            salts, flushed = _flushed(file.fileno(), size, used)
            # Again, since a daemon may have written meanwhile: what it has used by now is not left out, and if it has
            # begun the file anew, all that was seen is a mixture of both.
            used, current = _INDEX.unpack_from(index.read_bytes())
        left_out = [frame for frame in flushed if frame > used]
        if left_out and (current == salts or not used):
            return (
                f"{wal} is damaged behind frame {used}: SQLite leaves out what was committed from there on, "
                f"{len(left_out)} transactions or more"
            )
    return None


def _flushed(file: int, size: int, used: int) -> tuple[bytes, list[int]]:
    """The salts of the frames that count, and which of them after `used` end a transaction that others were written
    after.
    """
    step = _FRAME + size
    number = (os.fstat(file).st_size - _HEADER) // step
    header = os.pread(file, _HEADER, 0)
    order = _ORDER.get(header[:4], "<" if sys.byteorder == "little" else ">")
    heads = [os.pread(file, _FRAME, _HEADER + frame * step) for frame in range(number)]
    # A header that is damaged itself names no salts.
    whole = _checksum(order, (0, 0), header[:24]) == struct.unpack(">2I", header[24:])
    salts = header[16:24] if whole or not heads else heads[0][8:16]
    found = []
    for frame, (head, after) in enumerate(pairwise(heads), start=1):
        is_commit = head[4:8] != b"\0\0\0\0"
        if frame > used and is_commit and head[8:16] == after[8:16] == salts:
            # The next one was written after it if its checksum goes on from the one that is stored here.
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
