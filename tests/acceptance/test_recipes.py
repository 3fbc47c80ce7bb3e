"""docs/recipes.md, run block by block in a shell beside a running daemon; the output equals that of the page."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import environment
from tests.support.pages import ROOT
from tests.support.processes import TMINUS

pytestmark = pytest.mark.slow

ADDRESS = "127.0.0.1"
"""The address that the page names. The test replaces it with another loopback address, whose ports are free."""

RANDOM = ("id", "pin", "hostAuthToken", "externalSessionObjectId", "participantId")
"""Fields whose values are random, except the ids of agents, which are numbers."""

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Answers:
    """Compares the output that the page shows with the actual output.

    Each id, PIN, key or time of the page stands for an actual one, which is the same throughout the page.
    """

    def __init__(self, address: str) -> None:
        self._stands_for = {ADDRESS: address}

    def compare(self, shown: Any, actual: Any, where: str) -> None:
        match shown:
            case dict():
                names = set(shown) - {"…"}
                assert names <= set(actual) if "…" in shown else names == set(actual), where
                for name in sorted(names, key=lambda name: name not in RANDOM):  # urls repeat ids
                    self._field(name, shown[name], actual[name], f"{where}.{name}")
            case list():
                assert len(shown) == len(actual), where
                for number, (one, other) in enumerate(zip(shown, actual, strict=True)):
                    self.compare(one, other, f"{where}[{number}]")
            case str():
                assert actual == self._translated(shown, actual), where
            case _:
                assert shown == actual, where

    def _field(self, name: str, shown: Any, actual: Any, where: str) -> None:
        is_random = name in RANDOM and shown not in (0, None) and not (name == "id" and isinstance(shown, int))
        if is_random or (isinstance(shown, str) and re.fullmatch(TIME, shown)):
            self._pair(shown, actual, where)
        elif name == "ids":
            for one, other in zip(shown, actual, strict=True):
                self._pair(one, other, where)
        elif name == "remoteIp":
            assert actual.startswith("127."), where
        elif name == "userAgent":
            assert re.sub(r"[\d.]+", "", shown) == re.sub(r"[\d.]+", "", actual), where
        else:
            self.compare(shown, actual, where)

    def _pair(self, shown: Any, actual: Any, where: str) -> None:
        assert re.sub("[A-Za-z0-9]", "x", str(shown)) == re.sub("[A-Za-z0-9]", "x", str(actual)), where
        if isinstance(shown, str) and re.fullmatch(TIME, shown):
            assert re.fullmatch(TIME, str(actual)), where
        assert self._stands_for.setdefault(str(shown), str(actual)) == str(actual), where

    def _translated(self, shown: str, actual: str) -> str:
        for one, other in self._stands_for.items():
            shown = re.sub(rf"(?<!\w){re.escape(one)}(?!\w)", other, shown)
        key = re.search("#host=([A-Za-z0-9]+)$", actual)
        return re.sub("#host=[A-Za-z0-9]{32}$", key[0], shown) if key else shown


def _own_address() -> str:
    high, low = divmod(os.getpid() % 60000, 250)
    return f"127.77.{high + 1}.{low + 1}"


def _page() -> list[tuple[str, str]]:
    """Return the blocks of the page: language and text."""
    return BLOCK.findall((ROOT / "docs/recipes.md").read_text())


def _script(blocks: list[tuple[str, str]], log: Path) -> Iterator[str]:
    """Yield the lines of one script with all blocks; each writes its output to a numbered file.

    After a command that reloads the daemon, the script waits for the reload.
    """
    yield f"""set -euo pipefail
        trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
        reloads=0
        reloaded() {{
            reloads=$((reloads + 1))
            until [ "$(grep -cE '"config.(reloaded|rejected)"' {log})" -ge $reloads ]; do sleep 0.05; done
        }}
    """
    for number, (language, text) in enumerate(blocks):
        if language == "sh":
            yield f"{{\n{text}\n}} > {number}.out"
            if "kill -HUP" in text:
                yield "reloaded"
        if language in ("python", "js", "bash"):
            first, _, _ = text.partition("\n")
            Path(log.parent, first.split()[-1]).write_text(text)
    yield "echo finished"


@pytest.mark.skipif(
    not all(map(shutil.which, ("curl", "jq", "node", "openssl", "systemd-socket-activate"))),
    reason="RECIPES NOT TESTED: they need curl, jq, node, openssl and systemd-socket-activate",
)
def test_every_command_of_the_page_prints_the_output_shown(make_daemon: StartDaemon) -> None:
    daemon, address = make_daemon(), _own_address()
    daemon.state, daemon.socket = daemon.home / "var", daemon.home / "var/tminus.sock"
    daemon.config = daemon.home / "config/tminus.toml"
    (daemon.home / "config/conf.d").mkdir(parents=True)
    daemon.configure(server={"listen": f"{address}:8710"})
    daemon.config.write_text(daemon.config.read_text().partition("[[agents]]")[0])
    daemon.start()

    blocks = _page()
    script = "\n".join(_script(blocks, daemon.log)).replace(ADDRESS, address)
    for file in daemon.home.glob("receive.*"):
        file.write_text(file.read_text().replace(ADDRESS, address))
    path = f"{Path(TMINUS).parent}:{os.environ['PATH']}"
    config = {"TMINUS_CONFIG": str(daemon.config), "PATH": path, "TZ": "UTC", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash"], input=script, cwd=daemon.home, env=environment(**config), capture_output=True, text=True, timeout=90,
        check=False,
    )  # fmt: skip
    outputs = {int(file.stem): file.read_text() for file in daemon.home.glob("[0-9]*.out")}
    errors = [line for line in done.stderr.splitlines() if not line.startswith("tminus: added new agent ")]
    assert (done.stdout, errors) == ("finished\n", []), (blocks[max(outputs)][1], outputs[max(outputs)])

    left = {path.name for path in daemon.home.glob("*.*") if not path.name.endswith(".out")}
    assert not {name for name in left if name.startswith(("receive", "python", "node", "shell", "session"))}, (
        "the page removes its files"
    )
    assert list((daemon.home / "config/conf.d").iterdir()) == []

    answers, compared = Answers(address), 0
    for number, (language, text) in enumerate(blocks):
        if language == "json":
            answers.compare(json.loads(text), json.loads(outputs[number - 1]), text)
        elif language == "text":
            assert re.sub(r"\d+ ms", "ms", outputs[number - 1]) == re.sub(r"\d+ ms", "ms", text)
        compared += language in ("json", "text")
    assert compared >= 25
    assert [language for language, _ in blocks if language not in ("sh", "json", "text", "python", "js", "bash")] == []


def test_receivers_have_at_most_ten_lines() -> None:
    for language, text in _page():
        if language in ("python", "js", "bash"):
            lines = [line for line in text.splitlines() if line and not line.startswith(("#", "//", "import "))]
            assert len(lines) <= 10, (language, lines)
