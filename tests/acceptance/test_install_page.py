"""docs/install.md, pasted line by line into a machine with systemd: installation, operation and removal.

test_systemd.py pastes the lines of "Secrets", because it has a PostgreSQL server. This module pastes all others
unchanged. The box reaches no network, so two things are replaced: `apt-get` only checks that the packages are
installed, and the packages that pip would download are copied from the test environment first. pip still checks them
against the lock.
"""

import importlib.metadata
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import ROOT, shell_of
from tests.support.systemd_box import Box, booted
from tests.support.waiting import eventually

APT_GET = """#!/bin/sh
[ "$1 $2" = "install -y" ] && shift 2 && exec dpkg-query --show "$@"
"""

CHECKOUT = "/root/checkout"
PACKAGES = f"/opt/tminus/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

COPIED = ("daemon", "systemd", "config", "README.md", "LICENSE", "pyproject.toml", "requirements.lock")
"""The parts of the checkout that the page uses."""


def locked() -> set[str]:
    """Return the files and folders in `site-packages` of all packages in the lock file."""
    names = re.findall(r"^([\w.-]+)==[^ ]+ (?:\\|;(?!.*win32))", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    files = (file for name in names for file in importlib.metadata.files(name) or ())
    return {file.parts[0] for file in files if file.parts[0] != ".."}


@pytest.fixture
def box() -> Iterator[Box]:
    """A box with a checkout and the files that the page downloads."""
    shown = {Path(sysconfig.get_path("purelib")): "/srv/packages", ROOT: "/srv/checkout"}
    with booted({"/usr/local/sbin/apt-get": APT_GET}, shown, "curl", "dpkg-query", "gpasswd") as box:
        if box.run("/usr/bin/python3", "-c", "import ensurepip").returncode:
            pytest.skip("NOT TESTED UNDER A REAL SYSTEMD: it needs ensurepip (Debian package python3-venv)")
        box.do("mkdir", "-p", PACKAGES, CHECKOUT)
        box.do("env", "--chdir=/srv/packages", "cp", "-a", f"--target-directory={PACKAGES}", *locked())
        box.do("env", "--chdir=/srv/checkout", "cp", "-r", f"--target-directory={CHECKOUT}", *COPIED)
        yield box


class Reader:
    """Follows the page from its beginning to its end, as root."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self.remaining = shell_of("docs/install.md")

    def skips(self, heading: str) -> None:
        assert self.remaining.pop(0)[0] == heading

    def pastes(self, heading: str) -> str:
        """Run the next block, which must be below this heading; return its output."""
        found, block = self.remaining.pop(0)
        assert found == heading
        return self._box.paste(block, CHECKOUT, PIP_CONFIG_FILE="/dev/null", PIP_NO_INDEX="1")


def status_code(box: Box, path: str, *more: str, at: str = "127.0.0.1:8710") -> str:
    """Return the status code of a response; 000 if no connection is established."""
    return box.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *more, f"http://{at}{path}").stdout


def states(box: Box, *units: str) -> list[str]:
    return [box.show(unit, "ActiveState") for unit in units]


@pytest.mark.slow
def test_every_command_of_the_page_works_as_described(box: Box) -> None:
    reader = Reader(box)

    reader.pastes("Install")
    assert "nothing wrong" in reader.pastes("Install")
    assert states(box, "tminus.service", "tminus.socket") == ["active", "active"]
    assert box.do("systemctl", "is-enabled", "tminus.service", "tminus.socket").split() == ["enabled", "enabled"]
    eventually(lambda: box.journal("EVENT=daemon.ready"))
    output = reader.pastes("Install")
    for seen in (
        "active (running)",
        '{"ready":true',
        "Demo",
        "scheduled",
        "\tscheduled\t",
        "ready, listening on ",
    ):
        assert seen in output
    token = reader.pastes("Install").strip()
    assert status_code(box, "/v3/me", "-H", f"Session-id: {token}") == "200"

    reader.pastes("The listening sockets")
    assert status_code(box, "/readyz", at="127.0.0.2:8710") == "200"
    reader.pastes("The listening sockets")
    assert states(box, "tminus.service", "tminus.socket") == ["inactive", "inactive"]
    assert status_code(box, "/readyz") == "000"
    box.do("systemctl", "start", "tminus.socket")

    output = reader.pastes("Backups")
    assert len(re.findall(r"^-rw------- 1 root root .* tminus-\w+\.db$", output, re.MULTILINE)) == 1
    assert states(box, "tminus-backup.timer") == ["active"]
    assert box.show("tminus-backup.timer", "Unit") == "tminus-backup.service"
    assert box.show("tminus-backup.timer", "NextElapseUSecRealtime") != ""

    reader.skips("Secrets")

    box.do("mkdir", "-p", f"{CHECKOUT}/build/lib/tminus")
    box.do("touch", f"{CHECKOUT}/build/lib/tminus/of_an_earlier_version.py")
    assert "nothing wrong" in reader.pastes("Upgrade")
    assert box.run("test", "-e", f"{PACKAGES}/tminus/of_an_earlier_version.py").returncode == 1
    assert status_code(box, "/readyz") == "200"
    assert "Demo" in box.do("curl", "-s", "--unix-socket", "/run/tminus/tminus.sock", "http://local/v3/supportsessions")

    box.do("gpasswd", "--add", "nobody", "tminus")
    reader.pastes("Uninstall")
    assert box.do("systemctl", "list-units", "--all", "--plain", "--no-legend", "tminus*") == ""
    reader.pastes("Uninstall")
    assert box.do("find", "/etc", "/opt", "/run", "/usr/local/bin", "/var/lib", "-xdev", "-name", "*tminus*") == ""
    for database in ("passwd", "group"):
        assert box.run("getent", database, "tminus").stdout == ""

    assert reader.remaining == []
