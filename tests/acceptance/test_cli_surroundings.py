"""The environment of a command: its streams, working directory, variables and signals."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon, environment
from tests.support.processes import TMINUS

pytestmark = pytest.mark.slow

Done = subprocess.CompletedProcess[str]


def _shell(daemon: Daemon, line: str, folder: Path | None = None, **env: str) -> Done:
    """Run a line in a shell whose `tminus` is the installed command, configured for this daemon."""
    environ = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config), **env)
    environ["PATH"] = f"{Path(TMINUS).parent}:{environ['PATH']}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def _count(daemon: Daemon, label: str) -> int:
    rows = daemon.get("/supportsessions?limit=1000&scope=all").json()["rows"]
    return sum(row["label"] == label for row in rows)


@pytest.mark.parametrize(
    ("streams", "code"),
    [
        (">&-", 0),
        ("<&- >&- 2>&-", 0),
        ("2>&- >/dev/full", 7),
        (">/dev/full", 7),
        ("--json >/dev/full", 7),
        ("| true", 0),
        ("--json | head -c 1", 0),
    ],
)
def test_lost_output_is_never_reported_as_a_refused_request(daemon: Daemon, streams: str, code: int) -> None:
    label = f"into {streams}"
    done = _shell(daemon, f"tminus create --type live --label '{label}' {streams}")
    assert done.returncode == code, done.stderr
    assert done.stderr in ("", f"tminus: done, but standard output cannot be written: {os.strerror(errno.ENOSPC)}\n")
    assert _count(daemon, label) == 1
    assert _shell(daemon, f"tminus list {streams}").returncode == code
    # The exit code of a refusal does not depend on whether its output can be written.
    assert _shell(daemon, f"tminus show nobody {streams}").returncode == 3


def test_a_socket_never_gets_the_descriptor_of_a_closed_standard_stream(daemon: Daemon) -> None:
    """If standard output is closed, the command does not send its output to the daemon."""
    done = _shell(daemon, "exec 1>&- 2>&-; tminus list --limit 1; tminus nothing; test $? = 2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8", "utf-16"])
def test_any_label_can_be_printed_in_any_encoding(daemon: Daemon, encoding: str) -> None:
    environ = environment(
        STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config), PYTHONIOENCODING=encoding
    )
    command = [TMINUS, "create", "--type", "live", "--label", f"Łódź {encoding}"]
    made = subprocess.run(command, env=environ, capture_output=True, check=True)
    shown = "Łódź" if encoding.startswith("utf") else "\\u0141"
    assert f"label\t{shown}" in made.stdout.decode(encoding)
    assert made.stderr == b""


def test_a_command_works_in_a_removed_directory(daemon: Daemon, tmp_path: Path) -> None:
    line = "mkdir gone && cd gone && rmdir ../gone && tminus list --limit 1"
    assert _shell(daemon, line, tmp_path).returncode == 0
    alone = _shell(daemon, f"unset STATE_DIRECTORY TMINUS_CONFIG; {line}", tmp_path)
    assert alone.returncode in (0, 5, 6)  # depends on whether a daemon runs on this machine
    assert "Traceback" not in alone.stderr
    started = _shell(daemon, f"unset STATE_DIRECTORY TMINUS_CONFIG; {line.replace('list --limit 1', 'run')}", tmp_path)
    assert started.returncode == 1
    assert "was removed" in started.stdout
    assert started.stderr == ""


@pytest.mark.parametrize(
    "env",
    [
        {"SSL_CERT_FILE": "/nonexistent"},
        {"SSL_CERT_FILE": "/dev/null"},
        {"SSL_CERT_DIR": "/nonexistent"},
        {"all_proxy": "socks://127.0.0.1:9"},
        {"ALL_PROXY": "no proxy at all", "HTTP_PROXY": "http://127.0.0.1:9", "https_proxy": "::"},
        {"SSLKEYLOGFILE": "/nonexistent/keys", "OPENSSL_CONF": "/nonexistent"},
        {"TZ": "no/such zone", "LC_ALL": "xx_XX.UTF-8", "LANG": "C", "TERM": "", "COLUMNS": "-1", "LINES": "x"},
        {"HOME": "/nonexistent", "PYTHONUTF8": "0", "PYTHONWARNINGS": "error"},
    ],
    ids=str,
)
def test_the_local_socket_ignores_proxies_and_certificates_in_the_environment(
    daemon: Daemon, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "fresh", True)
    done = daemon.command("list", **env)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("env", "url", "variable"),
    [
        ({"SSL_CERT_FILE": "/nonexistent"}, "https://127.0.0.1:9", "SSL_CERT_FILE"),
        ({"SSL_CERT_FILE": "/dev/null"}, "https://127.0.0.1:9", "SSL_CERT_FILE"),
        ({"SSL_CERT_FILE": "/etc/hostname"}, "https://127.0.0.1:9", "SSL_CERT_FILE"),
        ({"SSL_CERT_DIR": "/nonexistent"}, "https://127.0.0.1:9", "SSL_CERT_DIR"),
        ({"all_proxy": "socks://127.0.0.1:9"}, "http://127.0.0.1:9", "all_proxy"),
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "http://127.0.0.1:9", "ALL_PROXY"),
        ({"http_proxy": "ftp://u:secret@x"}, "http://127.0.0.1:9", "http_proxy"),
        ({"HTTPS_PROXY": "http://x:port"}, "https://127.0.0.1:9", "HTTPS_PROXY"),
        ({"https_proxy": "http://"}, "https://127.0.0.1:9", "https_proxy"),
    ],
    ids=str,
)
def test_an_unusable_environment_variable_is_named_in_one_line(
    daemon: Daemon, env: dict[str, str], url: str, variable: str
) -> None:
    done = daemon.command("--url", url, "list", TMINUS_TOKEN="token", **env)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert f"the environment variable {variable} " in done.stderr
    assert "secret" not in done.stderr


def test_settings_that_a_url_does_not_need_are_ignored(daemon: Daemon) -> None:
    unusable = {"SSL_CERT_FILE": "/nonexistent", "all_proxy": "socks://x:1", "https_proxy": "http://127.0.0.1:9"}
    token = daemon.tokens["anna"]
    done = daemon.command("--url", daemon.url, "list", TMINUS_TOKEN=token, NO_PROXY="127.0.0.1", **unusable)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_proxy_that_the_environment_names_is_used(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(20)
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        env = environment(http_proxy=url, TMINUS_TOKEN="token")
        with subprocess.Popen(
            [TMINUS, "--url", "http://tminus.test", "list"], env=env, stderr=subprocess.PIPE
        ) as process:
            connection, _ = proxy.accept()
            with connection:
                assert connection.recv(4096).startswith(b"GET http://tminus.test/v3/supportsessions?")
                connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
            assert process.wait(20) == 5


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9", "connection refused"),
        ("http://nobody.invalid", "name or service not known"),
        ("https://{plain}", "TLS failed, "),
    ],
)
def test_the_error_contains_why_a_url_does_not_respond(daemon: Daemon, url: str, message: str) -> None:
    url = url.format(plain=daemon.url.removeprefix("http://"))
    done = daemon.command("--url", url, "list", TMINUS_TOKEN="token")
    assert done.returncode == 6
    assert done.stderr.startswith(f"tminus: No answer from {url}: {message}")
    assert "Errno" not in done.stderr
    assert "_ssl.c" not in done.stderr


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("nothing", 6, "there is no daemon at {path}: start the daemon with `tminus run`"),
        ("file", 6, "there is no daemon at {path}: start the daemon with `tminus run`"),
        ("left behind", 6, "No answer from {path}: no daemon listens there"),
        ("silent", 6, "No answer from {path}: "),
    ],
)
def test_the_error_contains_why_the_local_socket_does_not_respond(
    daemon: Daemon, kind: str, code: int, message: str
) -> None:
    path = daemon.home / "other.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "file":
            path.touch()
        elif kind != "nothing":
            listener.bind(str(path))
        if kind == "silent":
            listener.listen()
            listener.settimeout(20)
            env = environment()
            with subprocess.Popen(
                [TMINUS, "--socket", str(path), "webhooks", "ping", "x"], env=env, stderr=subprocess.PIPE, text=True
            ) as process:
                listener.accept()[0].close()
                assert process.stderr is not None
                stderr, returned = process.stderr.read(), process.wait(20)
        else:
            done = daemon.command("--socket", str(path), "list")
            stderr, returned = done.stderr, done.returncode
    path.unlink(missing_ok=True)
    assert (returned, stderr.count("\n")) == (code, 1)
    assert message.format(path=path) in stderr


AS_NOBODY = """
import os
import tminus.cli.process, tminus.cli.sessions, tminus.cli.dispatch, tminus.client.transport.local  # root's, perhaps
os.setgid(4711); os.setuid(4711)
from tminus.cli import main
main()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can run a command as another user")
@pytest.mark.parametrize("closed", ["socket", "directory"])
def test_a_forbidden_socket_is_not_reported_as_a_missing_daemon(daemon: Daemon, tmp_path: Path, closed: str) -> None:
    folder = daemon.home / f"closed {closed}"
    folder.mkdir()
    daemon.home.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "tminus.sock"))
        listener.listen()
        (folder / "tminus.sock").chmod(0o600)
        folder.chmod(0o700 if closed == "directory" else 0o755)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, "--socket", str(folder / "tminus.sock"), "list"],
            env=environment(), cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (5, 1), done.stderr
    assert "you are not permitted to" in done.stderr
    assert "sudo" in done.stderr


INTERRUPTED = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
from tminus.cli import main
main()
"""


@pytest.mark.parametrize(
    "module", ["tminus.cli.process", "tminus.cli.output", "json", "tminus.cli.dispatch", "tminus.cli.views", "socket"]
)
def test_ctrl_c_during_imports_ends_the_command_silently(daemon: Daemon, module: str) -> None:
    env = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module), "list"], env=env, capture_output=True, check=False
    )
    assert done.returncode in (-signal.SIGINT, 130)
    assert (done.stdout, done.stderr) == (b"", b"")


WITHOUT_UMASK = """
import os
from tminus.cli import main

os.umask(0)
main()
"""


def test_the_files_of_the_daemon_are_for_its_user_alone_whatever_umask_and_directory_permit(
    make_daemon: StartDaemon,
) -> None:
    daemon = make_daemon()
    daemon.state.mkdir(exist_ok=True)
    daemon.state.chmod(0o777)
    daemon.spawn_patched(WITHOUT_UMASK)
    daemon.url = daemon.logged("daemon.ready")["url"]
    daemon.make()
    modes = {file.name: file.stat().st_mode & 0o077 for file in daemon.state.rglob("*")}
    assert {"tminus.db", "tminus.db-wal", "tminus.lock", "tminus.db-lock", "tminus.sock"} <= modes.keys()
    assert not any(modes.values()), modes
