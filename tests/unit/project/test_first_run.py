"""The first run in a clone: `make run`, and the command of the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.pages import ROOT
from tests.support.processes import TMINUS

from tminus import config
from tminus.system import checkout

INSTALLER = """#!{python}
import pathlib, sys
if sys.argv[1:3] == ["-m", "venv"]:
    folder = pathlib.Path(sys.argv[3], "bin")
    folder.mkdir(parents=True)
    for name in ("python", "pip", "tminus"):
        (folder / name).symlink_to(sys.argv[0])
if sys.argv[1] == "-c" and {too_old}:
    sys.exit(1)
"""
"""A stand-in for Python, pip and tminus, which would take a minute. It prints nothing."""


def _make_run(folder: Path, *, too_old: bool = False) -> "subprocess.CompletedProcess[str]":
    python = folder / "python3"
    python.write_text(INSTALLER.format(python=sys.executable, too_old=too_old))
    python.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "run", f"PYTHON={python}"],
        cwd=folder,
        env=environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_make_run_prints_each_step_before_it_takes_it(tmp_path: Path) -> None:
    done = _make_run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    begins = [
        "Setting up .venv,",
        "1/3 creating",
        "2/3 installing the",
        "3/3 installing tminus",
        "Starting the daemon:",
    ]
    assert [line[: len(begin)] for line, begin in zip(lines, begins, strict=True)] == begins
    packages = sum("==" in line for line in (ROOT / "requirements.lock").read_text().splitlines())
    assert f"the {packages} packages" in lines[2]

    again = _make_run(tmp_path)
    assert again.stdout.splitlines() == lines[-1:]


def test_make_run_reports_the_required_python_version(tmp_path: Path) -> None:
    done = _make_run(tmp_path, too_old=True)
    assert done.returncode != 0
    assert done.stdout.startswith("Python 3.11 or newer is needed: make PYTHON=")
    assert not (tmp_path / ".venv").exists()


def test_the_command_in_the_checkout_reads_the_same_configuration_as_make_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--config config/tminus.toml" in (ROOT / "Makefile").read_text()
    environ = {"PATH": os.environ["PATH"]}

    def check(*arguments: str) -> str:
        done = subprocess.run(
            [TMINUS, *arguments, "check"],
            cwd=ROOT,
            env=environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert check() == check("--config", str(ROOT / "config/tminus.toml"))

    monkeypatch.chdir(tmp_path)
    assert checkout.configuration_file() is None
    monkeypatch.chdir(ROOT / "docs")
    assert checkout.configuration_file() is None


def test_commands_in_the_checkout_use_its_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert config.find(None, {}) == ROOT / "config/tminus.toml"
    assert config.command_state_directory(None, {}) == ROOT / "var"


def test_a_removed_working_directory_is_not_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert checkout.configuration_file() is None
    monkeypatch.chdir(tmp_path)
