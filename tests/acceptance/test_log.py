"""The log of a real daemon: after kills, with several daemons, and while nobody reads it."""

import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon, Section, environment
from tests.acceptance.times import from_now, parsed
from tests.support.disks import fill, small_disk
from tests.support.processes import TMINUS
from tests.support.waiting import eventually

KILLS = int(os.environ.get("TMINUS_TEST_KILLS", "50"))
"""Number of times that the test of kills kills its daemon, on each database. `make soak` sets it to 100."""

SMALLEST_PIPE = 4096


def events_of(lines: list[JSON]) -> list[JSON]:
    return [line for line in lines if "seq" in line]


class Maker(threading.Thread):
    """A caller that creates sessions until it is stopped; most of them open a second later."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self._daemon_under_test = daemon
        self.done = threading.Event()

    def run(self) -> None:
        daemon = self._daemon_under_test
        with httpx.Client(headers={"Session-id": daemon.token}, timeout=5) as http:
            while not self.done.is_set():
                body = {"type": "live", "label": "x", "startTime": from_now(seconds=2)}
                try:
                    http.post(f"{daemon.url}/v3/supportsessions", json=body)
                except httpx.TransportError:
                    self.done.wait(0.02)


@pytest.mark.slow
def test_after_any_number_of_kills_the_log_has_every_event_of_the_history_in_order(
    storage: dict[str, Any], make_daemon: StartDaemon
) -> None:
    daemon = make_daemon(lifecycle={"lead": "1s"}, storage=storage)
    daemon.start()
    chance = random.Random(36)
    makers = [Maker(daemon) for _ in range(3)]
    for maker in makers:
        maker.start()
    try:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.05, 0.6))  # at a random moment
            daemon.kill()
            daemon.start()
    finally:
        for maker in makers:
            maker.done.set()
        for maker in makers:
            maker.join(10)
    assert daemon.terminate() == 0
    daemon.start()  # a stop waits only one second for the log; this start logs the rest
    history = [event["seq"] for event in daemon.feed()]
    assert len(history) > 10 * KILLS
    eventually(lambda: events_of(daemon.log_lines())[-1]["seq"] >= history[-1])
    assert daemon.terminate() == 0

    runs: list[list[int]] = []
    for line in daemon.log_lines():
        if line["event"] == "daemon.starting":
            runs.append([])
        elif "seq" in line:
            runs[-1].append(line["seq"])
    assert all(run == sorted(set(run)) for run in runs), "each run logs each event once, in order"
    logged = list(dict.fromkeys(seq for run in runs for seq in run))
    assert [seq for seq in logged if seq in set(history)] == history, "every event, in order"
    assert len(daemon.log_lines("daemon.crashed")) == KILLS
    lines = {line["seq"]: line for line in events_of(daemon.log_lines())}
    daemon.start()
    # Later events belong to another run: they are of sessions that have fallen due since then.
    for event in (event for event in daemon.feed() if event["seq"] <= history[-1]):
        line = lines[event["seq"]]
        assert (line["event"], line["ts"], line["session_id"]) == (event["type"], event["ts"], event["id"])


@pytest.mark.slow
def test_the_first_line_after_a_crash_reports_it_and_a_clean_stop_is_no_crash(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    killed = daemon.log_lines("daemon.starting")[0]["pid"]
    daemon.kill()
    already = len(daemon.log_lines())
    daemon.start()
    first, second = daemon.log_lines()[already : already + 2]
    assert (first["event"], first["level"], first["previous_pid"]) == ("daemon.crashed", "error", killed)
    assert first["cause"] == "the process was killed, or crashed"
    assert parsed(first["last_alive"]) <= parsed(first["ts"])
    assert 0 <= first["away_s"] < 60
    assert second["event"] == "daemon.starting"
    daemon.restart()
    daemon.restart()
    assert len(daemon.log_lines("daemon.crashed")) == 1

    # A restart of the host is distinguished from a kill of the process.
    daemon.kill()
    run_file = daemon.state / "tminus.run"
    run_file.write_text(json.dumps({**json.loads(run_file.read_text()), "boot": "another"}))
    daemon.start()
    assert daemon.log_lines("daemon.crashed")[-1]["cause"] == "the host was restarted, or lost power"
    assert daemon.terminate() == 0
    # Any other content of the file does not prevent a start, and the daemon writes through no symbolic link.
    for text in (b"", b"\xff[[", b'{"pid": "1"}', b"[" * 5000):
        run_file.write_bytes(text)
        daemon.start()
        assert "previous_pid" not in daemon.log_lines("daemon.crashed")[-1]
        assert daemon.terminate() == 0
    precious = daemon.home / "precious"
    precious.write_text("precious")
    run_file.symlink_to(precious)
    daemon.start()
    assert daemon.terminate() == 0
    assert precious.read_text() == "precious"


def test_every_line_names_its_daemon_and_each_start_and_reload_the_configuration_fingerprint(
    make_daemon: StartDaemon,
) -> None:
    daemon = make_daemon()
    extra = daemon.home / "conf.d" / "lead.toml"
    extra.parent.mkdir()
    extra.write_text('[lifecycle]\nlead = "7m"\n')
    daemon.start()
    [starting] = daemon.log_lines("daemon.starting")
    assert (starting["host"], starting["version"]) == (socket.gethostname(), "0.1.0")
    assert starting["config_files"] == [str(daemon.config), str(extra)]
    assert {line["instance"] for line in daemon.log_lines()} == {f"{starting['host']}/{starting['pid']}"}

    def fingerprints() -> list[str]:
        """Return the configuration fingerprints in the log, from `tminus check` and from a scrape."""
        scrape = daemon.http.get(f"{daemon.url}/metrics", headers={"Session-id": daemon.tokens["monitor"]}).text
        return [
            [line["config_fingerprint"] for line in daemon.log_lines() if "config_fingerprint" in line][-1],
            re.findall(r"fingerprint (\w+)", daemon.command("check").stdout)[0],
            re.findall(r'tminus_config_info\{fingerprint="(\w+)"\}', scrape)[0],
        ]

    first = fingerprints()
    assert len(set(first)) == 1
    extra.write_text('# the same, written in another way\nlifecycle.lead = "7m"\n')
    assert daemon.command("check").stdout.count(first[0]) == 1
    extra.write_text('[lifecycle]\nlead = "8m"\n')
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded")
    second = fingerprints()
    assert len(set(second)) == 1
    assert second[0] != first[0]
    assert daemon.terminate() == 0


# --- nobody reads -----------------------------------------------------------------------------------------------------


def metric(daemon: Daemon, name: str) -> float:
    scrape = daemon.http.get(f"{daemon.url}/metrics", headers={"Session-id": daemon.tokens["monitor"]}).text
    return float(re.findall(rf"^{name} (\S+)", scrape, re.MULTILINE)[0])


class Piped:
    """Starts a daemon whose standard output is a small pipe, and reads one line of it per call of `read`."""

    def __init__(self, daemon: Daemon) -> None:
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
        with daemon.errors.open("ab") as errors:
            daemon.process = subprocess.Popen(
                [TMINUS, "run", "--config", str(daemon.config)], env=environment(STATE_DIRECTORY=str(daemon.state)),
                cwd=daemon.home, stdin=subprocess.DEVNULL, stdout=writing, stderr=errors,
            )  # fmt: skip
        os.close(writing)
        self._file = os.fdopen(reading, "rb")
        self.lines: list[JSON] = []
        while not self.lines or self.lines[-1]["event"] != "daemon.ready":
            self.read()
        daemon.url = self.lines[-1]["url"]

    def read(self) -> JSON:
        self.lines.append(json.loads(self._file.readline()))
        return self.lines[-1]

    def close(self) -> None:
        self._file.close()


@contextmanager
def piped(daemon: Daemon) -> Iterator[Piped]:
    pipe = Piped(daemon)
    try:
        yield pipe
    finally:
        pipe.close()


@pytest.mark.slow
def test_while_nobody_reads_the_log_requests_are_served_and_events_are_logged_later(
    make_daemon: StartDaemon,
) -> None:
    daemon = make_daemon(lifecycle={"lead": "1s"})
    with piped(daemon) as pipe:
        scheduled = daemon.make(startTime=from_now(seconds=3))
        while not metric(daemon, "tminus_log_dropped_lines_total"):
            for _ in range(100):
                assert daemon.get("/me").status_code == 200
            daemon.make()
            assert daemon.http.get(f"{daemon.url}/healthz").status_code == 200
        eventually(lambda: daemon.session(scheduled["id"])["status"] == "new")
        history = [event["seq"] for event in daemon.feed()]
        assert metric(daemon, "tminus_log_seq") < history[-1]
        dropped = metric(daemon, "tminus_log_dropped_lines_total")
        while [line["seq"] for line in events_of(pipe.lines)][-1:] != history[-1:] or not [
            line for line in pipe.lines if line["event"] == "log.dropped"
        ]:
            pipe.read()
        assert [line["seq"] for line in events_of(pipe.lines)] == history
        [dropped_line] = [line for line in pipe.lines if line["event"] == "log.dropped"]
        assert dropped_line["lines"] >= dropped > 0
        daemon.signal(signal.SIGTERM)
        while pipe.lines[-1]["event"] != "daemon.stopped":
            pipe.read()
    assert daemon.process is not None
    assert daemon.process.wait(60) == 0


@pytest.mark.parametrize("end", ["nobody reads", "the reader is gone"])
@pytest.mark.slow
def test_events_that_could_not_be_logged_are_logged_after_the_next_start(make_daemon: StartDaemon, end: str) -> None:
    daemon = make_daemon()
    with piped(daemon) as pipe:
        if end == "the reader is gone":
            pipe.close()
        for _ in range(30):
            daemon.make()
        history = [event["seq"] for event in daemon.feed()]
        assert daemon.terminate() == 0, "a stop does not wait for the log"
        if end == "nobody reads":  # what fitted into the pipe
            with suppress(ValueError):
                while pipe.read():
                    pass
    daemon.start()
    eventually(lambda: events_of(daemon.log_lines())[-1:] and events_of(daemon.log_lines())[-1]["seq"] == history[-1])
    [resumed] = daemon.log_lines("log.resumed")
    later = [line["seq"] for line in events_of(daemon.log_lines())]
    assert later == history[history.index(resumed["after"]) + 1 if resumed["after"] else 0 :]
    assert len(later) == resumed["events"]
    early = [line["seq"] for line in events_of(pipe.lines)]
    assert set(early) | set(later) == set(history)
    assert daemon.terminate() == 0


def test_a_log_on_a_full_disk_continues_with_space_and_has_every_event_in_complete_lines(
    make_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = make_daemon()
    with small_disk(tmp_path / "disk", "1m") as disk:
        daemon.log = disk / "log"
        daemon.start()
        fill(disk / "ballast")
        for _ in range(30):
            daemon.make()
            daemon.get("/me")
        assert daemon.http.get(f"{daemon.url}/readyz").status_code == 200
        eventually(lambda: metric(daemon, "tminus_log_dropped_lines_total") > 0)
        (disk / "ballast").unlink()
        history = [event["seq"] for event in daemon.feed()]
        eventually(lambda: [line["seq"] for line in events_of(daemon.log_lines())][-1:] == history[-1:])
        assert list(dict.fromkeys(line["seq"] for line in events_of(daemon.log_lines()))) == history
        assert daemon.logged("log.dropped")["lines"] > 0
        assert daemon.terminate() == 0


def test_with_closed_standard_streams_the_daemon_serves_and_writes_no_log_into_its_files(
    make_daemon: StartDaemon,
) -> None:
    daemon = make_daemon(server={"listen": "127.0.0.1:0"})
    command = f"exec {TMINUS} run --config {daemon.config} <&- >&- 2>&-"
    daemon.process = subprocess.Popen(["sh", "-c", command], env=environment(STATE_DIRECTORY=str(daemon.state)))
    eventually(lambda: daemon.command("list").returncode == 0)
    assert daemon.command("create", "--type", "live", "--label", "Quiet").returncode == 0
    for number in (0, 1, 2):
        target = os.readlink(f"/proc/{daemon.process.pid}/fd/{number}")
        assert target == os.devnull, target
    assert daemon.terminate() == 0
    assert "nothing wrong" in daemon.command("db", "check").stdout


@pytest.mark.slow
def test_two_daemons_each_log_every_event_and_a_killed_one_continues_after_its_last(
    make_daemon: StartDaemon, sections: dict[str, Section]
) -> None:
    one, two = (make_daemon(**sections) for _ in range(2))
    both: Callable[[], list[list[int]]] = lambda: [  # noqa: E731 - one expression
        list(dict.fromkeys(line["seq"] for line in events_of(daemon.log_lines()))) for daemon in (one, two)
    ]
    for daemon in (one, two):
        daemon.start()
        daemon.make()
    eventually(lambda: both()[0] == [1, 2])
    eventually(lambda: both()[1][-1:] == [2], 20)
    one.kill()
    for _ in range(3):
        two.make()
    one.start()
    eventually(lambda: [seqs[-1] for seqs in both()] == [5, 5])
    first, second = both()
    assert first == [1, 2, 3, 4, 5]
    assert second in (first, first[1:]), "the second daemon started after the first event, which the first daemon logs"
    assert len({line["instance"] for daemon in (one, two) for line in daemon.log_lines()}) == 3
    for daemon in (one, two):
        assert daemon.terminate() == 0
