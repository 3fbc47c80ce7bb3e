"""Malicious text in every place where a call takes text; and almost correct ids, PINs and tokens."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import from_now
from tests.support.databases import PostgresServer

TEXTS = {
    "NUL": "a\0b",
    "a control character": "\x1b[2J",
    "line ends": "a\r\nX-Forged: 1",
    "a lone surrogate": "\ud83d",
    "right to left": "\u202egpj.exe\u2066",
    "four bytes": "\U0001f680\U0010ffff",
    "no character": "\ufffe\uffff",
    "blanks": "   ",
    "nothing": "",
    "much": "x" * 10_000,
}
FORBIDDEN = ("NUL", "a control character", "line ends", "a lone surrogate")
"""Kinds of text that are refused in every field that is stored."""

STORED = ("label", "userDescription", "externalMapping", "parentObject", "name")
"""Members of bodies whose text is stored, and shown unchanged to people and in terminals."""

SESSION_BODY = {
    "type": "support",
    "label": "A",
    "externalMapping": "a.b",
    "parentObject": {"id": "1", "app": "a", "type": "t", "name": "n", "provider": "p"},
    "userDescription": "U",
    "metaData": {"known": "text"},
}
VALID_BODIES: dict[str, JSON] = {
    "POST /v3/supportsessions": SESSION_BODY,
    "PUT /v3/supportsession/{session_id}": {},
    "POST /v3/supportsession/{session_id}/participants": {"role": "guest", "name": "G"},
    "PUT /v3/supportsession/{session_id}/participants/{participant_id}": {"admitted": True},
    "POST /v3/auth/{provider}/authWithToken": {"session_token": "wrong"},
    "POST /v3/webhooks/{name}/replay": {"fromSeq": 1},
}
"""A valid body of each call. The tests put each text into one place of a body at a time."""

HEADERS = ("Session-id", "Authorization", "mobile-api-key", "X-Request-Id", "client-app", "User-Agent",
           "X-Forwarded-For", "Accept", "Content-Type", "Origin", "Host", "Cookie", "If-Match", "Idempotency-Key",
           "Last-Event-ID")  # fmt: skip
"""The headers in the API description, and others that the daemon reads."""


class Client:
    """A client that sends requests without checking or encoding them."""

    def __init__(self, daemon: Daemon) -> None:
        url = urlsplit(daemon.url)
        assert url.hostname is not None
        self._connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
        self._token = daemon.token

    def close(self) -> None:
        self._connection.close()

    def ask(
        self, method: str, target: str, headers: dict[str, bytes] | None = None, body: bytes = b""
    ) -> tuple[int, Any]:
        """Return the status and the body: parsed if it is JSON, otherwise as text."""
        sent = {"Session-id": self._token.encode(), "Content-Type": b"application/json"} | (headers or {})
        self._connection.putrequest(method, target, skip_host="Host" in sent, skip_accept_encoding=True)
        if body:
            sent["Content-Length"] = b"%d" % len(body)
        for name, value in sent.items():
            self._connection.putheader(name, value)
        self._connection.endheaders(body or None)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.getheader("Content-Type") == "application/json":
            return answer.status, json.loads(text)
        return answer.status, text.decode()


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with closing(Client(daemon)) as client:
        yield client


def _check(code: int, answer: Any, where: str) -> None:
    """Check that a response is a success or an error in the common format, and neither 429 nor 5xx."""
    assert code in (200, 400, 401, 404, 405, 409, 415, 412, 413), f"{where}: {code} {answer}"
    if code != 200:
        assert isinstance(answer, dict), f"{where}: {code} {answer}"
        assert set(answer) == {"code", "refcode", "description", "errors"}, where
        assert answer["code"] == code, where


def _encoded(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@pytest.fixture(scope="module")
def description(daemon: Daemon) -> JSON:
    described: JSON = daemon.http.get(f"{daemon.url}/openapi.json").json()
    return described


def _calls(description: JSON) -> Iterator[tuple[str, str, JSON]]:
    """Return method, path and description of every call."""
    for path, methods in description["paths"].items():
        for method, described in methods.items():
            yield method.upper(), path, described


def _strings(description: JSON, schema: JSON, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Return the places of text in a body of this schema."""
    if "$ref" in schema:
        schema = description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for one in schema.get("anyOf", ()):
        yield from _strings(description, one, at)
    if schema.get("type") == "string":
        yield at
    for name, member in schema.get("properties", {}).items():
        yield from _strings(description, member, (*at, name))


def _put(body: JSON, at: tuple[str, ...], text: str) -> JSON:
    """Return the body with this text in this place."""
    first, *rest = at
    return body | {first: _put(body.get(first, {}), tuple(rest), text) if rest else text}


@pytest.mark.parametrize("kind", TEXTS)
def test_any_text_in_a_path_or_query_gets_a_response(description: JSON, client: Client, kind: str) -> None:
    text = _encoded(TEXTS[kind])
    places = 0
    for method, path, described in _calls(description):
        parameters = described.get("parameters", [])
        plain = {one["name"]: "nobody" for one in parameters if one["in"] == "path"}
        for one in parameters:
            if one["in"] == "path":
                target = path.format(**plain | {one["name"]: text})
            elif one["in"] == "query":
                target = f"{path.format(**plain)}?{one['name']}={text}"
            else:
                continue
            _check(*client.ask(method, target), f"{method} {path} {one['name']}: {kind}")
            places += 1
    assert places > 30


@pytest.mark.parametrize("kind", TEXTS)
def test_any_text_in_a_header_gets_a_response(description: JSON, client: Client, kind: str) -> None:
    described = {
        one["name"] for _, _, call in _calls(description) for one in call.get("parameters", ()) if one["in"] == "header"
    }
    assert described <= set(HEADERS)
    text = TEXTS[kind].encode("utf-8", "surrogatepass").replace(b"\r\n", b"\r\n ")
    for header in HEADERS:
        for method, path in (
            ("GET", "/v3/events?after=now"),  # older events contain the texts that other tests sent in bodies
            ("POST", "/v3/supportsessions"),
            ("PUT", "/v3/supportsession/nobody"),
        ):
            body = b"" if method == "GET" else json.dumps(SESSION_BODY | {"startTime": from_now(days=1)}).encode()
            code, answer = client.ask(method, path, {header: text}, body)
            where = f"{method} {path} {header}: {kind}"
            if kind in FORBIDDEN and isinstance(answer, str):
                assert (code, answer) == (400, "Invalid HTTP request received."), where  # not HTTP: no call gets it
            else:
                _check(code, answer, where)
                assert "X-Forged" not in json.dumps(answer)


def _put_everywhere(description: JSON, client: Client, call: str, kind: str) -> None:
    """Send the text in each place of a call's body, and check that it is refused or returned unchanged."""
    method, path = call.split()
    schema = description["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]["schema"]
    text = TEXTS[kind]
    target = path.format(session_id="nobody", participant_id="nobody", provider="token", name="nobody")
    places = list(dict.fromkeys(_strings(description, schema)))
    assert places or (call.startswith("PUT") and path.endswith("participants/{participant_id}"))  # its body has no text
    for at in [*places, ("metaData", "known"), ("metaData", text), ("parentObject", text), (text,), ("unknown",)]:
        body = json.dumps(_put(VALID_BODIES[call], at, text)).encode()
        where = f"{call} {'.'.join(at)!r}: {kind}"
        stored_nul = kind == "NUL" and path == "/v3/supportsessions" and at[0] in ("metaData", "parentObject")
        for sent in {body, body.replace(b"\\ud83d", b"\xed\xa0\xbd")}:  # escaped, and as bytes
            code, answer = client.ask(method, target, body=sent)
            _check(code, answer, where)
            if kind == "a lone surrogate" or stored_nul or (kind in FORBIDDEN and at in places and at[0] in STORED):
                assert code == 400, where
            elif code == 200 and path == "/v3/supportsessions" and (text or "metaData" in at):
                shown = client.ask("GET", f"/v3/supportsession/{answer['id']}")[1]
                assert shown == answer, where
                for name in at if at[0] in shown else ():
                    # Published examples have blanks around the names in a parentObject; the daemon strips them.
                    shown = shown[name.strip() if at[0] == "parentObject" else name]
                assert shown in (answer, text), where


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("call", VALID_BODIES)
def test_any_text_in_a_body_is_refused_or_returned_unchanged(
    description: JSON, client: Client, call: str, kind: str
) -> None:
    _put_everywhere(description, client, call, kind)


def test_any_text_in_a_body_is_refused_or_returned_unchanged_on_postgresql(
    description: JSON, pg_server: PostgresServer, start_daemon: StartDaemon
) -> None:
    with pg_server.database(empty=True) as database:
        daemon = start_daemon(storage={"url": database.configured})
        with closing(Client(daemon)) as client:
            for kind in TEXTS:
                _put_everywhere(description, client, "POST /v3/supportsessions", kind)
        assert daemon.terminate() == 0


UNCHANGED: tuple[bytes, ...] = (
    b'{"a": 1.7976931348623157e308, "b": 5e-324, "c": -0.0, "d": 0e400, "e": 1.0, "f": 1e2}',
    b'{"a": 18446744073709551615, "b": -9223372036854775808, "c": -0}',
    rb'{"a": "\ud83d\ude80 \u20ac", "": "", "A": 1, "a ": 2, "__proto__": null}',
    b'{"a": ' + b"[" * 190 + b"]" * 190 + b"}",
)


@pytest.mark.parametrize("sent", UNCHANGED, ids=lambda value: str(value)[:30])
def test_valid_text_is_returned_unchanged(each_daemon: Daemon, sent: bytes) -> None:
    body = b'{"type": "live", "label": "A", "metaData": %s}' % sent
    answer = each_daemon.post("/supportsessions", content=body)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert repr(made["metaData"]) == repr(json.loads(sent))
    assert repr(each_daemon.session(made["id"])["metaData"]) == repr(json.loads(sent))
    listed = each_daemon.get("/supportsessions?limit=1000").json()["rows"]
    assert repr(next(row["metaData"] for row in listed if row["id"] == made["id"])) == repr(json.loads(sent))


def test_ten_megabytes_are_refused_in_every_place_of_a_request(daemon: Daemon) -> None:
    large = "x" * 10_000_000
    for call, body in VALID_BODIES.items():
        method, path = call.split()
        target = path.format(session_id="nobody", participant_id="nobody", provider="token", name="nobody")
        answer = daemon.http.request(
            method, f"{daemon.url}{target}", json=body | {"label": large}, headers={"Session-id": daemon.token}
        )
        _check(answer.status_code, answer.json(), call)
        assert answer.status_code == 413
    # A head of this length gets an error response or a closed connection.
    for target, headers in (
        (f"/v3/supportsession/{large}", {}),
        (f"/v3/discovery?ids={large}", {}),
        ("/v3/discovery", {"Client-App": large.encode()}),
    ):
        with closing(Client(daemon)) as client, suppress(OSError, http.client.HTTPException):
            assert 400 <= client.ask("GET", target, headers)[0] < 500
    assert daemon.http.get(f"{daemon.url}/readyz").json() == {"ready": True, "reasons": [], "notes": []}


def _almost(value: str) -> dict[str, str]:
    """Return texts that resemble the value, encoded for a URL."""
    wide = "".join(chr(ord(char) + 0xFEE0) if char.isascii() and char.isalnum() else char for char in value)
    arabic = "".join(chr(0x660 + int(char)) if char.isdigit() else char for char in value)
    other = "1" if value[-1] == "0" else "0"
    return {
        "another case": value.swapcase(),
        "a blank before": f"%20{value}",
        "a blank after": f"{value}%20",
        "a tab": f"{value}%09",
        "a line end": f"{value}%0a",
        "a no-break space": f"{value}%c2%a0",
        "NUL": f"{value}%00",
        "a zero-width space": f"{value}%e2%80%8b",
        "wide characters": quote(wide),
        "other digits": quote(arabic),
        "a leading zero": f"0{value}",
        "a sign": f"+{value}",
        "an underscore": f"{value[:2]}_{value[2:]}",
        "a fraction": f"{value}.0",
        "one more": value + other,
        "one less": value[:-1],
        "another last": value[:-1] + other,
        "a prefix": value[:3],
        "a wildcard": value[:-1] + "%25",
        "any character": value[:-1] + "_",
        "nothing": "",
        "a slash": f"{value}%2f",
        "two slashes": f"%2f{value}",
        "up": f"..%2fsupportsession%2f{value}",
        "a quote": f"{value}'--",
        "two": f"{value},{value}",
        "a null": "null",
        "twice encoded": "".join(f"%25{ord(char):02x}" for char in value),
    }


def test_an_almost_correct_id_finds_nothing(daemon: Daemon, client: Client) -> None:
    session = daemon.make(type="live", by="anna")
    participant = daemon.join(session["id"]).json()["participantId"]
    one = f"/v3/supportsession/{session['id']}"
    before = daemon.session(session["id"])
    for what, almost in _almost(session["id"]).items():
        if almost == session["id"]:
            continue  # the id has no letter, or no digit, that could be replaced
        for method, rest in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/events"),
            ("DELETE", f"/participants/{participant}"),
        ):
            code, answer = client.ask(method, f"/v3/supportsession/{almost}{rest}")
            assert code == 404, f"{what}: {method} {rest} {answer}"
            _check(code, answer, what)
        if what not in (
            "two",
            "a blank before",
            "a blank after",
            "a tab",
            "a line end",
            "a no-break space",
            "NUL",
            "a sign",
        ):
            assert client.ask("GET", f"/v3/discovery?ids={almost}") == (200, {}), what
    for what, almost in _almost(participant).items():
        if almost != participant:
            assert client.ask("DELETE", f"{one}/participants/{almost}")[0] == 404, what
    for version in ("1.0", '"01"', "١", f'"{before["version"] + 1}"', '"1" "2"', "W/"):
        body = json.dumps({"startTime": from_now(days=1)}).encode()
        assert client.ask("PUT", one, {"If-Match": version.encode()}, body)[0] in (400, 409, 412), version
    # Only the duration may have changed.
    assert daemon.session(session["id"]) | {"durationSeconds": 0} == before | {"durationSeconds": 0}


def test_an_almost_correct_pin_finds_nothing(daemon: Daemon, client: Client) -> None:
    pin = str(daemon.make(type="support")["pin"])
    assert client.ask("GET", f"/v3/support/{pin}/meta")[0] == 200
    for what, almost in _almost(pin).items():
        if almost == pin:
            continue
        code, answer = client.ask("GET", f"/v3/support/{almost}/meta")
        if what == "another last" and code == 200:
            continue  # by chance the PIN of another session
        assert code == 404, f"{what}: {answer}"
        _check(code, answer, what)


def test_an_almost_correct_token_is_refused(daemon: Daemon) -> None:
    token = daemon.tokens["anna"]
    near = [
        token[:-1],
        token + "a",
        token[1:],
        token.swapcase(),
        f"{token},{token}",
        f'"{token}"',
        token[:20],
        f"Bearer {token}",
    ]
    for almost in near:
        assert daemon.get("/me", by=None, headers={"Session-id": almost}).status_code == 401, almost
        answer = daemon.post("/auth/token/authWithToken", {"session_token": almost}, by=None)
        assert answer.status_code == 401, almost
    for almost in (f" {token}", f"{token}\n", f"\ufeff{token}"):
        assert daemon.post("/auth/token/authWithToken", {"session_token": almost}, by=None).status_code == 401, almost


def test_after_all_tests_the_daemon_is_healthy_and_no_response_was_500(daemon: Daemon) -> None:
    assert daemon.http.get(f"{daemon.url}/readyz").json() == {"ready": True, "reasons": [], "notes": []}
    assert [line for line in daemon.log_lines("http.request") if line["code"] >= 500] == []
    assert daemon.log_lines("http.failed") == []
