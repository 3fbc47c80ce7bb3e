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
"""What is refused wherever text is kept."""

KEPT = ("label", "userDescription", "externalMapping", "parentObject", "name")
"""Members of bodies whose text is kept, and shown as it is to people and in terminals."""

SESSION_BODY = {
    "type": "support",
    "label": "A",
    "externalMapping": "a.b",
    "parentObject": {"id": "1", "app": "a", "type": "t", "name": "n", "provider": "p"},
    "userDescription": "U",
    "metaData": {"known": "text"},
}
RIGHT: dict[str, JSON] = {
    "POST /v3/supportsessions": SESSION_BODY,
    "PUT /v3/supportsession/{session_id}": {},
    "POST /v3/supportsession/{session_id}/participants": {"role": "guest", "name": "G"},
    "PUT /v3/supportsession/{session_id}/participants/{participant_id}": {"admitted": True},
    "POST /v3/auth/{provider}/authWithToken": {"session_token": "wrong"},
    "POST /v3/webhooks/{name}/replay": {"fromSeq": 1},
}
"""Bodies into which the texts are put, one in each place."""

HEADERS = ("Session-id", "Authorization", "mobile-api-key", "X-Request-Id", "client-app", "User-Agent",
           "X-Forwarded-For", "Accept", "Content-Type", "Origin", "Host", "Cookie", "If-Match", "Idempotency-Key",
           "Last-Event-ID")  # fmt: skip
"""Those that are described, and those that are looked at besides."""


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


def _check(code: int, said: Any, where: str) -> None:
    """Check that a response is a success or an error in the common format, and neither 429 nor 5xx."""
    assert code in (200, 400, 401, 404, 405, 409, 415, 412, 413), f"{where}: {code} {said}"
    if code != 200:
        assert isinstance(said, dict), f"{where}: {code} {said}"
        assert set(said) == {"code", "refcode", "description", "errors"}, where
        assert said["code"] == code, where


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
            ("GET", "/v3/events?after=now"),  # what others have forged into bodies is in older ones
            ("POST", "/v3/supportsessions"),
            ("PUT", "/v3/supportsession/nobody"),
        ):
            body = b"" if method == "GET" else json.dumps(SESSION_BODY | {"startTime": from_now(days=1)}).encode()
            code, said = client.ask(method, path, {header: text}, body)
            where = f"{method} {path} {header}: {kind}"
            if kind in FORBIDDEN and isinstance(said, str):
                assert (code, said) == (400, "Invalid HTTP request received."), where  # no HTTP: it reaches no call
            else:
                _check(code, said, where)
                assert "X-Forged" not in json.dumps(said)


def _put_everywhere(description: JSON, client: Client, call: str, kind: str) -> None:
    """Send the text in each place of a call's body, and check that it is refused or returned unchanged."""
    method, path = call.split()
    schema = description["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]["schema"]
    text = TEXTS[kind]
    target = path.format(session_id="nobody", participant_id="nobody", provider="token", name="nobody")
    places = list(dict.fromkeys(_strings(description, schema)))
    assert places or (call.startswith("PUT") and path.endswith("participants/{participant_id}"))  # it has one boolean
    for at in [*places, ("metaData", "known"), ("metaData", text), ("parentObject", text), (text,), ("unknown",)]:
        body = json.dumps(_put(RIGHT[call], at, text)).encode()
        where = f"{call} {'.'.join(at)!r}: {kind}"
        stored_nul = kind == "NUL" and path == "/v3/supportsessions" and at[0] in ("metaData", "parentObject")
        for sent in {body, body.replace(b"\\ud83d", b"\xed\xa0\xbd")}:  # escaped, and as bytes
            code, said = client.ask(method, target, body=sent)
            _check(code, said, where)
            if kind == "a lone surrogate" or stored_nul or (kind in FORBIDDEN and at in places and at[0] in KEPT):
                assert code == 400, where
            elif code == 200 and path == "/v3/supportsessions" and (text or "metaData" in at):
                shown = client.ask("GET", f"/v3/supportsession/{said['id']}")[1]
                assert shown == said, where
                for name in at if at[0] in shown else ():
                    shown = shown[name.strip() if at[0] == "parentObject" else name]  # published examples need that
                assert shown in (said, text), where


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("call", RIGHT)
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
    much = "x" * 10_000_000
    for call, right in RIGHT.items():
        method, path = call.split()
        target = path.format(session_id="nobody", participant_id="nobody", provider="token", name="nobody")
        answer = daemon.http.request(
            method, f"{daemon.url}{target}", json=right | {"label": much}, headers={"Session-id": daemon.token}
        )
        _check(answer.status_code, answer.json(), call)
        assert answer.status_code == 413
    # A head without end gets an error response or a closed connection.
    for head in (f"GET /v3/supportsession/{much}", f"GET /v3/discovery?ids={much}"):
        method, target = head.split()
        with closing(Client(daemon)) as client, suppress(OSError, http.client.HTTPException):
            assert 400 <= client.ask(method, target)[0] < 500
    assert daemon.http.get(f"{daemon.url}/readyz").json() == {"ready": True, "reasons": [], "notes": []}


def _almost(right: str) -> dict[str, str]:
    """Return texts that resemble the value, encoded for a URL."""
    wide = "".join(chr(ord(char) + 0xFEE0) if char.isascii() and char.isalnum() else char for char in right)
    arabic = "".join(chr(0x660 + int(char)) if char.isdigit() else char for char in right)
    other = "1" if right[-1] == "0" else "0"
    return {
        "another case": right.swapcase(),
        "a blank before": f"%20{right}",
        "a blank after": f"{right}%20",
        "a tab": f"{right}%09",
        "a line end": f"{right}%0a",
        "a no-break space": f"{right}%c2%a0",
        "NUL": f"{right}%00",
        "a zero-width space": f"{right}%e2%80%8b",
        "wide characters": quote(wide),
        "other digits": quote(arabic),
        "a leading zero": f"0{right}",
        "a sign": f"+{right}",
        "an underscore": f"{right[:2]}_{right[2:]}",
        "a fraction": f"{right}.0",
        "one more": right + other,
        "one less": right[:-1],
        "another last": right[:-1] + other,
        "a prefix": right[:3],
        "a wildcard": right[:-1] + "%25",
        "any character": right[:-1] + "_",
        "nothing": "",
        "a slash": f"{right}%2f",
        "two slashes": f"%2f{right}",
        "up": f"..%2fsupportsession%2f{right}",
        "a quote": f"{right}'--",
        "two": f"{right},{right}",
        "a null": "null",
        "twice encoded": "".join(f"%25{ord(char):02x}" for char in right),
    }


def test_an_almost_correct_id_finds_nothing(daemon: Daemon, client: Client) -> None:
    session = daemon.make(type="live", by="anna")
    participant = daemon.join(session["id"]).json()["participantId"]
    one = f"/v3/supportsession/{session['id']}"
    before = daemon.session(session["id"])
    for what, almost in _almost(session["id"]).items():
        if almost == session["id"]:
            continue  # it had no letter, or no digit
        for method, rest in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/events"),
            ("DELETE", f"/participants/{participant}"),
        ):
            code, said = client.ask(method, f"/v3/supportsession/{almost}{rest}")
            assert code == 404, f"{what}: {method} {rest} {said}"
            _check(code, said, what)
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
    # But for the time that has passed in it.
    assert daemon.session(session["id"]) | {"durationSeconds": 0} == before | {"durationSeconds": 0}


def test_an_almost_correct_pin_finds_nothing(daemon: Daemon, client: Client) -> None:
    pin = str(daemon.make(type="support")["pin"])
    assert client.ask("GET", f"/v3/support/{pin}/meta")[0] == 200
    for what, almost in _almost(pin).items():
        if almost == pin:
            continue
        code, said = client.ask("GET", f"/v3/support/{almost}/meta")
        if what == "another last" and code == 200:
            continue  # it happens to be another session's
        assert code == 404, f"{what}: {said}"
        _check(code, said, what)


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
