"""The command, as people and scripts use it."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon, environment
from tests.acceptance.times import from_now, parsed, text
from tests.support.commands import invoke
from tests.support.processes import TMINUS
from tests.support.receivers import SECRET
from tests.support.waiting import eventually
from tminus.cli import events
from tminus.client import ScreenMeet

Done = subprocess.CompletedProcess[str]


def output_of(done: Done) -> str:
    """Return the output of a command that succeeded."""
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def answer(done: Done) -> Any:
    return json.loads(output_of(done))


def refused(done: Done, code: int) -> str:
    """Return the error of a command that failed: one line on standard error, with the exit code."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_session_from_creation_to_close(daemon: Daemon) -> None:
    """`schedule`, `show`, `reschedule`, `list`, `close`, `events`, for people and for programs."""
    start, later = from_now(days=1), from_now(days=2)
    key = f"cli {start}"
    options = ("--type", "support", "--label", "[bold]Demo", "--at", start, "--prefer", "record", "--key", key)
    parent = ("--parent-table", "incident", "--parent-id", "e8", "--parent-name", "INC0000005")
    session = answer(daemon.command("schedule", *options, *parent, "--json"))
    assert (session["status"], session["startTime"], session["label"]) == ("scheduled", start, "[bold]Demo")
    assert session["settings"]["recording"] is True
    assert session["externalMapping"] == "incident.e8"
    assert answer(daemon.command("schedule", *options, *parent, "--json")) == session, "one key returns one session"

    shown = output_of(daemon.command("show", session["id"]))
    for part in (session["id"], "[bold]Demo", "scheduled", start, session["urls"]["user"], "starts in 23h"):
        assert part in shown
    assert answer(daemon.command("show", session["id"], "--json")) == session

    moved = answer(daemon.command("reschedule", session["id"], "--at", later, "--if-version", "1", "--json"))
    assert moved["startTime"] == later
    assert "version" in refused(daemon.command("reschedule", session["id"], "--in", "3d", "--if-version", "1"), 4)

    listed = output_of(daemon.command("list", "--status", "scheduled", "--limit", "1000"))
    assert session["id"] in listed
    found = answer(daemon.command("list", "--start-from", from_now(days=1.9), "--type", "support", "--json"))
    assert session["id"] in [row["id"] for row in found["rows"]]

    assert output_of(daemon.command("close", session["id"])) == f"session {session['id']} is closed\n"
    assert answer(daemon.command("close", session["id"], "--json")) == {"success": True}
    printed = output_of(daemon.command("events", session["id"]))
    for name in ("session.scheduled", "session.rescheduled", "session.closed", "local"):
        assert name in printed
    events = answer(daemon.command("events", session["id"], "--json"))
    assert [event["type"] for event in events] == ["session.scheduled", "session.rescheduled", "session.closed"]
    assert "closed" in refused(daemon.command("reschedule", session["id"], "--in", "3d"), 4)


def test_reschedule_by_moves_the_start_by_a_duration(daemon: Daemon) -> None:
    start = from_now(days=30)
    later = text(parsed(start) + timedelta(hours=1))
    one = daemon.make(startTime=start)["id"]
    assert answer(daemon.command("reschedule", one, "--by", "1h", "--json"))["startTime"] == later
    for earlier in (("--by=-30m",), ("--by", "-30m")):
        moved = answer(daemon.command("move", one, *earlier, "--json"))
    assert (moved["startTime"], moved["version"]) == (start, 4)
    assert "version" in refused(daemon.command("reschedule", one, "--by", "1h", "--if-version", "3"), 4)
    assert "--by DURATION" in refused(daemon.command("reschedule", one), 2)
    assert "--by DURATION" in refused(daemon.command("reschedule", one, "--by", "1h", "--in", "1h"), 2)
    assert "duration" in refused(daemon.command("reschedule", one, "--by", "later"), 2)
    assert "beyond the calendar" in refused(daemon.command("reschedule", one, "--by", "36500000d"), 2)
    assert "in the past" in refused(daemon.command("reschedule", one, "--by=-10000d"), 1)
    assert "has no start" in refused(daemon.command("reschedule", daemon.make()["id"], "--by", "1h"), 4)
    assert "101404" in refused(daemon.command("reschedule", "nobody", "--by", "1h"), 3)


def test_two_concurrent_reschedules_by_a_duration_do_not_add_up(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another caller moves the session between the read and the write, the command does not move it again."""
    session, later = daemon.make(startTime=from_now(days=30)), from_now(days=31)
    first = ScreenMeet.getSession

    def getSession(self: ScreenMeet, session_id: str) -> Any:
        found = first(self, session_id)
        assert daemon.put(f"/supportsession/{session_id}", {"startTime": later}).status_code == 200
        return found

    monkeypatch.setattr(ScreenMeet, "getSession", getSession)
    done = invoke("--socket", str(daemon.socket), "reschedule", session["id"], "--by", "1h")
    assert (done.exit_code, done.stdout) == (4, ""), done.stderr
    assert daemon.session(session["id"])["startTime"] == later


def test_list_finds_sessions_by_record_and_by_text(daemon: Daemon) -> None:
    def ids(*arguments: str) -> list[str]:
        return [row["id"] for row in answer(daemon.command("list", *arguments, "--json"))["rows"]]

    record = {"id": "4711abc", "type": "incident", "name": "INC0042"}
    about = daemon.make(label="Printer", externalMapping="incident.4711abc", parentObject=record)
    other = record | {"id": "4711abcd", "name": "INC00421"}
    longer = daemon.make(label="Überall", externalMapping="incident.4711abcd", parentObject=other)
    for written in ("INC0042", "inc0042", "incident.4711abc", "4711ABC"):
        assert ids("--record", written) == [about["id"]], written
    named = daemon.make(
        externalMapping="case:815", parentObject={"id": "815", "type": "case", "name": "Case CS0010001"}
    )
    for written in ("Case CS0010001", "cs0010001", "case:815", "815"):
        assert ids("--record", written) == [named["id"]], written
    assert ids("--record", "CS001") == []
    assert ids("--search", "inc0042") == [longer["id"], about["id"]]
    assert ids("--search", "ÜBERALL") == [longer["id"]]
    assert ids("--search", "inc0042", "--limit", "1", "--offset", "1") == [about["id"]]
    assert ids("--search", "inc0042", "--type", "support") == []
    assert ids("--search", "printer", "--record", "INC0042") == [about["id"]]
    assert ids("--search", "überall", "--record", "INC0042") == []
    output_of(daemon.command("close", about["id"]))
    assert output_of(daemon.command("list", "--record", "INC0042")) == "no sessions (closed ones: --status closed)\n"
    assert ids("--record", "INC0042", "--status", "closed") == [about["id"]]


def test_show_of_a_closed_session_includes_the_close_reason(daemon: Daemon) -> None:
    session = daemon.make(type="support", label="Over")
    for name in ("Ada", "Ben", "Ada"):
        daemon.join(session["id"], name=name)
    output_of(daemon.command("close", session["id"]))
    closed = daemon.session(session["id"])
    shown = dict(line.split("\t", 1) for line in output_of(daemon.command("show", session["id"])).splitlines())
    assert shown["status"] == "closed (closed)"
    assert shown["closed"] == closed["closedAt"]
    assert shown["opened"] == closed["openedAt"]
    assert shown["activated"] == closed["activatedAt"]
    assert shown["closed by"] == "local operator"
    assert shown["participants"] == "Ada, Ben"
    assert "active" in shown
    assert "expires" not in shown
    cancelled = daemon.make(startTime=from_now(days=1), by="admin")
    assert daemon.delete(f"/supportsession/{cancelled['id']}").status_code == 200
    printed = output_of(daemon.command("show", cancelled["id"]))
    assert "status\tclosed (cancelled)\n" in printed
    assert re.search(r"closed by\t[^\n]+ \(agent \d+\)\n", printed)
    assert "participants\tnone\n" in printed


def test_create_and_schedule_print_the_session(daemon: Daemon) -> None:
    made = output_of(daemon.command("create", "--type", "support", "--label", "Demo"))
    assert re.search(r"status\tnew", made)
    assert re.search(r"PIN\t\d{6}", made)
    session = answer(daemon.command("schedule", "--type", "live", "--label", "Demo", "--in", "1h30m", "--json"))
    left = parsed(session["startTime"]) - parsed(session["createdAt"])
    assert abs(left.total_seconds() - 5400) < 60
    assert "no sessions" in output_of(
        daemon.command("list", "--scope", "mine", "--status", "active", "--type", "replay")
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "nobody"), 3, "Session not found nobody (refcode 101404)"),
        (("close", "nobody"), 3, "101404"),
        (("schedule", "--type", "live", "--label", "A", "--at", "2020-01-01T00:00:00Z"), 1, "is in the past"),
        (("schedule", "--type", "live", "--label", "A", "--at", "2030-01-01T00:00:00"), 2, "has no time zone"),
        (("reschedule", "nobody", "--at", "10:30"), 2, "'--at': '10:30' is not an RFC 3339 date and time"),
        (("list", "--start-from", "2030-01-01T00:00:00"), 2, "has no time zone"),
        (("list", "--start-to", "tomorrow"), 2, "--start-to"),
        (("webhooks", "replay", "x", "--since", "2030-01-01"), 2, "--since"),
        (("webhooks", "replay", "x"), 2, "give one of"),
        (("webhooks", "ping", "nobody"), 3, "109404"),
        (("webhooks", "deliveries", "nobody"), 3, "109404"),
        (("events", "nobody"), 3, "101404"),
        (("reschedule", "nobody", "--in", "1h"), 3, "101404"),
        (("cancel", "nobody"), 3, "101404"),
        (("delete", "nobody"), 3, "101404"),
        (("move", "nobody", "--in", "1h"), 3, "101404"),
        (("create", "--type", "live", "--label", "A", "--parent-id", "1"), 2, "--parent-table and --parent-id"),
        (("create", "--type", "live", "--label", "A", "--parent-table", "t"), 2, "--parent-table and --parent-id"),
        (("create", "--type", "live", "--label", "A", "--parent-name", "n"), 2, "--parent-name needs both"),
        (("list", "--limit", "0"), 2, "--limit"),
        (("show", "a/b"), 2, "contains a slash"),
        (("show", ".."), 3, "101404"),
        (("close", ""), 2, "is empty"),
        (("events", ""), 2, "is empty"),
        (("webhooks", "ping", ""), 2, "is empty"),
        (("webhooks", "replay", "x", "--session", ""), 2, "is empty"),
        (("list", "--search", ""), 2, "is empty"),
        (("list", "--record", ""), 2, "is empty"),
        (("list", "--url", ""), 2, "is empty"),
        (("--config", "", "check"), 2, "is empty"),
        (("list", "--socket="), 2, "is empty"),
        (("--token-file=", "list"), 2, "is empty"),
        (("create", "--type", "live", "--label", "A", "--parent-table", "", "--parent-id", "1"), 2, "is empty"),
        (("events", "--after", "99999999999999999999999"), 1, "after"),
        (("watch", "--interval", "soon"), 2, "must be a duration"),
        (("db", "backup", "-"), 2, "a backup is a file"),
        (("check", "--config", "/nonexistent"), 1, "/nonexistent"),
        (("create", "--type", "live", "--label", ""), 1, "label"),
        (("schedule", "--type", "live", "--label", "A"), 2, "--at TIME or --in DURATION"),
        (("schedule", "--type", "live", "--label", "A", "--in", "soon"), 2, "must be a duration"),
        (("schedule", "--type", "live", "--label", "A", "--in", "3000000d"), 2, "beyond the calendar"),
        (("create", "--type", "telepathy", "--label", "A"), 2, "telepathy"),
        (("nothing",), 2, "nothing"),
        (("--url", "{url}", "list"), 5, "TMINUS_TOKEN"),
        (("--url", "{url}", "--token-file", "/nonexistent", "list"), 2, "/nonexistent"),
        (("list", "--url", "{url}"), 5, "No token (refcode 104401); set $TMINUS_TOKEN"),
        (("list", "--url", "{url}"), 5, "TMINUS_TOKEN"),
        (("webhooks", "--url", "http://127.0.0.1:9", "list", "--url={url}"), 5, "TMINUS_TOKEN"),
        (("list", "--socket", "/nonexistent.sock"), 6, "/nonexistent.sock"),
        (("--url", "{url}"), 2, "Missing command"),
        (("--url", "http://127.0.0.1:9", "show", "x"), 6, "No answer from http://127.0.0.1:9"),
        (("--url", "{url}/v3/", "list"), 5, "TMINUS_TOKEN"),
        (("--url", "{url}/v4", "list"), 1, "No such path"),
        (("--url", "http://localhost:notaport", "list"), 1, "http://localhost:notaport is not a URL"),
        (("--socket", "/nonexistent.sock", "list"), 6, "tminus run"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_each_error_has_its_exit_code_and_a_hint(
    daemon: Daemon, arguments: tuple[str, ...], code: int, message: str
) -> None:
    arguments = tuple(argument.format(url=daemon.url) for argument in arguments)
    assert message in refused(daemon.command(*arguments), code)


def test_a_url_and_a_token_reach_a_daemon_over_tcp(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(daemon.tokens["anna"] + "\n")
    url = ("--url", daemon.url)
    made = answer(daemon.command(*url, "--token-file", str(file), "create", "--type", "live", "--label", "A", "--json"))
    assert made["ExternalUserId"] == 7
    shown = daemon.command(
        "show", made["id"], "--json", TMINUS_URL=f"{daemon.url}/v3", TMINUS_TOKEN=daemon.tokens["anna"]
    )
    assert answer(shown)["id"] == made["id"]
    assert "check what was copied" in refused(daemon.command(*url, "list", TMINUS_TOKEN="tökèn"), 5)
    file.write_text("a" * 43)
    wrong = refused(daemon.command(*url, "--token-file", str(file), "list"), 5)
    assert f"unknown, expired or revoked (refcode 104401); the token comes from {file}" in wrong
    monitor = daemon.command(*url, "close", made["id"], TMINUS_TOKEN=daemon.tokens["monitor"])
    assert "Not allowed" in refused(monitor, 5)


def test_without_a_daemon_the_error_contains_how_to_start_one(make_daemon: StartDaemon) -> None:
    stopped = make_daemon()
    assert "start the daemon with `tminus run`" in refused(stopped.command("list"), 6)


def test_a_new_token_works_after_its_lines_are_pasted(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    printed = output_of(
        daemon.command("token", "new", "--id", "77", "--name", "Nora “N”", "--role", "agent", "--role", "room")
    )
    lines = printed.splitlines()
    token = next(line.strip() for line in lines if re.fullmatch(r"  [A-Za-z0-9]{40,}", line))
    pasted = "\n".join(lines[lines.index("[[agents]]") :])
    assert token not in pasted
    (daemon.home / "conf.d").mkdir()
    (daemon.home / "conf.d" / "77.toml").write_text(pasted)
    assert output_of(daemon.command("check"))
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded")
    me = daemon.get("/me", by=None, headers={"Session-id": token}).json()
    assert me["user"] == {"id": 77, "name": "Nora “N”", "email": "", "externalId": ""}
    other = answer(daemon.command("token", "new", "--json"))
    assert set(other) == {"token", "token_sha256", "id", "name", "roles"}
    assert other["token"] != token


def test_check_prints_the_settings_in_force_and_masks_secrets(daemon: Daemon) -> None:
    fingerprint = [line["config_fingerprint"] for line in daemon.log_lines() if "config_fingerprint" in line][-1]
    assert output_of(daemon.command("check")) == f"{daemon.config}: nothing wrong (fingerprint {fingerprint})\n"
    effective = output_of(daemon.command("check", "--effective", TMINUS_LIFECYCLE__LEAD="7m"))
    assert re.search(r'lead = "7m" *# environment TMINUS_LIFECYCLE__LEAD', effective)
    assert re.search(rf'listen = "127\.0\.0\.1:0" *# {daemon.config}:\d+', effective)
    assert re.search(r'new_timeout = "1h" *# default', effective)
    assert not re.search("[0-9a-f]{64}", effective)


def test_advance_runs_the_transitions_that_are_due(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(lifecycle={"lead": "100ms"})
    assert output_of(daemon.command("advance")) == "nothing was due\n", "`advance` is harmless while a daemon runs"
    session = daemon.make(startTime=from_now(seconds=4))
    assert daemon.terminate() == 0
    swept = eventually(lambda: (done := answer(daemon.command("advance", "--json")))["moves"] and done)
    assert swept == {"moves": {"open": 1}, "removed": 0, "withoutPin": 0}
    daemon.start()
    assert daemon.session(session["id"])["status"] == "new"
    # `advance` recorded the transition, and the daemon did not repeat it.
    names = [event["type"] for event in daemon.events(session["id"])]
    assert names == ["session.scheduled", "session.ready"]


def test_db_upgrade_migrates_the_database(make_daemon: StartDaemon) -> None:
    new = make_daemon()
    assert re.fullmatch(r"schema \(none\) -> \w+\n", output_of(new.command("db", "upgrade")))
    assert re.fullmatch(r"schema \w+: nothing to do\n", output_of(new.command("db", "upgrade")))


def test_watch_continues_over_a_restart_of_the_daemon(start_daemon: StartDaemon) -> None:
    """The command runs on a terminal until Ctrl-C, and then exits with 0."""
    daemon = start_daemon()
    session = daemon.make(label="Watched", startTime=from_now(minutes=10, seconds=30))
    controller, terminal = pty.openpty()
    env = environment(
        STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config), COLUMNS="120", LINES="60", TERM="xterm"
    )
    watching = subprocess.Popen(
        [TMINUS, "watch", "--interval", "100ms", "--limit", "1000"],
        env=env, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, cwd=daemon.home,
    )  # fmt: skip
    os.close(terminal)
    os.set_blocking(controller, False)
    screen = b""

    def on_screen(wanted: str) -> bool:
        nonlocal screen
        with suppress(OSError):  # nothing new, or the command has ended
            screen += os.read(controller, 1 << 20)
        return wanted.encode() in screen

    try:
        assert eventually(lambda: on_screen("Coming") and on_screen("Open"))
        fresh = daemon.make(label="Just made", type="replay")
        assert eventually(lambda: on_screen(fresh["id"]))
        assert session["status"] == "scheduled"
        assert daemon.terminate() == 0
        assert daemon.log_lines("http.anonymous") == [], "a stop does not make a polling client unauthenticated"
        assert eventually(lambda: on_screen("again"))
        daemon.start()
        later = daemon.make(label="After the restart")
        assert eventually(lambda: on_screen(later["id"]))
        watching.send_signal(signal.SIGINT)
        eventually(lambda: on_screen("never") or watching.poll() is not None)
        assert watching.returncode == 0
        assert watching.stderr is not None
        assert watching.stderr.read() == b""
    finally:
        if watching.poll() is None:
            watching.kill()
        watching.communicate()
        os.close(controller)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion_script(daemon: Daemon, shell: str) -> None:
    script = output_of(daemon.command("--show-completion", shell))
    assert "_TMINUS_COMPLETE" in script
    assert output_of(daemon.command("--show-completion", SHELL=f"/usr/bin/{shell}")) == script


def test_a_bash_completes_commands_options_and_values(daemon: Daemon) -> None:
    script = output_of(daemon.command("--show-completion", "bash"))
    for words, wanted in (
        ("tminus resch", {"reschedule"}),
        ("tminus db ", {"backup", "check", "compact", "restore", "upgrade"}),
        ("tminus --url http://x list --st", {"--status", "--start-from", "--start-to"}),
        ("tminus list --status ", {"scheduled", "new", "active", "closed"}),
        ("tminus series ", {"list", "show", "create", "change", "end"}),
        ("tminus agents sh", {"shut-out"}),
        ("tminus --socket ", set()),
    ):
        *before, current = words.split(" ")
        ask = f"{script}\nCOMP_WORDS=({' '.join(before)} '{current}') COMP_CWORD={len(before)}\n"
        ask += "compopt() { :; }\n_tminus_completion tminus\n"
        ask += 'printf "%s\\n" "${COMPREPLY[@]}"'
        path = f"{Path(TMINUS).parent}:{os.environ['PATH']}"
        done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, env={"PATH": path}, check=True)
        assert set(done.stdout.split()) == wanted, words


def _completed(daemon: Daemon, shell: str, words: str, **env: str) -> list[str]:
    """Return the completions of the last word."""
    last = str(len(words.split(" ")) - 1) if shell != "fish" else words.rsplit(" ", maxsplit=1)[-1]
    done = daemon.command(COMP_WORDS=words, COMP_CWORD=last, _TMINUS_COMPLETE=f"{shell}_complete", **env)
    return output_of(done).splitlines()


def test_ids_and_endpoint_names_are_completed(start_daemon: StartDaemon, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    webhooks = [{"name": name, "url": "http://127.0.0.1:9/", "secret_file": str(secret)} for name in ("crm", "desk")]
    daemon = start_daemon(webhooks=webhooks)
    opened = daemon.make(label="Open\u202e, a: $(reboot)")
    coming = daemon.make(startTime=from_now(days=1))
    for command in ("show", "close", "cancel", "events", "webhooks replay crm --session"):
        ids = {line.removeprefix("plain,") for line in _completed(daemon, "bash", f"tminus {command} ")}
        assert ids == {opened["id"], coming["id"]}, command
    assert _completed(daemon, "bash", "tminus reschedule ") == [f"plain,{coming['id']}"]
    assert _completed(daemon, "bash", f"tminus show {opened['id'][:5]}") == [f"plain,{opened['id']}"]
    assert _completed(daemon, "bash", "tminus webhooks ping d") == ["plain,desk"]
    assert _completed(daemon, "zsh", f"tminus show {opened['id']}") == [
        "plain", opened["id"], "Open\\u202e, a: $(reboot)",
    ]  # fmt: skip
    (shown,) = _completed(daemon, "fish", f"tminus show {opened['id']}")
    assert shown.startswith(f"plain,{opened['id']}\tOpen\\u202e,")
    other = f"tminus --url {daemon.url} show "
    assert _completed(daemon, "bash", other) == []
    assert _completed(daemon, "bash", other, TMINUS_TOKEN=daemon.tokens["admin"]) != []


@pytest.mark.parametrize("words", ["tminus show ", "tminus webhooks ping ", "tminus --url http://[ show "])
def test_completion_without_a_response_prints_nothing(make_daemon: StartDaemon, words: str) -> None:
    stopped = make_daemon()
    assert _completed(stopped, "bash", words) == []
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(stopped.home / "silent.sock"))
        silent.listen()
        assert _completed(stopped, "bash", words, TMINUS_SOCKET=str(stopped.home / "silent.sock")) == []
        requests = 0
        while select.select([silent], [], [], 0)[0]:
            silent.accept()[0].close()
            requests += 1
        assert requests == ("--url" not in words), "one request: a person who pressed Tab must not wait for a retry"


def test_completion_is_installed_once(daemon: Daemon, tmp_path: Path) -> None:
    for _ in range(2):
        output_of(daemon.command("--install-completion", HOME=str(tmp_path), SHELL="/bin/bash", XDG_DATA_HOME=""))
    assert (tmp_path / ".bashrc").read_text() == f"source '{tmp_path}/.local/share/tminus/completion.bash'\n"


def test_help_names_every_command(daemon: Daemon) -> None:
    helped = output_of(daemon.command("--help"))
    for name in (
        "run", "check", "create", "schedule", "reschedule", "close", "show", "list", "events", "watch", "token", "db",
        "advance",
    ):  # fmt: skip
        assert re.search(rf"\b{name}\b", helped)
    assert re.fullmatch(r"tminus \d+\.\d+\.\d+\n", output_of(daemon.command("--version")))


def test_events_are_paged_and_end_at_the_event_that_was_newest_at_the_start(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PAGE", 5)
    session = daemon.make(startTime=from_now(days=1))
    for day in range(2, 12):
        assert daemon.put(f"/supportsession/{session['id']}", {"startTime": from_now(days=day)}).status_code == 200
    first = daemon.events(session["id"])[0]["seq"]
    with ScreenMeet(socket=daemon.socket) as sm:
        for session_id in (None, session["id"]):
            before = daemon.events(session["id"])[-1]["seq"]
            pages = events._past_pages(sm, session_id, [], first - 1)
            listed = list(next(pages))
            assert daemon.put(f"/supportsession/{session['id']}", {"startTime": from_now(days=20)}).status_code == 200
            for page in pages:
                listed += page
                assert session_id or len(page) <= 5, "the command reads no more than a page at once"
            seqs = [event["seq"] for event in listed]
            assert seqs == sorted(set(seqs))
            history = [event["seq"] for event in daemon.events(session["id"])]
            assert {seq for seq in history if seq <= before} <= set(seqs)
            assert history[-1] not in seqs, "events that occur meanwhile are left out"


def test_events_of_own_sessions_do_not_require_access_to_the_feed(daemon: Daemon) -> None:
    made = daemon.make(by="ben")
    done = daemon.command("--url", daemon.url, "events", made["id"], "--json", TMINUS_TOKEN=daemon.tokens["ben"])
    assert [event["type"] for event in answer(done)] == ["session.created"]
    assert "monitor" in refused(daemon.command("--url", daemon.url, "events", TMINUS_TOKEN=daemon.tokens["ben"]), 5)
    assert answer(daemon.command("events", "--after", "999999999", "--json")) == []
