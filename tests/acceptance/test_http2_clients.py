"""Clients that prefer HTTP/2 (curl, the JDK) create sessions, also through the samples of `config/` for proxies."""

import json
import re
import ssl
import subprocess
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.daemons import JSON, Daemon, token_of
from tests.acceptance.test_proxies import KINDS, NAME, Front, Kind, daemons, fronted, program

__all__ = ["daemons"]  # the fixture

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parent / "fixtures" / "CreateSession.java"

LONG = "größer " * 1500

BLANKS = " " * 40_000
"""Precede the body, so that it takes several frames of HTTP/2."""

TLS = {
    "nginx": r" ssl http2;",
    "haproxy": r" ssl crt \S+ alpn \S+",
    "caddy": r"\n\ttls \S+ \S+",
}
"""What the samples contain for TLS, as a pattern."""


def plain(name: str) -> Kind:
    """Return a proxy with its sample, which listens without TLS."""

    def configure(folder: Path, port: int, ports: tuple[str, str]) -> tuple[list[str], list[str]]:
        commands = KINDS[name](folder, port, ports)
        [path] = [one for one in folder.iterdir() if one.name in ("tminus.conf", "haproxy.cfg", "Caddyfile")]
        text, replaced = re.subn(TLS[name], ";" if name == "nginx" else "", path.read_text())
        assert replaced == 1, text
        path.write_text(text.replace(f"{NAME}:{port} {{", f"http://{NAME}:{port}, http://127.0.0.1:{port} {{"))
        return commands

    return configure


FRONTS = [f"{name} {scheme}" for name in KINDS for scheme in ("https", "http")] + ["daemon http"]


@pytest.fixture(scope="module", params=FRONTS)
def front(
    request: pytest.FixtureRequest,
    daemons: tuple[Daemon, Daemon],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    """A proxy with TLS, a proxy without TLS, or a daemon without a proxy."""
    name, scheme = request.param.split()
    if name == "daemon":
        port = int(daemons[0].url.rpartition(":")[2])
        yield Front(port, ssl.create_default_context(), daemons, tmp_path_factory.mktemp(name), scheme)
        return
    kind = KINDS[name] if scheme == "https" else plain(name)
    with fronted(kind, daemons, tmp_path_factory.mktemp(name), scheme) as one:
        yield one


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled program for the JDK."""
    folder = tmp_path_factory.mktemp("classes")
    subprocess.run([program("javac", "default-jdk-headless"), "-d", folder, SOURCE], check=True, env={})
    return folder


Answers = list[tuple[str, JSON]]
"""The version of HTTP and the body of each answer."""


def curl(front: Front, body: Path, coding: str) -> Answers:
    """Create a session and get the caller with curl, over one connection."""
    common = [
        "--silent", "--show-error", "--verbose", "--http2", "--fail-with-body", "--max-time", "20", "--noproxy", "*",
        "--resolve", f"{NAME}:{front.port}:127.0.0.1", "--cacert", str(front.folder / "authority.pem"),
        "--header", f"Session-id: {token_of('admin')}", "--write-out", r"\n%{http_version} %{num_connects}\n",
    ]  # fmt: skip
    chunked = ["--header", "Transfer-Encoding: chunked"] if coding == "chunked" else []
    done = subprocess.run(
        [program("curl", "curl"), *common, *chunked, "--json", f"@{body}", f"{front.url}/v3/supportsessions",
         "--next", *common, f"{front.url}/v3/me"],
        capture_output=True, text=True, check=False, env={},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    asks_for_upgrade(front, done.stderr)
    made, first, me, second = done.stdout.splitlines()
    assert (first.split()[1], second.split()[1]) == ("1", "0"), "both calls use one connection"
    return [(first.split()[0], json.loads(made)), (second.split()[0], json.loads(me))]


def jdk(classes: Path, front: Front, body: Path, coding: str) -> Answers:
    """Create a session and get the caller with the default client of the JDK."""
    hosts = front.folder / "hosts"
    hosts.write_text(f"127.0.0.1 {NAME}\n")
    done = subprocess.run(
        [program("java", "default-jre-headless"), "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8",
         f"-Djdk.net.hosts.file={hosts}", "-Djdk.httpclient.HttpClient.log=headers", "-cp", classes, SOURCE.stem,
         front.url, token_of("admin"), body, coding, front.folder / "authority.pem"],
        capture_output=True, text=True, check=False, env={},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    asks_for_upgrade(front, done.stderr)
    answers = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [code for _, code, _ in answers] == ["200", "200"], done.stdout
    return [({"HTTP_2": "2", "HTTP_1_1": "1.1"}[version], json.loads(text)) for version, _, text in answers]


def asks_for_upgrade(front: Front, log: str) -> None:
    """Check that a client asked for HTTP/2 by `Upgrade` if it had no TLS, with which it asks by ALPN."""
    assert (re.search(r"(?im)^\W*upgrade: h2c", log) is not None) == (front.scheme == "http"), log


def created_once(front: Front, tmp_path: Path, send: Callable[[Front, Path, str], Answers], coding: str) -> None:
    """Create a session; check that it exists once and that both answers are complete."""
    label = uuid.uuid4().hex
    body = tmp_path / "body.json"
    text = json.dumps({"type": "live", "label": label, "metaData": {"long": LONG}}, ensure_ascii=False)
    body.write_text(BLANKS + text)

    (version, made), (second_version, me) = send(front, body, coding)

    assert version == second_version == ("2" if front.scheme == "https" else "1.1")
    assert me["user"]["id"] == 32593
    assert (made["label"], made["metaData"]) == (label, {"long": LONG})
    for one in front.daemons:
        rows = one.get("/supportsessions?limit=100").json()["rows"]
        assert [row["id"] for row in rows if row["label"] == label] == [made["id"]]
        assert [event["type"] for event in one.events(made["id"])] == ["session.created"]


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_curl_with_http_2_creates_a_session_once(front: Front, tmp_path: Path, coding: str) -> None:
    created_once(front, tmp_path, curl, coding)


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_the_client_of_the_jdk_creates_a_session_once(front: Front, classes: Path, tmp_path: Path, coding: str) -> None:
    created_once(front, tmp_path, partial(jdk, classes), coding)
