"""Every command prints untrusted text as it is stored, with control characters escaped."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemons import JSON, Daemon, environment
from tests.acceptance.times import from_now
from tests.support.processes import TMINUS
from tests.support.receivers import SECRET, Receiver
from tests.support.terminals import Terminal
from tests.support.waiting import eventually

SHOWN = {
    r"C:\[/Temp]": r"C:\[/Temp]",
    "[bold]x[/bold] [/] [link=http://x]y": "[bold]x[/bold] [/] [link=http://x]y",
    ":smile: :+1: *a* `b` <c> &amp; %s {0} \\n \\x1b": ":smile: :+1: *a* `b` <c> &amp; %s {0} \\n \\x1b",
    "\u202egpj.exe\u2066": r"\u202egpj.exe\u2066",
    "soft\u00adhyphen": r"soft\xadhyphen",
    "zero\u200bwidth\ufeff": r"zero\u200bwidth\ufeff",
    "Łódź 会議　室 👩\u200d💻 می\u200cخواهم a\u00a0b": "Łódź 会議　室 👩\u200d💻 می\u200cخواهم a\u00a0b",
    "tag \U000e0041 private \ue000 none \uffff": r"tag \U000e0041 private \ue000 none \uffff",
}
"""Stored text, and how commands print it."""

HOSTILE = "[/x]\u202eLabel"
"""A name that contains markup, and a character that changes the direction of text."""

FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""Characters that no command writes to a terminal, except in its own escape sequences."""


@pytest.fixture(scope="module")
def labelled() -> Iterator[tuple[Daemon, list[JSON]]]:
    """A daemon whose sessions, participants and endpoint responses contain text that must be escaped."""
    daemon = Daemon()
    with Receiver() as receiver:
        secret = daemon.home / "secret"
        secret.write_text(SECRET)
        receiver.answer = lambda handler: _answer(handler, "\u009b2J[/x]\u202e".encode())
        webhook = {"name": "desk", "url": f"{receiver.url}?[/bold]", "secret_file": str(secret)}
        daemon.configure(webhooks=[webhook])
        agent = f'[[agents]]\nid = 77\nname = "{HOSTILE}"\nroles = ["agent"]\ntoken_sha256 = ["{"7" * 64}"]\n'
        daemon.config.write_text(f"{daemon.config.read_text()}\n{agent}")
        try:
            daemon.start()
            made = []
            for label in SHOWN:
                one = daemon.make(
                    label=label,
                    startTime=from_now(days=1),
                    externalMapping="incident.1",
                    parentObject={"id": "1", "type": "incident", "name": label},
                    metaData={"a\x9b2J": "\x1b[2J\x85\u2028"},
                )
                made.append(one)
            opened = daemon.make(label="[/open]", invitees=[{"email": "a@example.com", "name": "[/i]\u202eInvited"}])
            daemon.join(opened["id"], name="[red]\u202eGuest")
            body = {"dtstart": "2030-01-01T09:00", "timezone": "UTC", "session": {"type": "live", "label": HOSTILE}}
            assert daemon.post("/series", body).status_code == 200
            closed = daemon.make(label="[/closed]", userDescription="[/by]\u202eAgent")
            assert daemon.delete(f"/supportsession/{closed['id']}").status_code == 200
            yield daemon, [*made, opened]
        finally:
            daemon.remove()


def _answer(handler: Any, body: bytes) -> None:
    handler.send_response(400)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _commands(session: JSON) -> list[tuple[str, ...]]:
    one = session["id"]
    return [
        ("list",), ("list", "--wide"), ("show", one), ("events",), ("events", one), ("events", "--wide"),
        ("webhooks", "list"), ("webhooks", "list", "--wide"), ("webhooks", "deliveries", "desk"),
        ("webhooks", "ping", "desk"), ("webhooks", "pause", "desk"), ("webhooks", "resume", "desk"),
        ("db", "check"), ("check",), ("check", "--effective"), ("advance",), ("agents", "list"), ("token", "list"),
        ("series", "list"), ("report",), ("report", "--csv"), ("shift", "--type", "live", "--by", "1h", "--dry-run"),
        ("close", "--filter", "type=live", "--dry-run"),
    ]  # fmt: skip


def test_every_command_shows_text_as_it_is_stored(labelled: tuple[Daemon, list[JSON]]) -> None:
    daemon, sessions = labelled
    everything = {command: daemon.command(*command) for command in _commands(sessions[0])}
    for command, done in everything.items():
        assert done.returncode == (1 if "ping" in command else 0), (command, done.stderr)
        assert "Traceback" not in done.stderr
        assert not FORBIDDEN.search((done.stdout + done.stderr).replace("\t", "")), command
    for session, shown in zip(sessions, SHOWN.values(), strict=False):
        assert f"\t{shown}\n" in everything["list",].stdout
        assert f"\t{shown}\t{shown}\n" in everything["list",].stdout, "the name of the record, too"
        assert f"label\t{shown}\n" in daemon.command("show", session["id"]).stdout
        assert f"“{shown}”" in everything["events",].stdout
    assert "[red]\\u202eGuest" in everything["events",].stdout
    for command in (("agents", "list"), ("token", "list"), ("series", "list")):
        assert "[/x]\\u202eLabel" in everything[command].stdout, command
    assert "[/i]\\u202eInvited" in daemon.command("show", sessions[-1]["id"]).stdout


@pytest.mark.parametrize("label", SHOWN)
def test_a_created_session_is_printed_as_it_was_given(labelled: tuple[Daemon, list[JSON]], label: str) -> None:
    daemon, _ = labelled
    parent = ("--parent-table", "t", "--parent-id", "1", "--parent-name", label)
    made = daemon.command("schedule", "--type", "live", "--label", label, "--in", "3d", *parent)
    assert (made.returncode, made.stderr) == (0, "")
    assert f"label\t{SHOWN[label]}\n" in made.stdout
    assert f"record\t{SHOWN[label]} (t.1)\n" in made.stdout
    session_id = made.stdout.split()[1]
    assert daemon.session(session_id)["label"] == label
    moved = daemon.command("reschedule", session_id, "--in", "4d")
    assert f"label\t{SHOWN[label]}\n" in moved.stdout
    assert daemon.command("close", session_id).returncode == 0


def test_json_is_what_is_stored_and_harmless_on_a_terminal(
    labelled: tuple[Daemon, list[JSON]], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, sessions = labelled
    monkeypatch.setattr(daemon, "fresh", True)  # Python reads PYTHONIOENCODING when it starts
    for encoding in ("utf-8", "latin-1", "ascii"):
        done = daemon.command("list", "--json", "--limit", "1000", PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert not FORBIDDEN.search(done.stdout)
        assert done.stdout.isascii() == (encoding != "utf-8")
        assert set(SHOWN) <= {row["label"] for row in json.loads(done.stdout)["rows"]}
    history = json.loads(daemon.command("events", "--json").stdout)
    assert {session["label"] for session in sessions} <= {event["label"] for event in history}
    assert not FORBIDDEN.search(daemon.command("webhooks", "deliveries", "desk", "--json").stdout)


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("watch", "--interval", "50ms"), ("events",)])
def test_a_terminal_gets_only_the_escape_sequences_of_the_command(
    labelled: tuple[Daemon, list[JSON]], arguments: tuple[str, ...]
) -> None:
    daemon, _ = labelled
    env = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config))
    with Terminal([TMINUS, *arguments], env, columns=200, rows=60) as terminal:
        if "watch" in arguments:
            eventually(lambda: "Ctrl-C ends" in terminal.raw)
            assert terminal.interrupt() == 0
        else:
            assert terminal.end() == 0
        terminal.screen()  # fails on any other escape sequence
        assert not FORBIDDEN.search(re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r", "", terminal.raw))


@pytest.mark.parametrize("label", ["Weekly", ""])
def test_the_progress_of_a_file_is_removed_before_anything_else_is_printed(
    labelled: tuple[Daemon, list[JSON]], tmp_path: Path, label: str
) -> None:
    daemon, _ = labelled
    file = tmp_path / "\x1b[31m\u202efile.csv"
    file.write_text(f"type,label,startTime,colour\nlive,{label},{from_now(days=1)},red\n")
    env = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config))
    with Terminal([TMINUS, "schedule", "--file", str(file), "--dry-run"], env, columns=200) as terminal:
        assert terminal.end() == (0 if label else 1)
        assert "\r\x1b[K[------------------------] reading \\x1b[31m\\u202efile.csv\r\x1b[K" in terminal.raw
        # Without the progress, and the codes that remove it.
        printed = re.sub(r"(\r\x1b\[K\[[#-]+\] [^\r\n]*)+\r\x1b\[K", "", terminal.raw)
    assert not FORBIDDEN.search(printed.replace("\r\n", "\n").replace("\t", ""))
    assert printed.startswith(rf"tminus: \x1b[31m\u202efile.csv: {'ignored, since not known: colour' if label else ''}")


def test_events_follow_escapes_untrusted_text(labelled: tuple[Daemon, list[JSON]]) -> None:
    daemon, _ = labelled
    env = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config))
    for more in ((), ("--json",)):
        following = subprocess.Popen(
            [TMINUS, "events", "-f", "--after", "0", *more], env=env, stdout=subprocess.PIPE, text=True
        )
        assert following.stdout is not None
        printed = ""
        while "Guest" not in printed:
            printed += following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 0
        following.stdout.close()
        assert not FORBIDDEN.search(printed.replace("\t", ""))


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "\x1b[2J\u202e[/x]"),
        ("close", "a\nb"),
        ("\x1b[2J",),
        ("list", "--\x1b[2J"),
        ("list", "--limit", "\x9b"),
        ("list", "\x9b\u202e"),
        ("webhooks", "\x9b\u202e\udcff"),
        ("list", "--status", "\x1b[2J"),
        ("create", "--type", "\u202e", "--label", "A"),
        ("schedule", "--type", "live", "--label", "A", "--in", "\x1b[2J"),
        ("schedule", "--type", "live", "--label", "A", "--at", "\x1b[2J"),
        ("--url", "\x1b[2J", "list"),
        ("--socket", "/nonexistent/\x1b[2J", "list"),
        ("--config", "/nonexistent/\x1b[2J", "check"),
        ("webhooks", "ping", "[/x]\x1b"),
        ("db", "check", "/nonexistent/\x1b[2J\udcff"),
        ("token", "new", "--append", "/nonexistent/\x1b[2J"),
        ("create", "--type", "live", "--label", "\udcff"),
    ],
    ids=repr,
)
def test_an_error_is_one_escaped_line(daemon: Daemon, arguments: tuple[str, ...]) -> None:
    done = daemon.command(*arguments)
    assert done.returncode in (1, 2, 3, 6)
    assert done.stdout == ""
    assert done.stderr.startswith("tminus: ")
    assert done.stderr.count("\n") == 1
    assert not FORBIDDEN.search(done.stderr)


class Impostor:
    """A server on a socket that responds with malicious text."""

    ID = "\x1b]0;owned\x07\x1b[2J"

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        body = json.dumps({"description": self.ID, "refcode": 1, "errors": [], "next": 0, "events": []}).encode()
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.1 400 {self.ID}\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def test_another_server_cannot_write_escape_sequences_to_the_terminal(daemon: Daemon, tmp_path: Path) -> None:
    path = daemon.home / "i.sock"
    impostor = Impostor(path)
    try:
        done = daemon.command("--socket", str(path), "list")
    finally:
        impostor.close()
        path.unlink()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tminus: \\x1b]0;owned\\x07\\x1b[2J (refcode 1)\n"


LISTENS = """
import os, socket, sys
os.setgid(4711); os.setuid(4711)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.chmod(sys.argv[1], 0o777)
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can listen as another user")
def test_the_socket_of_another_user_is_refused_in_that_users_directory(daemon: Daemon) -> None:
    """The command reports the error and tries no other socket."""
    var = daemon.home / "trap" / "var"
    var.mkdir(parents=True)
    daemon.home.chmod(0o755)
    os.chown(var, 4711, 4711)
    with subprocess.Popen(
        ["/usr/bin/env", "python3", "-c", LISTENS, str(var / "tminus.sock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as listener:  # fmt: skip
        assert listener.stdout is not None
        assert listener.stdin is not None
        listener.stdout.readline()
        env = environment()
        refused = subprocess.run([TMINUS, "list"], env=env, cwd=var.parent, capture_output=True, text=True, check=False)
        listener.stdin.close()
    assert (refused.returncode, refused.stdout) == (5, "")
    assert refused.stderr == (
        f"tminus: No answer from {var}/tminus.sock: user 4711, who listens there, may not run the daemon\n"
    )
