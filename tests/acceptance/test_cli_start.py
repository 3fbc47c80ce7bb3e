"""A command starts fast, since it loads only what it needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.daemons import Daemon, environment

HEAVY = frozenset(
    {
        "alembic", "apscheduler", "asyncio", "email", "fastapi", "httpx", "importlib.metadata", "pydantic", "rich",
        "sqlalchemy", "ssl", "structlog", "typer", "uvloop",
    }
)  # fmt: skip
"""Modules that take longer to load than the request of a command takes."""

LOADED = """
import sys
from tminus.cli import main

try:
    main()
finally:
    sys.stderr.write(" ".join(sys.modules))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("list",),
        ("list", "--json"),
        ("list", "--help"),
        ("create", "--type", "live", "--label", "A"),
        ("events",),
        ("webhooks", "list"),
        ("webhooks", "--help"),
        ("nothing",),
    ],
    ids=" ".join,
)
def test_frequent_commands_load_no_heavy_modules(daemon: Daemon, arguments: tuple[str, ...]) -> None:
    env = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config))
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], env=env, capture_output=True, text=True, check=False
    )
    loaded = done.stderr.splitlines()[-1].split()
    assert "tminus.cli" in loaded, done.stderr
    assert not HEAVY.intersection(loaded)
    assert len(loaded) < 160


def test_completion_loads_no_heavy_modules(daemon: Daemon) -> None:
    env = environment(_TMINUS_COMPLETE="bash_complete", COMP_WORDS="tminus list --", COMP_CWORD="2")
    done = subprocess.run([sys.executable, "-c", LOADED], env=env, capture_output=True, text=True, check=True)
    assert "--status" in done.stdout
    assert not HEAVY.intersection(done.stderr.split())


def test_the_daemon_loads_structlog_only_to_write_to_a_terminal() -> None:
    loads = "import sys; import tminus.service.main, tminus.service.daemon; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loads], env=environment(), capture_output=True, text=True, check=True)
    assert "sqlalchemy" in done.stdout.split()
    assert not {"rich", "structlog"}.intersection(done.stdout.split())


def test_no_plugin_of_pydantic_is_loaded(tmp_path: Path) -> None:
    """To search for plugins takes 30 ms, and one could change what is valid."""
    package = tmp_path / "spy-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: spy\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[pydantic]\nspy = spy:plugin\n")
    (tmp_path / "spy.py").write_text("raise SystemExit('a plugin was loaded')\n")
    (tmp_path / "tminus.toml").touch()
    command = [sys.executable, "-m", "tminus", "check", "--config", str(tmp_path / "tminus.toml")]
    env = environment(PYTHONPATH=str(tmp_path), STATE_DIRECTORY=str(tmp_path))
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
