"""`tminus token`: the daemon accepts what the command writes, and nothing else in the configuration changes."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon, environment

TOKEN = re.compile(r"[A-Za-z0-9]{43}\n")

NOBODY = 65534

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def own(daemon: Daemon, tmp_path: Path) -> Path:
    """A configuration that only the test's commands read."""
    main = tmp_path / "t.toml"
    main.write_text('# Ours\n[log]\nlevel = "info"\n\n[[agents]]\nid = 7\nname = "Anna"\nroles = ["agent"]\n')
    (tmp_path / "conf.d").mkdir()
    return main


def token(daemon: Daemon, main: Path, *arguments: str, **env: str) -> Done:
    return daemon.command("token", *arguments, TMINUS_CONFIG=str(main), **env)


def made(done: Done) -> str:
    """Return the printed token; check that standard error contains the next step."""
    assert done.returncode == 0, done.stderr
    assert TOKEN.fullmatch(done.stdout)
    assert "reload the daemon" in done.stderr
    assert done.stdout.strip() not in done.stderr
    return done.stdout.strip()


def status(daemon: Daemon, secret: str) -> int:
    return daemon.get("/me", by=None, headers={"Session-id": secret}).status_code


def test_a_second_token_for_an_agent_works_beside_the_first_until_it_is_revoked(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    (daemon.home / "conf.d").mkdir()
    file = str(daemon.home / "conf.d" / "nora.toml")
    first = made(daemon.command("token", "new", "--id", "77", "--name", "Nora", "--append", file))
    second = made(daemon.command("token", "new", "--id", "77", "--name", "Nora", "--append", file))
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded")
    assert (status(daemon, first), status(daemon, second)) == (200, 200)

    listed = daemon.command("token", "list", "--json").stdout
    [nora] = [agent for agent in json.loads(listed) if agent["id"] == 77]
    assert (nora["name"], nora["roles"], nora["expires"]) == ("Nora", ["agent", "api"], None)
    assert len(nora["tokens"]) == 2
    assert nora["where"] == f"{file}:2"

    done = daemon.command("token", "revoke", nora["tokens"][0])
    assert (done.returncode, "reload the daemon" in done.stdout) == (0, True)
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded", changes=1)
    assert (status(daemon, first), status(daemon, second)) == (401, 200)
    assert not daemon.log_lines("config.rejected")


def test_the_list_has_fingerprints_and_expiry_and_never_a_token_or_a_whole_hash(daemon: Daemon) -> None:
    shown = daemon.command("token", "list").stdout
    assert shown.splitlines()[0].split("\t") == ["ID", "NAME", "ROLES", "TOKENS", "FINGERPRINTS", "EXPIRES"]
    assert re.search(r"^14\tGone\tagent\t1\t[0-9a-f]{12}\t2020-01-01T00:00:00.000Z \(expired\)$", shown, re.MULTILINE)
    assert not re.search("[0-9a-f]{13}", shown)
    assert not any(secret in shown for secret in daemon.tokens.values())


def test_a_configured_agent_keeps_its_name_and_roles(daemon: Daemon, own: Path) -> None:
    before = own.read_text()
    for option in (("--name", "Bob"), ("--role", "group_admin")):
        done = token(daemon, own, "new", "--id", "7", *option, "--append", str(own))
        assert done.returncode == 1
        assert f"({own}:6): name another agent with --id, or leave {option[0]} out" in done.stderr
    assert own.read_text() == before
    made(token(daemon, own, "new", "--id", "7", "--name", "Anna", "--role", "agent", "--append", str(own)))
    assert re.sub("token_sha256.*\n", "", own.read_text()) == before


def test_an_agent_of_another_file_is_not_written_twice(daemon: Daemon, own: Path) -> None:
    done = token(daemon, own, "new", "--id", "7", "--append", str(own.parent / "conf.d/a.toml"))
    assert done.returncode == 1
    assert f"agent 7 is in {own}: name that file" in done.stderr
    assert list(own.parent.glob("conf.d/*")) == []
    printed = token(daemon, own, "new", "--id", "7").stdout
    assert f"Add this to token_sha256 of agent 7 ({own}:6)" in printed
    assert "[[agents]]" not in printed


@pytest.mark.parametrize(
    "content", ["[log]\nlevel = 3\n", "not TOML", "agents = [{id = 9, name = 'N', roles = ['x']}]\n"]
)
def test_nothing_is_written_while_another_file_is_wrong(daemon: Daemon, own: Path, content: str) -> None:
    other = own.parent / "conf.d/other.toml"
    other.write_text(content)
    before = own.read_text()
    done = token(daemon, own, "new", "--id", "8", "--append", str(own))
    assert (done.returncode, done.stdout) == (1, "")
    assert str(other) in done.stderr
    assert own.read_text() == before


def test_a_change_that_makes_the_configuration_wrong_is_not_written(daemon: Daemon, own: Path) -> None:
    own.write_text(own.read_text().replace("[log]", '[server]\nsocket = ""\n[log]'))
    digest = "ab" * 32
    own.write_text(own.read_text() + f'token_sha256 = ["{digest}"]\n')
    before = own.read_text()
    done = token(daemon, own, "revoke", "abababab")
    assert done.returncode == 1
    assert "was not changed" in done.stderr
    assert "nobody can sign in" in done.stderr
    assert own.read_text() == before
    made(token(daemon, own, "new", "--id", "7", "--append", str(own)))
    assert token(daemon, own, "revoke", "abababab").returncode == 0

    empty = token(daemon, own, "new", "--id", "8", "--name", "", "--append", str(own))
    assert (empty.returncode, empty.stdout) == (1, "")
    assert "name" in empty.stderr


def test_a_file_that_the_daemon_does_not_read_is_reported(daemon: Daemon, own: Path) -> None:
    for name in ("elsewhere.toml", "conf.d/.hidden.toml", "conf.d/agents.txt"):
        done = token(daemon, own, "new", "--id", "8", "--append", str(own.parent / name))
        made(done)
        assert f"the configuration {own} does not read {own.parent / name}" in done.stderr


def test_agents_in_the_environment_are_not_changed_in_a_file(daemon: Daemon, own: Path) -> None:
    agents = {"TMINUS_AGENTS": '[{id = 5, name = "E", roles = ["agent"], token_sha256 = ["%s"]}]' % ("cd" * 32)}
    before = own.read_text()
    for arguments in (("revoke", "cdcdcdcd"), ("new", "--id", "5", "--append", str(own))):
        done = token(daemon, own, *arguments, **agents)
        assert (done.returncode, done.stdout) == (1, "")
        assert "environment TMINUS_AGENTS" in done.stderr
    done = token(daemon, own, "new", "--id", "6", "--append", str(own), **agents)
    assert (done.returncode, done.stdout) == (1, "")
    assert "$TMINUS_AGENTS is set" in done.stderr
    assert own.read_text() == before


def test_revoke_needs_an_unambiguous_fingerprint(daemon: Daemon, own: Path) -> None:
    first, second = "ab" * 32, "ab" * 31 + "cd"
    own.write_text(own.read_text() + f'token_sha256 = ["{first}", "{second}"]\n')
    for arguments, code in (
        ((), 2),
        (("abababab", "--id", "7"), 2),
        (("ababab",), 2),
        (("ghghghgh",), 2),
        (("abababab",), 2),
        (("12345678",), 3),
        (("--id", "9"), 3),
    ):
        done = token(daemon, own, "revoke", *arguments)
        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert done.stderr.count("\n") == 1
    assert token(daemon, own, "revoke", "--id", "7").returncode == 0
    assert "token_sha256 = []" in own.read_text()
    assert token(daemon, own, "revoke", "--id", "7").returncode == 3


def test_with_json_the_file_is_also_written(daemon: Daemon, own: Path) -> None:
    done = token(daemon, own, "new", "--id", "8", "--name", "Ben", "--json", "--append", str(own))
    answer = json.loads(done.stdout)
    assert set(answer) == {"token", "token_sha256", "id", "name", "roles"}
    assert answer["token_sha256"] in own.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can change the owner of a directory")
def test_root_follows_no_link_in_a_directory_of_the_daemons_user(daemon: Daemon) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="tm-") as name:
        home = Path(name)
        home.chmod(0o755)
        theirs, secret = home / "conf.d", home / "secret"
        secret.write_text("# of root\n")
        secret.chmod(0o600)
        theirs.mkdir()
        (theirs / "agent.toml").symlink_to(secret)
        (home / "t.toml").touch()
        os.chown(theirs, NOBODY, NOBODY)

        done = token(daemon, home / "t.toml", "new", "--append", str(theirs / "agent.toml"))
        assert (done.returncode, done.stdout) == (1, "")
        assert "Permission denied" in done.stderr
        assert secret.read_text() == "# of root\n"
        (theirs / "agent.toml").unlink()
        made(token(daemon, home / "t.toml", "new", "--append", str(theirs / "agent.toml")))
        assert (theirs / "agent.toml").stat().st_uid == NOBODY


@pytest.mark.slow
def test_a_command_that_is_killed_leaves_the_old_file_or_the_new_one(daemon: Daemon, own: Path) -> None:
    source = (
        "import os, sys, tminus.config.editing as editing\n"
        "from tminus.cli import main\n"
        "calls = iter(range(int(sys.argv.pop(1)) + 1))\n"
        "def counted(call):\n"
        "    def made(*a, **b):\n"
        "        if next(calls, None) is None: os.kill(os.getpid(), 9)\n"
        "        return call(*a, **b)\n"
        "    return made\n"
        "class Counted:\n"
        "    def __getattr__(self, name):\n"
        "        found = getattr(os, name)\n"
        "        return counted(found) if name in STEPS else found\n"
        "STEPS = ('open', 'fsync', 'rename', 'fchmod')\n"
        "editing.os = Counted()\n"
        "main()\n"
    )
    before, killed, environ = own.read_text(), 0, environment(TMINUS_CONFIG=str(own))
    while True:
        arguments = [sys.executable, "-c", source, str(killed), "token", "new", "--id", "7", "--append", str(own)]
        done = subprocess.run(arguments, env=environ, capture_output=True, timeout=30, check=False)
        assert re.sub("token_sha256.*\n", "", own.read_text()) == before
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
    assert killed > 5
    assert token(daemon, own, "list").returncode == 0, "files that remain after a kill are not configuration"
