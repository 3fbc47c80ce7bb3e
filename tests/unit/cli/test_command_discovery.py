"""Where a command looks for the daemon's local socket, and which users it trusts there."""

import os
from pathlib import Path

import pytest

from tminus.cli import discovery
from tminus.cli.discovery import candidates
from tminus.config import ConfigError

ME = os.geteuid()


@pytest.fixture(autouse=True)
def system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use no file of this machine, and an empty working directory."""
    path = tmp_path / "etc" / "tminus.toml"
    path.parent.mkdir()
    monkeypatch.setattr(discovery, "SYSTEM_FILE", path)
    monkeypatch.chdir(tmp_path)
    return path


def _sockets(explicit: Path | None = None, **environ: str) -> list[Path]:
    return [one.socket for one in candidates(explicit, environ)]


def test_the_working_directory_is_searched_before_the_service(tmp_path: Path) -> None:
    assert _sockets() == [
        tmp_path / "var" / "tminus.sock",
        Path("/run/tminus/tminus.sock"),
        Path("/var/lib/tminus/tminus.sock"),
    ]


def test_a_named_daemon_is_the_only_candidate(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.touch()
    here = [tmp_path / "var" / "tminus.sock"]
    assert _sockets(file) == _sockets(TMINUS_CONFIG=str(file)) == _sockets(STATE_DIRECTORY="var") == here


def test_in_the_working_directory_only_sockets_of_the_user_and_root_are_trusted() -> None:
    assert candidates(None, {})[0].owners == frozenset({0, ME})


def test_any_user_may_listen_where_only_root_or_the_caller_can_create_a_socket(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o750)
    assert candidates(None, {"STATE_DIRECTORY": "state"})[0].owners is None
    state.chmod(0o777)
    assert candidates(None, {"STATE_DIRECTORY": "state"})[0].owners == frozenset({0, ME})


@pytest.mark.skipif(ME != 0, reason="NOT TESTED: only root can change the owner of a directory")
def test_the_owner_of_a_named_directory_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 4711, 4711)
    assert candidates(None, {"STATE_DIRECTORY": "state"})[0].owners == frozenset({0, ME, 4711})


@pytest.mark.parametrize(
    ("files", "environ", "name"),
    [
        ({}, {}, "tminus.sock"),
        ({"a.toml": "[server]\nsocket = 'b'"}, {}, "b"),
        ({"a.toml": "\ufeff[server]\nsocket = 'b'"}, {}, "b"),
        ({"a.toml": "[server]\nsocket = 'b'", "conf.d/1.toml": "server.socket = 'c'"}, {}, "c"),
        ({"a.toml": "# socket", "conf.d/.1.toml": "server.socket = 'c'", "conf.d/2.txt": "socket"}, {}, "tminus.sock"),
        ({"a.toml": "[server]\nsocket = 'b'"}, {"TMINUS_SERVER__SOCKET": "e"}, "e"),
        ({"a.toml": ""}, {"TMINUS_SERVER__SOCKET": '"e"'}, "e"),
        ({"a.toml": "[lifecycle]\nlead = 'wrong'\n[server]\nsocket = 'b'"}, {}, "b"),
    ],
)
def test_the_name_of_the_socket_is_read_from_the_configuration(
    tmp_path: Path, files: dict[str, str], environ: dict[str, str], name: str
) -> None:
    (tmp_path / "conf.d").mkdir()
    for file, text in files.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    assert _sockets(tmp_path / "a.toml" if files else None, **environ)[0] == tmp_path / "var" / name


def test_an_empty_setting_means_no_local_socket(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("server.socket = ''")
    assert _sockets(tmp_path / "a.toml") == []


@pytest.mark.parametrize("text", ["socket = ", "[server]\nsocket = 5", "server = 'socket'"])
def test_all_problems_of_an_unreadable_configuration_are_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.toml:"):
        _sockets(tmp_path / "a.toml")


def test_in_a_removed_working_directory_the_service_is_used(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert _sockets()[1:] == [Path("/run/tminus/tminus.sock"), Path("/var/lib/tminus/tminus.sock")]
