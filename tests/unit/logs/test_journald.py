"""The log in the journal's protocol, on a real socket."""

import fcntl
import io
import json
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tminus.logs import output, writer
from tminus.logs.catalogue import LOG_LINES
from tminus.logs.event_fields import EVENT_FIELDS
from tminus.logs.journald import Journal, field_name

FIELD_NAME = re.compile("[A-Z][A-Z0-9_]{0,63}")


def fields(datagram: bytes) -> dict[str, str]:
    """Parse a datagram as the journal does."""
    read: dict[str, str] = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
        else:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        read[name.decode()] = value.decode()
        datagram = rest
    return read


class Receiver:
    """A stand-in for the journal: a socket that receives the log lines."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "socket"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind(str(self.path))
        self.journal = Journal(str(self.path))
        self.stdout = folder / "stdout"

    def line(self) -> dict[str, str]:
        return fields(self.socket.recv(1 << 20))

    def close(self) -> None:
        self.socket.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def journal(log_lines: object, tmp_path: Path) -> Iterator[Receiver]:
    """Write the log to a stand-in for the journal, or to a file if the stand-in is closed."""
    receiver = Receiver(tmp_path)
    with receiver.stdout.open("w") as stdout:
        output.configure("debug", "journal", stdout, receiver.journal)
        yield receiver
        receiver.socket.close()
        output.flush(10)
    receiver.journal.close()
    receiver.close()


def test_every_field_of_a_line_is_a_field_of_the_entry(journal: Receiver) -> None:
    output.log("config.changed", key="lifecycle.lead", old="10m", new="15m")
    line = journal.line()
    assert line.pop("TS").endswith("Z")
    assert line.pop("INSTANCE") == f"{socket.gethostname()}/{os.getpid()}"
    assert line == {
        "SYSLOG_IDENTIFIER": "tminus",
        "PRIORITY": "6",
        "EVENT": "config.changed",
        "MESSAGE": "lifecycle.lead changed from 10m to 15m",
        "KEY": "lifecycle.lead",
        "OLD": "10m",
        "NEW": "15m",
    }
    assert journal.stdout.read_text() == ""


@pytest.mark.parametrize(
    ("name", "priority"),
    [("daemon.stopped", 6), ("auth.failed", 4), ("storage.unavailable", 3), ("daemon.failed", 2)],
)
def test_a_line_has_the_priority_of_its_level(journal: Receiver, name: str, priority: int) -> None:
    output.log(name, error="it", remote_ip="::1", token_state="unknown", count=1)
    assert journal.line()["PRIORITY"] == str(priority)


def test_a_value_of_several_lines_stays_one_value(journal: Receiver) -> None:
    output.log("daemon.failed", error="first\nPRIORITY=7\n_UID=0")
    line = journal.line()
    assert line["ERROR"] == line["MESSAGE"] == "first\nPRIORITY=7\n_UID=0"
    assert (line["PRIORITY"], "_UID" in line) == ("2", False)


def test_an_object_is_written_as_json_and_text_that_is_not_utf_8_is_escaped(journal: Receiver) -> None:
    output.log("daemon.heartbeat", sessions={"new": 2}, worst_lag_ms=7, requests=1)
    line = journal.line()
    assert (json.loads(line["SESSIONS"]), line["WORST_LAG_MS"]) == ({"new": 2}, "7")
    output.log("daemon.failed", error="\udcff")
    assert journal.line()["ERROR"] == "\\udcff"


def test_a_line_that_is_too_large_for_a_datagram_is_sent_as_a_sealed_file(journal: Receiver) -> None:
    output.log("daemon.failed", error="x" * 3_000_000)
    data, descriptors, _flags, _address = socket.recv_fds(journal.socket, 100, 1)
    assert data == b""
    [descriptor] = descriptors
    with os.fdopen(descriptor, "rb") as file:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        file.seek(0)
        assert len(fields(file.read())["ERROR"]) == 3_000_000
    assert seals == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    assert journal.stdout.read_text() == ""


@pytest.mark.parametrize(
    "name", sorted({name for line in LOG_LINES.values() for name in line.fields} | {*EVENT_FIELDS})
)
def test_every_field_of_the_catalogue_keeps_its_name(name: str) -> None:
    assert field_name(name) == name.upper()
    assert FIELD_NAME.fullmatch(field_name(name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("job", "JOB"),
        ("job_id", "TMINUS_JOB_ID"),
        ("unit", "TMINUS_UNIT"),
        ("priority", "TMINUS_PRIORITY"),
        ("syslog_identifier", "TMINUS_SYSLOG_IDENTIFIER"),
        ("_uid", "UID"),
        ("2nd", "TMINUS_2ND"),
        ("a.b=c\nd", "A_B_C_D"),
        ("", "TMINUS_"),
        ("x" * 90, "X" * 64),
    ],
)
def test_a_name_that_systemd_reserves_gets_a_prefix(name: str, expected: str) -> None:
    assert field_name(name) == expected


def test_without_a_journal_lines_go_to_standard_output(journal: Receiver, tmp_path: Path) -> None:
    journal.close()
    output.log("retention.removed", removed=3)
    output.flush(10)
    [line] = map(json.loads, journal.stdout.read_text().splitlines())
    assert (line["event"], line["removed"], line["level"]) == ("retention.removed", 3, "info")
    restarted = Receiver(tmp_path)
    output.log("retention.removed", removed=4)
    assert restarted.line()["REMOVED"] == "4"
    restarted.close()


def test_a_hanging_journal_blocks_nobody_and_dropped_lines_are_counted_in_order(
    journal: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_QUEUED", 50)
    total = 2000
    begun = time.monotonic()
    for number in range(total):
        output.log("retention.removed", removed=number)
    assert time.monotonic() - begun < 5, "logging does not wait for the journal"
    removed: list[int] = []
    dropped = 0
    while len(removed) + dropped < total:
        line = journal.line()
        if line["EVENT"] == "log.dropped":
            assert line["PRIORITY"] == "3"
            dropped += int(line["LINES"])
        else:
            removed.append(int(line["REMOVED"]))
    assert dropped
    assert removed == sorted(removed)
    assert journal.stdout.read_text() == "", "a later line there would precede lines that still wait in the queue"


def test_auto_is_the_journal_where_systemd_has_connected_standard_output_to_it(
    journal: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with journal.stdout.open("a") as stdout:
        found = os.fstat(stdout.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        output.configure("info", "auto", stdout, journal.journal)
        output.log("daemon.stopped")
        assert journal.line()["EVENT"] == "daemon.stopped"

        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
        output.configure("info", "auto", stdout, journal.journal)
        output.log("daemon.stopped")
        output.flush(10)
    assert json.loads(journal.stdout.read_text())["event"] == "daemon.stopped"


def test_a_stream_without_a_descriptor_is_not_the_journal(log_lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "0:0")
    written = io.TextIOWrapper(io.BytesIO(), write_through=True)
    output.configure("info", "auto", written)
    output.log("daemon.stopped")
    output.flush(10)
    assert json.loads(written.buffer.getvalue())["event"] == "daemon.stopped"
