"""Commands of root in a directory of another user do nothing that this user could not do."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.support.processes import TMINUS
from tminus import clock
from tminus.storage import Store
from tminus.storage.backup import back_up

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can drop its privileges"),
]

NOBODY = 65534


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup in a directory that belongs to root."""
    folder = tmp_path_factory.mktemp("backup")
    Store(folder / "tminus.db", clock.now).close()
    back_up(folder / "tminus.db", folder / "copy.db", clock.now())
    return folder / "copy.db"


@pytest.fixture
def daemon_of_nobody(make_daemon: StartDaemon) -> Daemon:
    """A daemon whose state directory belongs to another user."""
    daemon = make_daemon()
    daemon.home.chmod(0o755)  # the other user can reach its directory
    daemon.state.mkdir()
    os.chown(daemon.state, NOBODY, NOBODY)
    return daemon


def run_all(daemon: Daemon, backup: Path, folder: Path) -> "dict[str, subprocess.CompletedProcess[str]]":
    """Run all commands that the documentation lets root run on a state directory."""
    return {
        "restore": daemon.command("db", "restore", str(backup)),
        "check": daemon.command("db", "check"),
        "compact": daemon.command("db", "compact"),
        "backup": daemon.command("db", "backup", str(folder / "another.db"), "--force"),
        "upgrade": daemon.command("db", "upgrade"),
        "advance": daemon.command("advance"),
    }


def planted_symlink(victim: Path, name: Path) -> None:
    name.symlink_to(victim)


def planted_hard_link(victim: Path, name: Path) -> None:
    name.hardlink_to(victim)


def planted_pipe(_victim: Path, name: Path) -> None:
    os.mkfifo(name)
    os.chown(name, NOBODY, NOBODY)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("tminus.lock", planted_symlink),
        ("tminus.lock", planted_hard_link),
        ("tminus.lock", planted_pipe),
        ("tminus.db-lock", planted_symlink),
        ("tminus.db", planted_symlink),
        ("tminus.db", planted_hard_link),
        ("tminus.db-wal", planted_symlink),
        ("tminus.db-shm", planted_symlink),
        (".tminus-x.half", planted_symlink),
        (".tminus-x.half", planted_pipe),
    ],
)
def test_links_in_a_state_directory_do_not_lead_root_to_other_files(
    daemon_of_nobody: Daemon, backup: Path, tmp_path: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    victims = daemon_of_nobody.home / "v"
    victims.mkdir(mode=0o700)
    victim = victims / "shadow"
    victim.write_text("root:secret")
    victim.chmod(0o600)
    plant(victim, daemon_of_nobody.state / name)

    done = run_all(daemon_of_nobody, backup, tmp_path)

    found = victim.stat()
    assert (victim.read_text(), found.st_uid, found.st_mode & 0o777) == ("root:secret", 0, 0o600), done
    assert list(victims.iterdir()) == [victim], "no other file is created there"
    for one in done.values():
        assert "Traceback" not in one.stderr
        assert "secret" not in one.stdout + one.stderr
    made = [one for one in daemon_of_nobody.state.iterdir() if one.lstat().st_uid != NOBODY]
    assert [one.name for one in made if not one.is_symlink() and not one.samefile(victim)] == []


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_files_that_root_creates_in_a_state_directory_belong_to_its_owner(
    daemon_of_nobody: Daemon, backup: Path, tmp_path: Path, mode: int
) -> None:
    daemon_of_nobody.home.chmod(mode)  # 0o700: as /var/lib/private, which has the state of services with DynamicUser=

    done = run_all(daemon_of_nobody, backup, tmp_path)

    assert {name: one.returncode for name, one in done.items()} == dict.fromkeys(done, 0), done
    owners = {one.name: (one.stat().st_uid, one.stat().st_mode & 0o777) for one in daemon_of_nobody.state.iterdir()}
    assert owners == dict.fromkeys(("tminus.db", "tminus.db-lock", "tminus.lock"), (NOBODY, 0o600))
    assert (tmp_path / "another.db").stat().st_uid == 0, "a backup belongs to the owner of its directory"


def test_the_lock_file_is_readable_by_its_owner_only_even_if_it_was_not_before(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.state.mkdir()
    (daemon.state / "tminus.lock").touch(0o644)
    daemon.start()
    assert {one.stat().st_mode & 0o777 for one in daemon.state.glob("*lock")} == {0o600}
    assert daemon.terminate() == 0


def test_root_does_not_use_a_state_directory_of_another_user_in_its_working_directory(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    prepared = daemon.home / "var"
    prepared.mkdir()
    os.chown(prepared, NOBODY, NOBODY)
    error = f"{prepared}: belongs to nobody: to use it anyway, set STATE_DIRECTORY to it"

    for arguments in (("db", "restore", str(daemon.config)), ("db", "upgrade"), ("db", "check"), ("advance",)):
        done = daemon.command(*arguments, STATE_DIRECTORY="")
        assert (done.returncode, done.stderr) == (1, f"tminus: {error}\n")
    daemon.spawn(STATE_DIRECTORY="")
    assert daemon.logged("daemon.failed")["error"] == error
    assert list(prepared.iterdir()) == []


def test_a_command_in_a_removed_directory_reports_it(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    removed = daemon.home / "gone"
    error = "var: the working directory was removed: set STATE_DIRECTORY to the state directory"
    shell = f"mkdir {removed} && cd {removed} && rmdir {removed} && exec"
    for arguments, code, message in (("db check", 1, error), ("run", 1, error), ("list", 6, "there is no daemon at")):
        done = subprocess.run(
            ["sh", "-c", f"{shell} {TMINUS} {arguments}"],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == code
        assert message in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
