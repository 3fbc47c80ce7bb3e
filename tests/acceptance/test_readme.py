"""The tour of the README, run in a shell beside a running daemon."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import environment
from tests.support import picture
from tests.support.pages import blocks

ADDRESS = "127.0.0.1"
"""The address that the page names. The test replaces it with another loopback address, whose port 8710 is free."""


def _own_address() -> str:
    high, low = divmod(os.getpid() % 60000, 250)
    return f"127.78.{high + 1}.{low + 1}"


def test_the_tour_can_be_pasted_line_by_line(make_daemon: StartDaemon) -> None:
    daemon, address = make_daemon(), _own_address()
    daemon.state, daemon.socket = daemon.home / "var", daemon.home / "var/tminus.sock"
    daemon.config = daemon.home / "config/tminus.toml"
    (daemon.home / "config/conf.d").mkdir(parents=True)
    (daemon.home / ".venv/bin").mkdir(parents=True)
    for name in ("python", "tminus"):
        (daemon.home / ".venv/bin" / name).write_text(f'#!/bin/sh\nexec {Path(sys.executable).with_name(name)} "$@"\n')
        (daemon.home / ".venv/bin" / name).chmod(0o755)
    daemon.configure(server={"listen": f"{address}:8710"})
    daemon.config.write_text(daemon.config.read_text().partition("[[agents]]")[0])
    daemon.start()

    first, *tour = blocks("README.md", "Five-minute tour")
    assert first == "make run\n"
    # A busy machine may need longer than the pauses of the page, so the test waits for the events themselves.
    script = "\n".join(("set -euo pipefail", *tour, "echo finished"))
    assert script.count("sleep") == 2
    script = script.replace("sleep 6\n", "until .venv/bin/tminus show $ID | grep -qw new; do sleep 0.2; done\n")
    script = script.replace("sleep 1\n", f"until grep -q '\"config.reloaded\"' {daemon.log}; do sleep 0.2; done\n")
    done = subprocess.run(
        ["bash"], input=script.replace(ADDRESS, address), cwd=daemon.home,
        env=environment(TMINUS_CONFIG=str(daemon.config), TZ="UTC", NO_COLOR="1"),
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip

    errors = [line for line in done.stderr.splitlines() if not line.startswith("tminus: added new agent ")]
    assert errors == []
    assert done.stdout.endswith("{'success': True}\nfinished\n")
    for seen in ("session.ready", "Remote support for INC0000005", '"name":"System Administrator"', f"{address}:8710/"):
        assert seen in done.stdout.replace('": "', '":"'), seen


def test_the_day_in_a_minute_can_be_pasted(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()  # only its directory is used: the page starts a daemon of its own
    (daemon.home / ".venv/bin").mkdir(parents=True)
    tminus = daemon.home / ".venv/bin/tminus"
    tminus.write_text(f'#!/bin/sh\nexec {Path(sys.executable).with_name("tminus")} "$@"\n')
    tminus.chmod(0o755)
    script = "\n".join(
        ("set -euo pipefail", *blocks("README.md", "A day in a minute"), "wait || true", "echo finished")
    )
    assert "127.0.0.1:8711" in script
    script = script.replace("127.0.0.1:8711", f"{_own_address()}:8711")
    # `timeout` ends the daemon of the page too.
    done = subprocess.run(
        ["timeout", "--verbose", "60", "bash"], input=script, cwd=daemon.home,
        env=environment(TMINUS_CONFIG=str(daemon.config), TZ="UTC", NO_COLOR="1", TMPDIR=str(daemon.home)),
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, ""), "it ends within the minute that the page promises"
    assert done.stdout.endswith("finished\n")
    printed = [kind for kind in re.findall(r"session\.\w+", done.stdout) if kind != "session.scheduled"]
    assert printed == ["session.reminder", "session.ready", "session.closed"]
    assert "\n1 session closed from " in done.stdout
    assert "live\t1\t0\t1\t0" in done.stdout, "nobody came"


def test_the_picture_equals_the_current_output_of_the_command() -> None:
    shown = picture.words(picture.PICTURE.read_text())

    assert {"Open", "LABEL", "scheduled", "Interview"} <= shown
    assert shown == picture.words(picture.picture()), "`make picture` updates it"
