"""Batches over HTTP: many sessions in one call, all or none."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import Connection, create_engine

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import from_now, parsed
from tests.support.waiting import eventually
from tminus.domain.model import Session

pytestmark = pytest.mark.slow

BATCH = "/supportsessions/batch"


def new(number: int, **more: Any) -> JSON:
    return {"type": "live", "label": f"Onboarding {number}", "startTime": from_now(days=1, minutes=number), **more}


def labels(daemon: Daemon, by: str) -> list[str]:
    return [row["label"] for row in daemon.get("/supportsessions?limit=1000", by=by).json()["rows"]]


def test_a_batch_is_answered_in_its_order_and_each_session_has_its_event(each_daemon: Daemon) -> None:
    daemon = each_daemon
    sent = [new(0), new(1, type="support", startTime=from_now(minutes=5)), {"type": "support", "label": "Now"}, new(3)]

    answer = daemon.post(BATCH, {"sessions": sent}, by="anna")

    assert answer.status_code == 200
    made = answer.json()["sessions"]
    assert [one["label"] for one in made] == [one["label"] for one in sent]
    assert [one["status"] for one in made] == ["scheduled", "new", "new", "scheduled"]
    assert len({one["pin"] for one in made if one["pin"]}) == 2
    for one in made:
        assert daemon.get(f"/supportsession/{one['id']}", by="anna").json() == one | {"durationSeconds": 0}
    types = [[event["type"] for event in daemon.events(one["id"])] for one in made]
    scheduled = ["session.scheduled"]
    assert types == [scheduled, [*scheduled, "session.ready"], ["session.created"], scheduled]


def test_all_errors_are_reported_at_once_by_index_and_nothing_is_done(each_daemon: Daemon) -> None:
    daemon = each_daemon
    before = labels(daemon, "ben")
    past, long = from_now(days=-1), "x" * 256
    sent = [new(0), new(1, type="phone"), new(2, label=long, startTime="soon"), new(3, startTime=past), 7, new(5)]

    refused = daemon.post(BATCH, {"sessions": sent}, by="ben")

    assert refused.status_code == 400
    error = refused.json()
    assert error["refcode"] == 115400
    assert error["description"].startswith("Nothing was done: sessions.1.type must be")
    assert {one["field"] for one in error["errors"]} == {
        "sessions.1.type", "sessions.2.label", "sessions.2.startTime", "sessions.3.startTime", "sessions.4",
    }  # fmt: skip
    assert labels(daemon, "ben") == before


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "sessions"),
        ({"sessions": []}, "sessions"),
        ({"sessions": {}}, "sessions"),
        ({"sessions": [{"type": "live", "label": "a"}], "dryRun": "yes"}, "dryRun"),
        ([], "body"),
        (None, "body"),
    ],
)
def test_a_body_that_is_no_batch_is_refused(daemon: Daemon, body: Any, field: str) -> None:
    refused = daemon.post(BATCH, body, by="anna").json()

    assert (refused["refcode"], [one["field"] for one in refused["errors"]]) == (100400, [field])


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (b'{"type":"live","label":"\\ud800"}', "sessions.1.label"),
        (b'{"type":"live","label":"a\\u0000"}', "sessions.1.label"),
        (b'{"type":"live","label":"a","metaData":{"a":1e999}}', "sessions.1.metaData.a"),
        (b'{"type":"live","type":"live","label":"a"}', "sessions.1"),
    ],
)
def test_what_cannot_be_stored_is_refused(daemon: Daemon, item: bytes, field: str) -> None:
    refused = daemon.post(BATCH, content=b'{"sessions":[{"type":"live","label":"a"},%b]}' % item, by="anna").json()

    assert (refused["refcode"], [one["field"] for one in refused["errors"]]) == (115400, [field])


def test_a_dry_run_answers_what_would_happen_and_does_nothing(daemon: Daemon) -> None:
    before = labels(daemon, "ben")
    sent = {"sessions": [new(0), {"type": "live", "label": "Now"}], "dryRun": True}

    answers = [
        daemon.post(BATCH, sent, by="ben").json(),
        daemon.post(f"{BATCH}?dryRun=true", sent | {"dryRun": False}, by="ben").json(),
    ]

    for answer in answers:
        assert answer["dryRun"] is True
        first, second = answer["planned"]
        assert (first["id"], first["status"], first["label"]) == (None, "scheduled", "Onboarding 0")
        assert first["opensAt"] < first["startTime"] < first["expiresAt"]
        assert (second["status"], second["startTime"], second["opensAt"]) == ("new", None, None)
    assert labels(daemon, "ben") == before


def test_a_repeated_key_answers_with_the_sessions_of_the_first_request(each_daemon: Daemon) -> None:
    daemon = each_daemon
    sent, key = {"sessions": [new(0), new(1)]}, {"Idempotency-Key": "quarter 3"}

    first = daemon.post(BATCH, sent, by="anna", headers=key)
    again = daemon.post(BATCH, sent, by="anna", headers=key)
    other = daemon.post(BATCH, {"sessions": [new(2)]}, by="anna", headers=key)

    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    assert (other.status_code, other.json()["refcode"]) == (409, 103409)
    assert first.json()["sessions"][0]["id"] in other.json()["description"]


@pytest.mark.parametrize("number", [2, 250])
def test_a_key_repeated_after_the_starts_answers_with_the_sessions(make_daemon: StartDaemon, number: int) -> None:
    daemon = make_daemon()
    daemon.arguments = ["--test-clock", "2030-01-07T09:00:00Z"]
    daemon.start()
    sent = {"sessions": [{"type": "live", "label": "A", "startTime": "2030-01-07T09:30:00Z"} for _ in range(number)]}
    key = {"Idempotency-Key": "quarter 4"}

    first = daemon.post(BATCH, sent, headers=key)
    assert daemon.post("/clock", {"advance": "2h"}).status_code == 200
    again, other = daemon.post(BATCH, sent, headers=key), daemon.post(BATCH, sent)

    assert again.headers["idempotency-replayed"] == "true"
    assert [one["id"] for one in again.json()["sessions"]] == [one["id"] for one in first.json()["sessions"]]
    assert (other.status_code, other.json()["refcode"]) == (400, 115400)


def test_lines_of_json_are_a_batch_and_may_be_the_answer(daemon: Daemon) -> None:
    lines = "\ufeff" + "\r\n".join(json.dumps(new(number)) for number in range(120)) + "\n\n"
    headers = {"Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"}

    answer = daemon.post(BATCH, content=lines.encode(), by="anna", headers=headers)

    assert answer.headers["content-type"] == "application/x-ndjson"
    made = [json.loads(line) for line in answer.text.splitlines()]
    assert [one["label"] for one in made] == [f"Onboarding {number}" for number in range(120)]
    bad = daemon.post(BATCH, content=b'{"type":"live","label":"a"}\n{"type":\n', by="anna", headers=headers).json()
    assert (bad["refcode"], bad["errors"][0]["field"]) == (115400, "sessions.1")


def test_a_caller_who_may_not_create_sessions_is_refused_before_the_body_is_read(daemon: Daemon) -> None:
    for by, status in (("monitor", 403), (None, 401)):
        assert daemon.post(BATCH, {"sessions": [new(0)]}, by=by).status_code == status


def test_the_limit_of_sessions_counts_the_whole_batch(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"sessions_per_agent": 5}, server={"max_batch_body": "2KiB"})
    some = [{"type": "live", "label": "a"}]

    assert daemon.post(BATCH, {"sessions": some * 4}).status_code == 200
    for dry_run in (False, True):
        refused = daemon.post(BATCH, {"sessions": some * 2, "dryRun": dry_run})
        assert (refused.status_code, refused.json()["refcode"]) == (429, 101429)
    assert daemon.post(BATCH, {"sessions": some}).status_code == 200
    refused = daemon.post(BATCH, {"sessions": some * 200})
    assert (refused.status_code, refused.json()["refcode"]) == (413, 100413)


def test_ten_thousand_sessions_are_made_at_once_and_one_more_is_too_many(daemon: Daemon) -> None:
    some = [{"type": "live", "label": "Many", "startTime": from_now(days=2)}]

    assert daemon.post(BATCH, {"sessions": some * 10_001}, by="chief").status_code == 400
    made = daemon.post(BATCH, {"sessions": some * 10_000, "dryRun": True}, by="chief")
    assert len(made.json()["planned"]) == 10_000


# --- reschedule and close ---------------------------------------------------------------------------------------------

RESCHEDULE, CLOSE = f"{BATCH}/reschedule", f"{BATCH}/close"


def scheduled(daemon: Daemon, number: int, *, by: str = "anna", **more: Any) -> list[JSON]:
    sent = [new(one, **more) for one in range(number)]
    made: list[JSON] = daemon.post(BATCH, {"sessions": sent}, by=by).json()["sessions"]
    return made


def test_sessions_are_moved_by_a_time_or_to_their_starts(each_daemon: Daemon) -> None:
    daemon = each_daemon
    made = scheduled(daemon, 3)
    ids = [one["id"] for one in made]
    half_an_hour = {"ids": ids, "by": "30m"}

    planned = daemon.post(RESCHEDULE, half_an_hour | {"dryRun": True}, by="anna").json()["planned"]
    moved = daemon.post(RESCHEDULE, half_an_hour, by="anna").json()["sessions"]

    starts = [(parsed(one["startTime"]) + timedelta(minutes=30), one["id"]) for one in made]
    assert [(parsed(one["startTime"]), one["id"]) for one in moved] == starts
    assert [one["startTime"] for one in planned] == [one["startTime"] for one in moved]
    assert {one["version"] for one in moved} == {2}
    assert [event["type"] for event in daemon.events(ids[0])] == ["session.scheduled", "session.rescheduled"]

    soon = from_now(minutes=3)
    each = [{"id": ids[2], "startTime": soon, "version": 2}, {"id": ids[0], "startTime": moved[0]["startTime"]}]
    last = daemon.post(RESCHEDULE, {"sessions": each}, by="anna").json()["sessions"]
    assert [(one["id"], one["status"], one["version"]) for one in last] == [
        (ids[2], "new", 4),
        (ids[0], "scheduled", 2),
    ]


def test_a_filter_moves_and_closes_only_what_matches(each_daemon: Daemon) -> None:
    daemon = each_daemon
    parent: JSON = {"externalMapping": f"batch.{daemon.url[-4:]}", "parentObject": {"id": "1"}}
    made = scheduled(daemon, 3, **parent)
    others = scheduled(daemon, 1, by="ben", **parent)
    mine = {"externalMapping": parent["externalMapping"]}
    later = {**mine, "startFrom": made[1]["startTime"]}

    moved = daemon.post(RESCHEDULE, {"filter": later, "by": "-1h"}, by="anna").json()["sessions"]
    assert [one["id"] for one in moved] == [one["id"] for one in made[1:]]
    closed = daemon.post(CLOSE, {"filter": mine}, by="anna").json()["sessions"]
    assert [one["id"] for one in closed] == [made[1]["id"], made[2]["id"], made[0]["id"]]
    assert {(one["status"], one["closeReason"]) for one in closed} == {("closed", "cancelled")}
    assert daemon.post(CLOSE, {"filter": mine}, by="anna").json() == {"sessions": []}
    assert daemon.session(others[0]["id"])["status"] == "scheduled"
    everybody = {"filter": {**mine, "scope": "all"}}
    assert daemon.post(CLOSE, everybody, by="anna").status_code == 403
    assert [one["id"] for one in daemon.post(CLOSE, everybody, by="supervisor").json()["sessions"]] == [others[0]["id"]]


def test_one_session_that_cannot_be_moved_keeps_the_whole_batch(each_daemon: Daemon) -> None:
    daemon = each_daemon
    mine, (closed,), (others,) = scheduled(daemon, 2), scheduled(daemon, 1), scheduled(daemon, 1, by="ben")
    daemon.delete(f"/supportsession/{closed['id']}", by="anna")
    ids = [mine[0]["id"], "nobody", closed["id"], others["id"], mine[0]["id"]]

    refused = daemon.post(RESCHEDULE, {"ids": ids, "by": "1h"}, by="anna").json()

    assert refused["refcode"] == 115409
    assert {one["field"]: one["message"] for one in refused["errors"]} == {
        "ids.1": "Session not found nobody",
        "ids.2": f"{closed['id']}: Cannot reschedule while the session's status is closed: it is closed",
        "ids.3": f"{others['id']} belongs to another agent: this needs the role group_admin",
        "ids.4": "names the same session as ids.0",
    }
    stale = [{"id": one["id"], "startTime": from_now(days=9), "version": number} for number, one in enumerate(mine, 1)]
    assert daemon.post(RESCHEDULE, {"sessions": stale}, by="anna").json()["errors"] == [
        {"field": "sessions.1", "message": f"{mine[1]['id']} is at version 1 now"}
    ]
    far = daemon.post(RESCHEDULE, {"ids": [one["id"] for one in mine], "by": "10000d"}, by="anna").json()
    assert (far["refcode"], len(far["errors"])) == (115400, 2)
    assert [daemon.session(one["id"])["version"] for one in mine] == [1, 1]


def test_a_repeated_shift_with_a_key_moves_once(daemon: Daemon) -> None:
    (made,) = scheduled(daemon, 1)
    body, key = {"ids": [made["id"]], "by": "1h"}, {"Idempotency-Key": "shift once"}

    first = daemon.post(RESCHEDULE, body, by="anna", headers=key)
    again = daemon.post(RESCHEDULE, body, by="anna", headers=key)

    assert again.json() == first.json()
    assert daemon.session(made["id"])["version"] == 2


LINES = {"Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"}


def lines_of(*items: Any) -> bytes:
    """Return a body in NDJSON, with a byte order mark, an empty line and line ends of Windows."""
    return ("\ufeff" + "\r\n\n".join(json.dumps(item) for item in items)).encode()


def values_of(answer: httpx.Response) -> list[JSON]:
    """Return the values of an answer in NDJSON."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.text
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_lines_of_json_move_and_close_sessions(each_daemon: Daemon) -> None:
    daemon = each_daemon
    ids = [one["id"] for one in scheduled(daemon, 250)][::-1]
    starts = [from_now(days=2, minutes=number) for number in range(250)]
    moves = lines_of(*({"id": one, "startTime": at, "version": 1} for one, at in zip(ids, starts, strict=True)))

    planned = values_of(daemon.post(f"{RESCHEDULE}?dryRun=true", content=moves, by="anna", headers=LINES))
    assert daemon.session(ids[0])["version"] == 1
    moved = values_of(daemon.post(RESCHEDULE, content=moves, by="anna", headers=LINES))
    assert [one["id"] for one in moved] == [one["id"] for one in planned] == ids
    assert [parsed(one["startTime"]) for one in moved] == [parsed(at) for at in starts]
    assert [one["startTime"] for one in planned] == [one["startTime"] for one in moved]
    assert moved[0] == daemon.get(f"/supportsession/{ids[0]}", by="anna").json()

    planned = values_of(daemon.post(f"{CLOSE}?dryRun=true", content=lines_of(*ids), by="anna", headers=LINES))
    assert daemon.session(ids[0])["status"] == "scheduled"
    closed = values_of(daemon.post(CLOSE, content=lines_of(*ids), by="anna", headers=LINES))
    assert [one["id"] for one in closed] == [one["id"] for one in planned] == ids
    assert {(one["status"], one["closeReason"]) for one in closed} == {("closed", "cancelled")}

    # One of the two may be NDJSON and the other one JSON.
    only_sent = {"Content-Type": LINES["Content-Type"]}
    in_json = daemon.post(CLOSE, content=lines_of(*ids[:2]), by="anna", headers=only_sent).json()["sessions"]
    only_answered = {"Accept": LINES["Accept"]}
    in_lines = values_of(daemon.post(CLOSE, {"ids": ids[:2]}, by="anna", headers=only_answered))
    assert [one["id"] for one in in_json] == [one["id"] for one in in_lines] == ids[:2]


def test_wrong_lines_are_named_by_their_index_and_nothing_is_done(daemon: Daemon) -> None:
    (first, second), (others,) = scheduled(daemon, 2), scheduled(daemon, 1, by="ben")
    good, at = json.dumps({"id": first["id"], "startTime": from_now(days=3)}), from_now(days=3)
    no_start, unknown = json.dumps({"id": second["id"]}), json.dumps({"id": "nobody", "startTime": at})
    past = json.dumps({"id": second["id"], "startTime": from_now(days=-3)})
    one, not_mine = json.dumps(first["id"]), json.dumps(others["id"])

    for path, refcode, sent, fields in (
        (RESCHEDULE, 115400, [good, "", '{"id":'], {"sessions.1"}),
        (RESCHEDULE, 115400, [good, "7", no_start], {"sessions.1", "sessions.2.startTime"}),
        (RESCHEDULE, 115400, [good, past], {"sessions.1"}),
        (RESCHEDULE, 115409, [good, "", unknown, good], {"sessions.1", "sessions.2"}),
        (CLOSE, 115400, [one, "kX3wQz", "", one], {"ids.1"}),
        (CLOSE, 115400, [one, "7", "{}"], {"ids.1", "ids.2"}),
        (CLOSE, 115409, [one, "", '"nobody"', not_mine], {"ids.1", "ids.2"}),
        (RESCHEDULE, 100400, [""], {"sessions"}),
        (CLOSE, 100400, [""], {"ids"}),
    ):
        answer = daemon.post(path, content="\n".join(sent).encode(), by="anna", headers=LINES)
        refused = answer.json()
        assert (refused["refcode"], {error["field"] for error in refused["errors"]}) == (refcode, fields), sent
        assert answer.headers["content-type"] == "application/json"
    assert [(now["status"], now["version"]) for now in map(daemon.session, (first["id"], second["id"]))] == [
        ("scheduled", 1)
    ] * 2


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (RESCHEDULE, {"by": "1h"}, "body"),
        (RESCHEDULE, {"ids": ["a"]}, "body"),
        (RESCHEDULE, {"ids": ["a"], "filter": {"type": "live"}, "by": "1h"}, "body"),
        (RESCHEDULE, {"ids": ["a"], "by": "an hour"}, "by"),
        (CLOSE, {"filter": {}}, "filter"),
        (CLOSE, {"filter": {"scope": "all"}}, "filter"),
        (CLOSE, {"filter": {"starts": "2027-01-01"}}, "filter.starts"),
    ],
)
def test_sessions_must_be_named_in_one_way_and_a_filter_needs_a_condition(
    daemon: Daemon, path: str, body: JSON, field: str
) -> None:
    refused = daemon.post(path, body, by="chief").json()

    assert refused["refcode"] == 100400
    assert field in {one["field"] for one in refused["errors"]}


def test_a_shift_that_overlaps_with_other_appointments_is_refused_by_the_policy(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(policy={"overlap": "refuse"})
    sent = [{"type": "live", "label": "A", "startTime": from_now(days=1, hours=2 * number)} for number in range(3)]
    made = daemon.post(BATCH, {"sessions": sent}).json()["sessions"]
    first_two = [one["id"] for one in made[:2]]

    assert daemon.post(RESCHEDULE, {"ids": [one["id"] for one in made], "by": "2h"}).status_code == 200
    refused = daemon.post(RESCHEDULE, {"ids": first_two, "by": "90m"}).json()
    assert refused["refcode"] == 115409
    assert [one["field"] for one in refused["errors"]] == ["ids.1"]
    assert daemon.post(RESCHEDULE, {"ids": first_two, "by": "-30m"}).status_code == 200


def test_the_key_of_a_batch_that_had_no_session_serves_no_other_body(daemon: Daemon) -> None:
    key = {"Idempotency-Key": "nothing matched"}
    nothing, other = ({"filter": {"externalMapping": name}} for name in ("no.such", "no.other"))
    assert daemon.post(CLOSE, nothing, headers=key).json() == {"sessions": []}
    assert daemon.post(CLOSE, nothing, headers=key).headers["idempotency-replayed"] == "true"
    refused = daemon.post(CLOSE, other, headers=key)
    assert (refused.status_code, refused.json()["refcode"]) == (409, 103409)


def test_ten_thousand_sessions_are_made_moved_and_closed_and_one_more_is_refused(
    storage: dict[str, Any], start_daemon: StartDaemon
) -> None:
    daemon, many = start_daemon(storage=storage), 10_000
    # The last one of the list starts first, so that the order of a list and that of a filter differ.
    sent = [new(0, label=f"Many {number}", startTime=from_now(days=9, seconds=-number)) for number in range(many)]

    made = daemon.post(BATCH, {"sessions": sent}).json()["sessions"]

    assert [one["label"] for one in made] == [one["label"] for one in sent]
    assert [parsed(one["startTime"]) for one in made] == [parsed(one["startTime"]) for one in sent]
    ids = [one["id"] for one in made]
    assert len(set(ids)) == many
    assert len({one["hostAuthToken"] for one in made}) == many

    one_more = daemon.make(startTime=from_now(days=9))["id"]
    everything = {"filter": {"status": ["scheduled"]}}
    last = daemon.feed()[-1]["seq"]
    for path, by in ((RESCHEDULE, {"by": "1h"}), (CLOSE, {})):
        for dry_run in (True, False):
            refused = daemon.post(path, {**everything, **by, "dryRun": dry_run}).json()
            problem = {"field": "filter", "message": "matches more than 10000 sessions: add conditions"}
            assert (refused["refcode"], refused["errors"]) == (115400, [problem])
            refused = daemon.post(path, {"ids": [*ids, one_more], **by, "dryRun": dry_run}).json()
            assert (refused["refcode"], [error["field"] for error in refused["errors"]]) == (100400, ["ids"])
            assert "10000 items" in refused["description"]
    assert daemon.feed()[-1]["seq"] == last, "nothing was changed"
    daemon.delete(f"/supportsession/{one_more}")

    moved = daemon.post(RESCHEDULE, {**everything, "by": "1h"}).json()["sessions"]
    assert [one["id"] for one in moved] == ids[::-1]
    starts = [parsed(one["startTime"]) + timedelta(hours=1) for one in made]
    assert [parsed(one["startTime"]) for one in moved] == starts[::-1]
    closed = daemon.post(CLOSE, everything).json()["sessions"]
    assert [one["id"] for one in closed] == ids[::-1]
    assert {(one["status"], one["version"]) for one in closed} == {("closed", 3)}
    assert daemon.get("/supportsessions?scope=all").json()["count"] == 0


@pytest.mark.parametrize("as_lines", [False, True], ids=["json", "ndjson"])
def test_of_many_errors_a_thousand_are_listed_and_all_are_counted(daemon: Daemon, as_lines: bool) -> None:
    many = 1500
    (made,) = scheduled(daemon, 1)
    unknown = [f"nobody{number}" for number in range(many)]
    moves = [{"id": made["id"], "startTime": from_now(days=2)}] * many
    wrong = [*[{**new(0), "label": ""}] * many, 7]
    for path, refcode, name, items, first, found in (
        (BATCH, 115400, "sessions", wrong, "sessions.0.label", many + 1),
        (BATCH, 115400, "sessions", [{**new(0), "type": "phone", "label": ""}] * many, "sessions.0.type", 2 * many),
        (BATCH, 115400, "sessions", [new(0, startTime=from_now(days=-1))] * many, "sessions.0.startTime", many),
        (CLOSE, 115400, "ids", [7] * many, "ids.0", many),
        (CLOSE, 115409, "ids", unknown, "ids.0", many),
        (RESCHEDULE, 115409, "sessions", moves, "sessions.1", many - 1),
    ):
        body: JSON = {"json": {name: items}}
        if as_lines:
            body = {"content": lines_of(*items), "headers": {"Content-Type": LINES["Content-Type"]}}
        refused = daemon.post(path, body.pop("json", None), by="anna", **body).json()

        assert refused["refcode"] == refcode, refused["description"][:200]
        *listed, last = refused["errors"]
        assert (len(listed), listed[0]["field"]) == (1000, first)
        assert last == {"field": "errors", "message": f"lists 1000 of {found} errors"}
        assert refused["description"].endswith(f"; and {found - 3} more")
    assert daemon.session(made["id"])["version"] == 1

    lines = b'{"type":\n' * many + json.dumps({"type": "live"}).encode()
    refused = daemon.post(BATCH, content=lines, by="anna", headers=LINES).json()
    assert (len(refused["errors"]), refused["errors"][999]["field"]) == (1001, "sessions.999")
    assert refused["errors"][1000]["message"] == f"lists 1000 of {many + 1} errors"


# --- kills of the daemon ----------------------------------------------------------------------------------------------


@pytest.fixture
def daemon_and_connection(storage: dict[str, Any], start_daemon: StartDaemon) -> Iterator[tuple[Daemon, Connection]]:
    """A daemon, and a connection to its database."""
    daemon = start_daemon(storage=storage)
    engine = create_engine(daemon.database, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield daemon, connection
    engine.dispose()


def counted(connection: Connection, table: str) -> int:
    return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


def start_sending(daemon: Daemon, path: str, body: JSON, key: str) -> threading.Thread:
    """Send a batch on a thread. The thread ignores the error if the daemon is killed."""
    url, headers = f"{daemon.url}/v3{path}", {"Session-id": daemon.tokens["admin"], "Idempotency-Key": key}

    def send() -> None:
        with suppress(httpx.HTTPError):
            httpx.post(url, json=body, headers=headers, timeout=60)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def kill_in_the_middle(daemon: Daemon, connection: Connection, thread: threading.Thread, done: str, total: int) -> None:
    """Kill the daemon in the middle of a batch, start it again, and check that it finishes the batch.

    `done` is a query that counts the finished sessions; the batch has `total` sessions.
    """
    eventually(lambda: connection.exec_driver_sql(done).scalar_one())
    daemon.kill()
    thread.join()
    assert 0 < connection.exec_driver_sql(done).scalar_one() < total, "the daemon was killed in the middle of the batch"
    daemon.start()
    assert counted(connection, "batch") == counted(connection, "batch_part") == 0
    assert daemon.logged("batches.finished")["left"] > 0


def test_a_batch_that_was_killed_in_the_middle_is_finished_by_the_next_start(
    daemon_and_connection: tuple[Daemon, Connection],
) -> None:
    daemon, connection = daemon_and_connection
    many, sent = 10_000, {"sessions": [{"type": "live", "label": "Killed", "startTime": from_now(days=1)}] * 10_000}
    thread = start_sending(daemon, BATCH, sent, "killed")

    kill_in_the_middle(daemon, connection, thread, "SELECT count(*) FROM session", many)

    assert counted(connection, "session") == counted(connection, "event") == many
    assert counted(connection, "(SELECT DISTINCT session_id FROM event) AS told") == many
    again = daemon.post(BATCH, sent, headers={"Idempotency-Key": "killed"})
    assert again.headers["idempotency-replayed"] == "true"
    ids = [one["id"] for one in again.json()["sessions"]]
    assert len(set(ids)) == many
    assert daemon.post(BATCH, sent, headers={"Idempotency-Key": "killed"}).content == again.content
    assert counted(connection, "session") == many

    moved = {"ids": ids, "by": "1h"}
    thread = start_sending(daemon, RESCHEDULE, moved, "moved")
    kill_in_the_middle(daemon, connection, thread, "SELECT count(*) FROM session WHERE version > 1", many)
    assert counted(connection, "session WHERE version = 2") == many
    assert counted(connection, "event WHERE type = 'session.rescheduled'") == many
    assert daemon.post(RESCHEDULE, moved, headers={"Idempotency-Key": "moved"}).status_code == 200
    assert counted(connection, "session WHERE version = 2") == many

    thread = start_sending(daemon, CLOSE, {"ids": ids}, "closed")
    kill_in_the_middle(daemon, connection, thread, "SELECT count(*) FROM session WHERE status = 'closed'", many)
    assert counted(connection, "session WHERE status = 'closed'") == many
    assert counted(connection, "event WHERE type = 'session.closed'") == many


def test_of_a_batch_that_was_killed_before_it_was_decided_nothing_is_left(
    daemon_and_connection: tuple[Daemon, Connection],
) -> None:
    daemon, connection = daemon_and_connection
    address = urlsplit(daemon.url)
    line = json.dumps(new(0)).encode() + b"\n"
    head = [f"POST /v3{BATCH} HTTP/1.1", "Host: a", f"Session-id: {daemon.tokens['admin']}"]
    head += ["Content-Type: application/x-ndjson", f"Content-Length: {1000 * len(line)}", "", ""]

    with socket.create_connection((address.hostname, address.port)) as opened:
        opened.sendall("\r\n".join(head).encode() + 800 * line)
        eventually(lambda: counted(connection, "batch_part"))
        daemon.kill()
    daemon.start()

    assert counted(connection, "session") == counted(connection, "event") == 0
    if connection.dialect.name == "sqlite":  # on PostgreSQL, other daemons may be storing parts
        assert counted(connection, "batch_part") == 0


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
def test_another_daemon_finishes_the_batch_of_one_that_was_killed(
    storage: dict[str, Any], start_daemon: StartDaemon
) -> None:
    first, second = (start_daemon(storage=storage) for _ in range(2))
    sent = {"sessions": [{"type": "live", "label": "Two", "startTime": from_now(days=1)}] * 10_000}
    thread = start_sending(first, BATCH, sent, "two")
    eventually(lambda: second.get("/supportsessions?scope=all&limit=1").json()["count"])
    first.kill()
    thread.join()

    answer = second.post(BATCH, sent, headers={"Idempotency-Key": "two"})

    assert answer.headers["idempotency-replayed"] == "true"
    assert len({one["id"] for one in answer.json()["sessions"]}) == 10_000
    assert second.get("/supportsessions?scope=all&limit=1").json()["count"] == 10_000


# --- batches of several parts -----------------------------------------------------------------------------------------


def test_new_sessions_of_several_parts_have_pins_open_and_are_counted(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"sessions_per_agent": 1000})
    soon, later = from_now(minutes=5), from_now(days=1)
    starts = [None, soon, later] * 200
    sent = [{"type": "support", "label": "Part", **({} if at is None else {"startTime": at})} for at in starts]

    made = daemon.post(BATCH, {"sessions": sent}).json()["sessions"]

    assert [one["status"] for one in made] == ["new", "new", "scheduled"] * 200
    pins = [one["pin"] for one in made if one["status"] == "new"]
    assert len(set(pins)) == 400
    assert min(pins) >= 100_000
    assert all(one["urls"]["user"].endswith(f"/{one['pin']}") for one in made[::3])
    assert [event["type"] for event in daemon.events(made[301]["id"])] == ["session.scheduled", "session.ready"]
    assert daemon.post(BATCH, {"sessions": sent}).json()["refcode"] == 101429


def test_a_batch_of_several_parts_is_answered_with_the_sessions_as_they_are_read(each_daemon: Daemon) -> None:
    kinds: list[JSON] = [
        {},
        {"type": "support", "startTime": from_now(minutes=5)},
        {"startTime": None, "userDescription": "Desk", "agentPrefs": {"record": True}, "metaData": {"a": [1, "ä"]}},
        {
            "externalMapping": "CS1",
            "parentObject": {"id": "1", "name": "Case", "sync": True},
            "reminders": ["1h", "1m"],
        },
        {"invitees": [{"email": "guest@example.com", "name": "Güst"}]},
    ]
    # In some parts a session opens at once, and in others none does.
    sent = [new(number, **kinds[number % 5 if number < 150 else 0]) for number in range(350)]

    made = each_daemon.post(BATCH, {"sessions": sent}, by="anna").json()["sessions"]

    assert [one["label"] for one in made] == [one["label"] for one in sent]
    ids = {one["id"] for one in made}
    rows = each_daemon.get("/supportsessions?limit=1000&scope=mine", by="anna").json()["rows"]
    assert {row["id"]: row for row in rows if row["id"] in ids} == {one["id"]: one for one in made}


def test_two_requests_with_one_key_at_the_same_time_make_one_batch(daemon: Daemon) -> None:
    sent = {"sessions": [new(number) for number in range(600)]}
    answers: list[list[str]] = []

    def send() -> None:
        answer = daemon.post(BATCH, sent, by="chief", headers={"Idempotency-Key": "at the same time"})
        answers.append([one["id"] for one in answer.json()["sessions"]])

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0])) == 600


def test_two_requests_with_one_key_answer_with_the_new_ids_of_sessions_whose_ids_were_taken(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon()
    daemon.make(by="ben", type="live", label="Not yours", startTime=from_now(days=3))
    sent = {"sessions": [new(0)] * 10_000}
    answers: list[httpx.Response] = []

    def send() -> None:
        answers.append(daemon.post(BATCH, sent, by="chief", headers={"Idempotency-Key": "taken"}))

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    engine = create_engine(daemon.database, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        decided = eventually(lambda: connection.exec_driver_sql("SELECT session_ids FROM batch").scalar())
        columns = ", ".join(column for column in Session.model_fields if column != "id")
        connection.exec_driver_sql(
            f"INSERT OR IGNORE INTO session (id, {columns}) SELECT taken, {columns}"
            " FROM session, (SELECT value AS taken FROM json_each(?)) WHERE label = 'Not yours'",
            (json.dumps(json.loads(str(decided))[-1000:]),),
        )
    engine.dispose()
    for thread in threads:
        thread.join()

    first, second = ([one["id"] for one in answer.json()["sessions"]] for answer in answers)
    assert first == second
    assert len(set(first)) == 10_000
    assert "Not yours" not in answers[0].text + answers[1].text


def peak(pid: int) -> float:
    """Return the largest memory that a process has had, in MiB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def test_memory_does_not_grow_with_a_batch_of_lines(start_daemon: StartDaemon) -> None:
    peaks = []
    for number in (1000, 10_000):
        daemon = start_daemon()
        line = json.dumps(new(0, metaData={"note": "x" * 500})).encode() + b"\n"
        headers = {"Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"}
        answer = daemon.post(BATCH, content=number * line, headers=headers)
        assert answer.text.count("\n") == number
        assert daemon.process is not None
        peaks.append(peak(daemon.process.pid))
    assert peaks[1] - peaks[0] < 80, f"peaks in MiB: {peaks}; the caches of the database have a limit"


def test_memory_does_not_grow_with_the_texts_of_the_sessions_that_a_batch_closes(start_daemon: StartDaemon) -> None:
    """An answer that is too large to be held is sent in parts."""
    daemon = start_daemon()
    number, note = 2700, "x" * 16_000
    line = json.dumps(new(0, metaData={"note": note})).encode() + b"\n"
    for _ in range(3):  # a request may have 16 MiB
        made = daemon.post(BATCH, content=number // 3 * line, headers={"Content-Type": "application/x-ndjson"})
        assert made.status_code == 200
    assert daemon.process is not None
    pid = daemon.process.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the kernel resets the peak
    before = peak(pid)
    closed = daemon.post(f"{BATCH}/close", {"filter": {"status": ["scheduled"]}})

    assert len(closed.content) > number * len(note)
    assert {(one["status"], one["metaData"]["note"]) for one in closed.json()["sessions"]} == {("closed", note)}
    assert len(closed.json()["sessions"]) == number
    assert closed.headers["content-type"] == "application/json"
    assert peak(pid) - before < 120, "the texts have 43 MB; the caches of the database have a limit"


def test_a_client_that_disconnects_in_the_middle_of_a_batch_has_stored_nothing(daemon: Daemon) -> None:
    before = labels(daemon, "ben")
    body = json.dumps({"sessions": [new(number) for number in range(300)]}).encode()
    lines = [f"POST /v3{BATCH} HTTP/1.1", "Host: a", f"Session-id: {daemon.tokens['ben']}"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    address = urlsplit(daemon.url)

    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + body[:-100])

    line = daemon.logged("http.request", code=499, route=f"/v3{BATCH}")
    assert line["error"] == "the client closed the connection before the answer"
    assert labels(daemon, "ben") == before


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_the_log_tells_that_a_client_did_not_get_its_complete_answer(daemon: Daemon, accept: str) -> None:
    number, note = 200, "x" * 8000
    body = json.dumps({"sessions": [new(each, metaData={"note": note}) for each in range(number)]}).encode()
    lines = [f"POST /v3{BATCH} HTTP/1.1", "Host: a", f"Session-id: {daemon.tokens['ben']}", f"Accept: {accept}"]
    lines += [f"Content-Length: {len(body)}", f"X-Request-Id: cut-{accept[-4:]}"]
    address = urlsplit(daemon.url)
    before = daemon.get("/supportsessions", by="ben").json()["count"]

    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset the connection

    line = daemon.logged("http.request", request_id=f"cut-{accept[-4:]}")
    assert (line["code"], line["error"]) == (200, "the connection ended before the client had the complete answer")
    after = daemon.get("/supportsessions", by="ben").json()["count"]
    assert after == before + number, "everything was stored"
