"""Conditional requests, HEAD, media types, pages of other sites, and the size of error responses."""

import json
from collections import defaultdict
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.acceptance.conftest import shared
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.test_http_contract import raw
from tests.acceptance.test_http_errors import fields, refused
from tests.acceptance.times import from_now

SAFE_IN_PATHS = "/%!$&'()*+,;=:@~|[]^"
"""What a browser leaves as it is in a path, besides letters, digits and `-._`."""

# --- HEAD -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def description(daemon: Daemon) -> JSON:
    described: JSON = daemon.http.get(f"{daemon.url}/openapi.json").json()
    return described


def path_values(session: JSON) -> dict[str, str]:
    """Return a value for each path parameter of the API; "7" for those that name neither a session nor a PIN."""
    values = defaultdict(lambda: "7", session_id=session["id"], pin=str(session["pin"]), organization_id="1")
    return values | {"type_id": "3", "provider": "token"}


def test_head_is_supported_wherever_get_is(daemon: Daemon, description: JSON) -> None:
    session = daemon.make(type="support")
    names = path_values(session)
    paths = [path.format_map(names) for path, calls in description["paths"].items() if "get" in calls]
    assert "/healthz" in paths
    assert "/v3/me" in paths
    for path in [*paths, "/docs", "/docs/assets/swagger-ui.css", "/openapi.json"]:
        if path.endswith("signout"):
            continue
        got = daemon.http.get(f"{daemon.url}{path}", headers={"Session-id": daemon.token})
        head = daemon.http.head(f"{daemon.url}{path}", headers={"Session-id": daemon.token})
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert set(head.headers) == set(got.headers), path
        assert head.headers["content-type"] == got.headers["content-type"], path


def test_head_of_a_stream_or_long_poll_returns_at_once(daemon: Daemon) -> None:
    headers = {"Session-id": daemon.token, "Accept": "text/event-stream"}
    stream = daemon.http.head(f"{daemon.url}/v3/events?after=now", headers=headers)
    assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    poll = daemon.http.head(f"{daemon.url}/v3/events?after=now&wait=60", headers={"Session-id": daemon.token})
    assert poll.status_code == 200


def test_head_is_refused_as_get_is(daemon: Daemon) -> None:
    assert daemon.http.head(f"{daemon.url}/v3/me").status_code == 401
    assert daemon.http.head(f"{daemon.url}/v3/supportsession/nobody/participants").status_code == 405
    assert daemon.http.head(f"{daemon.url}/nothing").status_code == 404


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_close_is_refused_for_a_version_that_if_match_does_not_list(daemon: Daemon) -> None:
    made = daemon.make(startTime=from_now(days=1))
    one = f"/supportsession/{made['id']}"
    moved = daemon.put(one, {"startTime": from_now(days=2)}).json()["version"]
    for stale in (f'"{made["version"]}"', f'W/"{moved}"', '"x"'):
        refused(daemon.delete(one, headers={"If-Match": stale}), 412, 101412)
    assert fields(daemon.delete(one, headers={"If-Match": "x y"})) == {"If-Match"}
    assert daemon.session(made["id"])["status"] == "scheduled"
    assert daemon.delete(one, headers={"If-Match": f'"7", "{moved}"'}).json() == {"success": True}
    again = daemon.delete(one, headers={"If-Match": f'"{moved}"'})
    assert again.json() == {"success": True}, "closing again succeeds, as the first response may have been lost"
    other = daemon.make()["id"]
    assert daemon.delete(f"/supportsession/{other}", headers={"If-Match": "*"}).status_code == 200
    refused(daemon.delete("/supportsession/nobody", headers={"If-Match": "*"}), 404, 101404)


def test_static_responses_have_an_entity_tag_and_are_revalidated_with_304(daemon: Daemon) -> None:
    for path in ("/openapi.json", "/docs", "/docs/assets/swagger-ui.css"):
        first = daemon.http.get(f"{daemon.url}{path}")
        tag = first.headers["ETag"]
        assert first.headers["Cache-Control"] == "no-cache"
        assert daemon.http.get(f"{daemon.url}{path}").headers["ETag"] == tag
        for known in (tag, f"W/{tag}", f'"other", {tag}'):
            kept = daemon.http.get(f"{daemon.url}{path}", headers={"If-None-Match": known})
            assert (kept.status_code, kept.content, kept.headers["ETag"]) == (304, b"", tag), (path, known)
        fresh = daemon.http.get(f"{daemon.url}{path}", headers={"If-None-Match": '"other"'})
        assert (fresh.status_code, fresh.content) == (200, first.content)


# --- bodies -----------------------------------------------------------------------------------------------------------


def test_a_body_without_a_media_type_is_parsed_as_json(daemon: Daemon) -> None:
    code, made = raw(daemon, "POST", "/v3/supportsessions", b'{"type": "live", "label": "A"}')
    assert (code, made["label"]) == (200, "A")
    moved = json.dumps({"startTime": from_now(days=1)}).encode()
    assert raw(daemon, "PUT", "/v3/supportsession/nobody", moved)[0] == 404


def test_a_compressed_body_is_415(daemon: Daemon) -> None:
    for coding, code in (("gzip", 415), ("br", 415), ("identity", 200)):
        headers = {"Content-Encoding": coding}
        answer = daemon.post("/supportsessions", content=b'{"type": "live", "label": "A"}', headers=headers)
        assert answer.status_code == code, coding
        if code == 415:
            refused(answer, 415, 100415)


UNKEPT: dict[bytes, str] = {
    b'{"a": 1e400}': "metaData.a",
    b'{"a": [1, -1e400]}': "metaData.a.1",
    b'{"a": 1' + b"0" * 400 + b".5}": "metaData.a",
    b'{"a": 1e-400}': "metaData.a",
    b'{"a": NaN}': "metaData.a",
    b'{"a": {"b": -Infinity}}': "metaData.a.b",
    b'{"a": 18446744073709551616}': "metaData.a",
    b'{"a": -9223372036854775809}': "metaData.a",
    b'{"a": 1, "a": 2}': "metaData",
    b'{"b": {"a": 1, "a": 1}}': "metaData.b",
    rb'{"a": "\ud800"}': "metaData.a",
    rb'{"a": ["\udc00\ud800"]}': "metaData.a.0",
    rb'{"\udfff": 1}': "metaData",
    rb'{"a": "\u0000"}': "metaData.a",
    rb'{"\u0000": 1}': "metaData",
    b'{}, "externalMapping": "a.b", "parentObject": {"id": "1", "app ": 1, " app": 2}': "parentObject",
    b'{"a": ' + b"[" * 220 + b"]" * 220 + b"}": "metaData.a.0",
}


@pytest.mark.parametrize(("sent", "field"), UNKEPT.items(), ids=lambda value: str(value)[:30])
def test_a_value_that_cannot_be_stored_unchanged_is_refused_by_the_name_of_its_field(
    daemon: Daemon, sent: bytes, field: str
) -> None:
    body = b'{"type": "live", "label": "A", "metaData": %s}' % sent
    assert fields(daemon.post("/supportsessions", content=body)) == {field}


def test_a_byte_order_mark_before_a_body_is_ignored(daemon: Daemon) -> None:
    answer = daemon.post("/supportsessions", content=b'\xef\xbb\xbf{"type": "live", "label": "A"}')
    assert answer.status_code == 200


# --- addresses --------------------------------------------------------------------------------------------------------


def test_a_base_url_may_end_in_a_slash(daemon: Daemon, description: JSON) -> None:
    session = daemon.make(type="support", externalMapping="a//b", parentObject={"id": "b"})
    for base in ("//v3", "/v3/", "//v3/", "///v3///"):
        assert daemon.http.get(f"{daemon.url}{base}/me", headers={"Session-id": daemon.token}).status_code == 200, base
    names = path_values(session)
    for path in (path.format_map(names) for path, calls in description["paths"].items() if "get" in calls):
        if path.endswith("signout"):
            continue
        right = daemon.http.get(f"{daemon.url}{path}", headers={"Session-id": daemon.token}).status_code
        for slashed in (f"/{path}", path.replace("/v3/", "/v3//", 1)):
            answer = daemon.http.get(f"{daemon.url}{slashed}", headers={"Session-id": daemon.token})
            assert answer.status_code == right, slashed
    found = daemon.get("//crmlookup/a//b").json()
    assert session["id"] in [row["id"] for row in found], "the key keeps its double slash"
    for path in ("/v3/supportsession//", "/v3/auth//signout", "/v2//me"):
        assert daemon.http.get(f"{daemon.url}{path}", headers={"Session-id": daemon.token}).status_code == 404, path


KEYS_IN_NO_PATH = ("a?b", "?", "a#b", "a\\b", "50%25", "a%2Fb", "../a", "a/./b", "a/..", ".")
KEYS_IN_A_PATH = (
    "a.b",
    "spiffycrm.acmebrand.case.g4j231j8f",
    "a/b//c",
    "50%",
    "a b",
    "Łódź",
    "a&b=c;d",
    "..a",
    "a:@!$'()*+,",
)


@pytest.mark.parametrize("key", KEYS_IN_NO_PATH)
def test_an_external_mapping_that_clients_of_the_original_cannot_look_up_is_refused(daemon: Daemon, key: str) -> None:
    body = {"type": "live", "label": "A", "externalMapping": key, "parentObject": {"id": "1"}}
    error = refused(daemon.post("/supportsessions", body), 400, 100400)
    assert [fault["field"] for fault in error["errors"]] == ["externalMapping"]
    assert "looked up as part of a path" in error["description"]


@pytest.mark.parametrize("key", KEYS_IN_A_PATH)
def test_an_external_mapping_is_found_by_a_client_that_encodes_it_as_browsers_do(daemon: Daemon, key: str) -> None:
    made = daemon.make(externalMapping=key, parentObject={"id": "1"})
    # Encoded as a browser encodes a path by itself; the client of the original appends a question mark.
    found = raw(daemon, "GET", f"/v3/crmlookup/{quote(key, safe=SAFE_IN_PATHS)}?")[1]
    assert made["id"] in [row["id"] for row in found]


# --- answers stay small -----------------------------------------------------------------------------------------------


def test_the_response_to_many_errors_is_no_longer_than_the_request(daemon: Daemon) -> None:
    nul = b'{"type": "live", "label": "A", "metaData": {"a": [' + rb'"\u0000",' * 1000 + b'""]}}'
    inf = b'{"type": "live", "label": "A", "zz": [' + b"1e999," * 9000 + b"1]}"
    long = json.dumps({"type": "live", "label": "A", "metaData": {"x" * 15_000: "\0"}}).encode()
    twice = b'{"%s": 1, "%s": 2}' % (b"x" * 20_000, b"x" * 20_000)
    answers = {
        "nul": daemon.post("/supportsessions", content=nul),
        "inf": daemon.post("/supportsessions", content=inf),
        "long": daemon.post("/supportsessions", content=long),
        "twice": daemon.post("/supportsessions", content=twice),
        "query": daemon.get("/supportsessions?" + "&".join(["=%00"] * 90)),
        "pairs": daemon.get("/supportsessions?" + "&".join(["=%00"] * 12_000)),
        "status": daemon.get("/supportsessions?" + "&".join(["status=x"] * 100)),
        "name": daemon.get("/supportsessions?" + "x" * 50_000 + "=%00"),
        "id": daemon.get("/supportsession/" + "x" * 50_000),
        "participant": daemon.delete(f"/supportsession/{daemon.make()['id']}/participants/{'x' * 50_000}"),
        "webhook": daemon.get("/webhooks/" + "x" * 50_000),
        "pin": daemon.get("/support/" + "1" * 50_000 + "/meta", by=None),
    }
    for what, answer in answers.items():
        assert answer.status_code in (400, 404), what
        assert len(answer.content) < 8000, what
        assert len(answer.json()["errors"]) <= 21, what
    assert answers["nul"].json()["errors"][-1]["field"] == "errors"
    assert fields(answers["pairs"]) == {"query"}


# --- pages of other sites ---------------------------------------------------------------------------------------------

IMAGE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image",
         "Accept": "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
         "Referer": "https://evil.example/"}  # fmt: skip
SCRIPT = {**IMAGE, "Sec-Fetch-Dest": "script", "Accept": "*/*"}
FRAME = {**IMAGE, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe", "Upgrade-Insecure-Requests": "1"}
FORM = {**FRAME, "Sec-Fetch-Dest": "document", "Sec-Fetch-User": "?1", "Origin": "https://evil.example"}
FETCH = {**SCRIPT, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Origin": "https://evil.example"}
BEACON = {**SCRIPT, "Sec-Fetch-Dest": "empty", "Origin": "https://evil.example"}
OBJECT = {**FRAME, "Sec-Fetch-Dest": "object"}
PREFETCH = {**FRAME, "Sec-Fetch-Dest": "document", "Sec-Purpose": "prefetch;prerender"}
LINK = {**FRAME, "Sec-Fetch-Dest": "document", "Sec-Fetch-User": "?1"}
DESK = {**FETCH, "Origin": "https://desk.example.com", "Referer": "https://desk.example.com/"}
TYPED = {**LINK, "Sec-Fetch-Site": "none"}
OWN = {**FETCH, "Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def limited() -> Iterator[Daemon]:

    yield from shared(
        server={"cors_origins": ["https://desk.example.com"]},
        limits={"pin_lookups": "30/minute", "failed_tokens": "20/minute"},
    )


def test_requests_of_another_sites_page_do_not_count_towards_its_visitors_limit(limited: Daemon) -> None:
    pin = limited.make(type="support")["pin"]
    for sent in (IMAGE, SCRIPT, FRAME, OBJECT, PREFETCH, FETCH, BEACON):
        for number in range(10):
            refused(limited.get(f"/support/{number:06}/meta", by=None, headers=sent), 403, 100403)
            refused(limited.get("/me", by=None, headers=sent | {"Session-id": "wrong"}), 403, 100403)
    assert limited.get(f"/support/{pin}/meta", by=None).json()["pin"] == pin
    line = limited.logged("http.cross_site")
    assert len(limited.log_lines("http.cross_site")) == 1
    assert limited.log_lines("pin.unknown") == limited.log_lines("auth.failed") == []
    assert line["message"] == f"requests that pages of other sites sent from {line['remote_ip']}, refused: 1"


def test_a_form_of_another_site_is_refused(limited: Daemon) -> None:
    headers = FORM | {"Content-Type": "text/plain"}
    content = b'{"session_token": "x", "="": 1}'
    answer = limited.post("/auth/token/authWithToken", by=None, content=content, headers=headers)
    refused(answer, 403, 100403)
    assert "access-control-allow-origin" not in answer.headers


def test_followed_links_cors_requests_and_programs_are_not_refused_as_cross_site(limited: Daemon) -> None:
    for headers in (LINK, DESK, TYPED, OWN, {}, {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}):
        assert limited.get("/me", headers=headers).status_code == 200, headers
        assert limited.http.get(f"{limited.url}/docs", headers=headers).status_code == 200, headers
    assert limited.get("/me", headers=DESK).headers["Access-Control-Allow-Origin"] == "https://desk.example.com"
    cors_headers = {**DESK, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "session-id"}
    preflight = limited.call("OPTIONS", "/supportsessions", by=None, headers=cors_headers)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, DESK["Origin"])
    stranger = limited.call("OPTIONS", "/supportsessions", by=None, headers={**cors_headers, "Origin": FETCH["Origin"]})
    assert fields(stranger) == {"Origin"}


# --- CORS -------------------------------------------------------------------------------------------------------------


def test_a_page_may_send_every_header_of_the_contract_and_read_every_one(daemon: Daemon, description: JSON) -> None:
    named = {
        one["name"]
        for calls in description["paths"].values()
        for call in calls.values()
        for one in call.get("parameters", ())
        if one["in"] == "header"
    }
    assert {"Last-Event-ID", "Idempotency-Key", "If-Match"} <= named
    named |= {
        "Session-id",
        "client-app",
        "User-Agent",
        "Authorization",
        "Content-Type",
        "X-Request-Id",
        "If-None-Match",
    }
    for sent in [*named, ",".join(sorted(named)).lower(), "session-id,last-event-id"]:
        cors_headers = {
            "Origin": "https://desk.example.com",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": sent.lower(),
        }
        answer = daemon.call("OPTIONS", "/events", by=None, headers=cors_headers)
        assert answer.status_code == 200, (sent, answer.text)
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        cors_headers["Access-Control-Request-Method"] = method
        assert daemon.call("OPTIONS", "/events", by=None, headers=cors_headers).status_code == 200, method
    exposed = daemon.get("/me", headers={"Origin": "https://desk.example.com"}).headers["access-control-expose-headers"]
    assert set(exposed.split(", ")) >= {"ETag", "Idempotency-Replayed", "Retry-After", "X-Request-Id"}
