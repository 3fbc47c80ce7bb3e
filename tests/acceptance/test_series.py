"""Series on a real daemon: daylight saving time, a kill, and changes; and series of the configuration."""

import json
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.support.databases import PostgresServer
from tests.support.waiting import eventually
from tminus.domain import timestamps

BEGIN = "2027-03-22T12:00:00.000Z"
"""A Monday, six days before daylight saving time begins in Berlin."""

WEEKDAYS = "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR"


def call(daemon: Daemon, method: str, path: str, body: Any = None, **more: Any) -> JSON:
    answer = daemon.call(method, path, body, by=more.pop("by", "anna"), **more)
    assert answer.status_code == 200, answer.text
    found: JSON = answer.json()
    return found


def starts(series: JSON) -> list[str]:
    return [one["startTime"][5:16] for one in series["occurrences"] if one["status"] == "scheduled"]


def test_a_series_keeps_its_local_time_and_follows_changes(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.arguments = ["--test-clock", BEGIN]
    daemon.start()
    daemon.arguments = ["--test-clock"]
    body = {
        "rrule": WEEKDAYS,
        "dtstart": "2027-03-22T09:00",
        "timezone": "Europe/Berlin",
        "exdates": ["2027-03-25"],
        "horizon": "8d",
        "session": {"type": "live", "label": "Stand-up", "reminders": ["15m"]},
    }
    key = {"Idempotency-Key": "one"}
    series = call(daemon, "POST", "/series", body, headers=key)
    assert call(daemon, "POST", "/series", body, headers=key)["id"] == series["id"]
    path = f"/series/{series['id']}"
    assert starts(series) == ["03-23T08:00", "03-24T08:00", "03-26T08:00", "03-29T07:00", "03-30T07:00"]
    assert call(daemon, "GET", "/series")["series"][0]["session"]["label"] == "Stand-up"

    # One session is moved, one is cancelled, and the daemon is killed.
    moved, cancelled = (one["session"] for one in series["occurrences"][1:3])
    call(daemon, "PUT", f"/supportsession/{moved}", {"startTime": "2027-03-24T10:30:00Z"})
    call(daemon, "DELETE", f"/supportsession/{cancelled}")
    daemon.kill()
    daemon.start()
    happened = daemon.post("/clock", {"advance": "1d"}).json()["events"]
    types = [event["type"] for event in happened if event["id"] == series["occurrences"][0]["session"]]
    assert types == ["session.reminder", "session.ready", "session.closed"]
    assert starts(call(daemon, "GET", path))[-1] == "03-31T07:00", "the next session was created"

    # The series moves to 10:00 at once, and to 14:00 from 31 March.
    changed = call(daemon, "PUT", path, {**body, "dtstart": "2027-03-22T10:00"})
    assert starts(changed) == ["03-24T10:30", "03-29T08:00", "03-30T08:00", "03-31T08:00"]
    assert [one["moved"] for one in changed["occurrences"]][:3] == [True, False, False]
    links = {one["session"] for one in changed["occurrences"]}
    assert links <= {one["session"] for one in call(daemon, "GET", path)["occurrences"]}
    later = call(daemon, "PUT", f"{path}?fromHere=2027-03-31T00:00", {**body, "dtstart": "2027-03-22T14:00"})
    assert (later["follows"], starts(later)) == (series["id"], ["03-31T12:00"])
    assert later["occurrences"][0]["session"] in links
    daemon.post("/clock", {"advance": "5d"})
    assert starts(call(daemon, "GET", f"/series/{later['id']}"))[:2] == ["03-31T12:00", "04-01T12:00"]

    # Other agents may not change it. Its end cancels the sessions that are to come.
    assert daemon.call("PUT", path, body, by="ben").status_code == 403
    assert starts(call(daemon, "DELETE", f"/series/{later['id']}")) == []
    assert daemon.call("PUT", f"/series/{later['id']}", body, by="anna").json()["refcode"] == 119409


def test_a_series_has_more_days_than_its_rule_gives_and_fewer(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.arguments = ["--test-clock", BEGIN]
    daemon.start()
    body = {
        "dtstart": "2027-03-23T09:00",
        "timezone": "Europe/Berlin",
        # The second one is a start of the rule, and the last one is on a day without sessions.
        "rdates": ["2027-03-27T14:00", "2027-03-24T09:00", "2027-03-28T14:00", "2027-03-25T18:00"],
        "exdates": ["2027-03-25", "2027-03-26T09:00", "2027-03-27T09:00"],
        "horizon": "8d",
        "session": {"type": "live", "label": "Shift"},
    }
    series = call(daemon, "POST", "/series", {**body, "rrule": WEEKDAYS})
    path = f"/series/{series['id']}"
    with_rule = ["03-23T08:00", "03-24T08:00", "03-27T13:00", "03-28T12:00", "03-29T07:00", "03-30T07:00"]
    assert starts(series) == with_rule
    assert series["rdates"] == [f"{one}:00" for one in sorted(body["rdates"])]
    assert series["exdates"] == ["2027-03-25", "2027-03-26T09:00:00", "2027-03-27T09:00:00"]
    shown = daemon.command("series", "show", series["id"]).stdout
    assert "".join(f"also\t{one}\n" for one in series["rdates"]) in shown
    assert "".join(f"without\t{one}\n" for one in series["exdates"]) in shown

    changed = call(daemon, "PUT", path, {**body, "rrule": WEEKDAYS, "exdates": [], "rdates": ["2027-03-28T14:00"]})
    weekdays = [f"03-{day}T{hour}" for day, hour in ((23, "08:00"), (24, "08:00"), (25, "08:00"), (26, "08:00"))]
    assert starts(changed) == [*weekdays, "03-28T12:00", "03-29T07:00", "03-30T07:00"]
    # Without a rule, it has only its first start and the added ones.
    without_rule = call(daemon, "POST", "/series", body)
    assert starts(without_rule) == ["03-23T08:00", *with_rule[1:4]]
    daemon.post("/clock", {"advance": "3d"})
    assert starts(call(daemon, "GET", f"/series/{without_rule['id']}")) == with_rule[2:4], "no more sessions are made"
    for wrong in (
        {"rdates": ["2027-03-28"]}, {"rdates": ["2027-03-28T14:00Z"]}, {"exdates": "2027-03-28"},
        {"rdates": [f"2027-03-28T14:00:{n % 60:02}" for n in range(367)]},
    ):  # fmt: skip
        refused = daemon.call("PUT", path, {**body, **wrong}, by="anna")
        assert (refused.status_code, next(iter(wrong)) in refused.text) == (400, True), (wrong, refused.text)
    assert starts(call(daemon, "GET", path))[:4] == starts(changed)[3:], "refused changes move nothing"


def test_hostile_series_are_refused_at_once(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    good = {"rrule": "FREQ=DAILY", "dtstart": "2030-01-01T09:00", "timezone": "UTC"}
    good |= {"session": {"type": "live", "label": "x"}}  # type: ignore[dict-item]
    for wrong in (
        {"rrule": "FREQ=SECONDLY"},
        {"rrule": "FREQ=DAILY;COUNT=1000000000"},
        {"rrule": "FREQ=DAILY;INTERVAL=0"},
        {"rrule": "FREQ=DAILY;BYHOUR=0,1,2,3,4,5,6,7,8,9"},
        {"rrule": "FREQ=DAILY;BYHOUR=1,2,3,4,5,6,7,8", "horizon": "366d"},
        {"timezone": "../../etc/passwd"},
        {"timezone": "Mars/Olympus"},
        {"dtstart": "2030-01-01T09:00Z"},
        {"dtstart": "1999-01-01T09:00"},
        {"dtstart": "2001-01-01T09:00"},
        {"exdates": ["2030-02-30"]},
        {"exdates": ["2030-01-01"] * 367},
        {"session": {"type": "live", "label": "x", "startTime": "2030-01-01T09:00:00Z"}},
        {"session": {"type": "live"}},
        {"horizon": "0"},
    ):
        answer = daemon.post("/series", {**good, **wrong})
        assert answer.status_code == 400, (wrong, answer.text)
        assert next(iter(wrong)) in answer.text or "horizon" in wrong, wrong
    never = daemon.post("/series", {**good, "rrule": "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30"})
    assert (never.status_code, never.json()["occurrences"]) == (200, [])
    assert daemon.get("/supportsessions?scope=all").json()["count"] == 0


def test_a_number_that_no_month_has_is_refused_in_each_way(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    file = write(daemon, entry("review", 9).replace('"FREQ=DAILY"', '"FREQ=MONTHLY;BYDAY=53MO"'))
    problem = "must have a number from -5 to 5 before a weekday of a month as BYDAY, not"
    checked = daemon.command("check", "--config", str(daemon.config))
    assert (checked.returncode, f"{file}:4: series[review].rrule {problem}" in checked.stderr) == (1, True)
    assert "Traceback" not in checked.stderr
    file.unlink()
    daemon.start()
    when = ("--dtstart", "2030-01-01T09:00", "--timezone", "UTC")
    what = ("--type", "live", "--label", "x", "--json")
    good = json.loads(daemon.command("series", "create", *when, *what).stdout)["id"]
    for rule in ("FREQ=MONTHLY;BYDAY=53MO", "FREQ=YEARLY;BYMONTH=12;BYDAY=10MO", "FREQ=MONTHLY;INTERVAL=10;BYDAY=10MO"):
        for command in (("create", *when, *what), ("change", good)):
            done = daemon.command("series", *command, "--rrule", rule)
            assert (done.returncode, f"rrule {problem}" in done.stderr) == (1, True), done.stderr
    write(daemon, entry("review", 9).replace('"FREQ=DAILY"', '"FREQ=YEARLY;BYMONTH=12;BYDAY=10MO"'))
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.fault", where=f"{file}:4", key="series[review].rrule")
    assert not daemon.log_lines("http.failed") + daemon.log_lines("config.failed")


def test_a_stored_rule_that_cannot_be_computed_holds_up_nothing_else(make_daemon: StartDaemon) -> None:
    """Rules that earlier versions have stored, and one that no version accepts: the daemon starts and works."""
    daemon = make_daemon(lifecycle={"lead": "10m"})
    daemon.start()
    first = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT09:00}"
    body = {"dtstart": first, "timezone": "Europe/Berlin", "session": {"type": "live", "label": "x"}}
    rules = ("FREQ=MONTHLY;BYDAY=6MO", "FREQ=MONTHLY;INTERVAL=10;BYDAY=53MO", "FREQ=HOURLY")
    ids = [call(daemon, "POST", "/series", {**body, "rrule": "FREQ=DAILY"})["id"] for _ in rules]
    assert daemon.terminate() == 0
    with closing(sqlite3.connect(daemon.state / "tminus.db", isolation_level=None)) as database:
        for series_id, rule in zip(ids, rules, strict=True):
            change = "UPDATE series SET definition = replace(definition, 'FREQ=DAILY', ?), next_at = 0 WHERE id = ?"
            assert database.execute(change, (rule, series_id)).rowcount == 1
        advanced = daemon.command("advance")
        assert advanced.returncode == 0, advanced.stderr
        database.execute("UPDATE series SET next_at = 0")
    daemon.start()
    [failed] = daemon.log_lines("series.failed")
    assert (failed["series"], "must have one of FREQ=" in failed["error"]) == (ids[2], True)
    opens = daemon.make(startTime=timestamps.text(datetime.now(UTC) + timedelta(minutes=10, seconds=2)))["id"]
    daemon.logged("session.ready", session_id=opens)
    assert not daemon.log_lines("clock.failed")

    listed = call(daemon, "GET", "/series")["series"]
    assert {one["id"]: one["rrule"] for one in listed} == dict(zip(ids, rules, strict=True))
    shown = daemon.command("series", "list", "--scope", "all")
    assert (shown.returncode, all(one in shown.stdout for one in ids)) == (0, True), shown.stderr
    assert starts(call(daemon, "PUT", f"/series/{ids[0]}", {**body, "rrule": "FREQ=DAILY"}))
    for one in ids:
        assert call(daemon, "GET", f"/series/{one}")["occurrences"]
        assert daemon.command("series", "end", one).returncode == 0
        assert starts(call(daemon, "GET", f"/series/{one}")) == []


def test_commands_create_change_and_end_a_series(daemon: Daemon, tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> JSON:
        done = daemon.command("series", *arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if code == 0 else {"error": done.stderr}

    first = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT09:00}"
    when = ("--rrule", "FREQ=DAILY", "--dtstart", first, "--timezone", "Europe/Berlin", "--horizon", "6d")
    what = ("--type", "live", "--label", "Stand-up", "--remind", "15m", "--invite", "Joe <joe@example.com>")
    made = run("create", *when, *what, "--key", first)
    assert run("create", *when, *what, "--key", first)["id"] == made["id"]
    assert (made["horizon"], made["session"]["reminders"]) == ("6d", ["15m"])
    second, third = (one["session"] for one in made["occurrences"][1:3])

    # The commands for sessions move one and cancel one. Then the series loses a day, and moves to 10:00.
    assert daemon.command("reschedule", second, "--by", "30m").returncode == 0
    assert daemon.command("close", third).returncode == 0
    without = made["occurrences"][3]["localStart"][:10]
    changed = run("change", made["id"], "--dtstart", f"{first[:10]}T10:00", "--exdate", without)
    states = [(one["localStart"][11:16], one["moved"], one["status"]) for one in changed["occurrences"][:3]]
    assert states == [("10:00", False, "scheduled"), ("10:00", True, "scheduled"), ("10:00", False, "closed")]
    assert without not in {one["localStart"][:10] for one in changed["occurrences"]}
    assert (changed["session"], changed["exdates"]) == (made["session"], [without])

    shown = daemon.command("series", "show", made["id"]).stdout
    assert f"zone\tEurope/Berlin\nwithout\t{without}\n" in shown
    assert f"session\t{first[:10]}T10:00:00  {made['occurrences'][0]['session']}  scheduled\n" in shown
    first_session = made["occurrences"][0]["session"]
    named = daemon.session(first_session)
    assert (named["seriesId"], named["seriesStart"]) == (made["id"], f"{first[:10]}T10:00:00")
    line = f"series\t{made['id']}, by which it starts at {first[:10]}T10:00:00\n"
    assert line in daemon.command("show", first_session).stdout
    assert "invited\tJoe <joe@example.com>\n" in shown
    file = tmp_path / "series.json"
    file.write_text(json.dumps({name: changed[name] for name in ("rrule", "dtstart", "timezone", "session")}))
    here = made["occurrences"][3]["localStart"]
    later = run("change", made["id"], "--file", str(file), "--from", here)
    assert (later["follows"], later["horizon"], later["exdates"]) == (made["id"], "30d", [])
    listed = daemon.command("series").stdout
    assert f"{later['id']}\topen\t{first[:10]}T10:00\tEurope/Berlin\tFREQ=DAILY\tStand-up\n" in listed
    assert f"{made['id']}\tends\t" in listed

    assert "has ended" in daemon.command("series", "end", later["id"]).stdout
    run("end", made["id"])
    assert later["id"] not in daemon.command("series").stdout
    assert later["id"] in daemon.command("series", "list", "--ended").stdout
    assert "ended" in run("change", later["id"], "--label", "x", code=4)["error"]
    assert "Series not found" in run("show", "nobody", code=3)["error"]
    for wrong in (
        ("create", *when), ("change", made["id"]), ("create", *when, *what, "--no-reminders"),
        ("create", "--file", str(file), "--label", "x"),
        ("create", *when, *what, "--rrule", ""),
    ):  # fmt: skip
        assert run(*wrong, code=2)["error"], wrong
    assert "cannot be read: Is a directory" in run("create", "--file", str(tmp_path), code=1)["error"]
    assert "is not JSON" in run("create", "--file", "/dev/null", code=1)["error"]
    file.write_text('{"session": {"metaData": {"a": NaN}}}')
    refused = run("create", "--file", str(file), code=1)["error"]
    assert "is wrong: session.metaData.a must be a JSON number: JSON has no NaN\n" in refused
    assert "rrule must have one of FREQ=" in run("create", *when, *what, "--rrule", "FREQ=HOURLY", code=1)["error"]


def test_a_stale_version_changes_and_ends_no_series(daemon: Daemon) -> None:
    body = {"rrule": "FREQ=DAILY", "dtstart": "2030-01-01T09:00", "timezone": "UTC"}
    body |= {"session": {"type": "live", "label": "First"}}  # type: ignore[dict-item]
    series = call(daemon, "POST", "/series", body)
    path, stale = f"/series/{series['id']}", {"If-Match": '"1"'}
    body["session"] = {"type": "live", "label": "Second"}  # type: ignore[assignment]
    assert call(daemon, "PUT", path, body, headers=stale)["version"] == 2
    body["session"] = {"type": "live", "label": "Third"}  # type: ignore[assignment]
    for method in ("PUT", "DELETE"):
        refused = daemon.call(method, path, body, by="anna", headers=stale)
        assert (refused.status_code, refused.json()["refcode"]) == (412, 119412)
    assert call(daemon, "GET", path)["session"]["label"] == "Second"
    for _ in range(2):
        assert call(daemon, "DELETE", path, headers={"If-Match": '"2"'})["endedAt"], "a repeated request succeeds"


def test_series_keep_no_unknown_members_and_a_page_of_them_has_at_most_two_mebibytes(daemon: Daemon) -> None:
    invitees = [{"email": f"p{number}@example.com", "name": "N" * 200, "x": "y" * 200} for number in range(100)]
    session = {"type": "live", "label": "Large", "metaData": {"a": "x" * 16_000}, "invitees": invitees, "x": "y" * 2000}
    body = {"dtstart": "2030-01-01T09:00", "timezone": "UTC", "session": session}
    made = [call(daemon, "POST", "/series", body)["id"] for _ in range(60)]
    listed: list[JSON] = []
    pages, after = 0, ""
    while True:
        answer = daemon.get(f"/series?limit=1000&after={after}", by="anna")
        assert len(answer.content) < 2.2 * 2**20
        page = answer.json()
        pages, listed = pages + 1, listed + page["series"]
        if page["next"] is None:
            break
        after = page["next"]
    assert pages > 1
    large = [one for one in listed if one["id"] in made]
    assert len(large) == 60
    assert all("x" not in one["session"] for one in large)
    assert all(set(invitee) == {"email", "name"} for one in large for invitee in one["session"]["invitees"])
    assert large[0]["session"]["metaData"] == session["metaData"]


# --- the configuration ------------------------------------------------------------------------------------------------


def entry(name: str, hour: int, label: str = "") -> str:
    """Return a `[[series]]` table: a session each day, which is created three days ahead."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return (
        f'[[series]]\nname = "{name}"\nagent = 7\nrrule = "FREQ=DAILY"\n'
        f'dtstart = {yesterday:%Y-%m-%d}T{hour:02}:00:00\ntimezone = "UTC"\nhorizon = "3d"\n'
        f'session = {{ type = "live", label = "{label or name}" }}\n'
    )


def write(daemon: Daemon, *entries: str) -> Path:
    """Write the entries into a separate file of the configuration."""
    path = daemon.config.parent / "conf.d" / "series.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(entries))
    return path


def configured(number: int, *daemons: Daemon) -> list[JSON]:
    """Return the log lines about series of the configuration; none if there are fewer than `number`."""
    found = [line for one in daemons for line in one.log_lines("series.configured")]
    return found if len(found) >= number else []


def by_entry(daemon: Daemon) -> dict[str, JSON]:
    """Return the series of the configuration that have not ended, by name."""
    listed = call(daemon, "GET", "/series")["series"]
    return {one["entry"]: call(daemon, "GET", f"/series/{one['id']}") for one in listed if one["endedAt"] is None}


def test_the_configuration_has_series_that_follow_it(make_daemon: StartDaemon, storage: JSON) -> None:
    # Half a day from now, so that no session of today opens or starts meanwhile.
    hour = (datetime.now(UTC) + timedelta(hours=12)).hour
    daemon = make_daemon(storage=storage)
    write(daemon, entry("review", hour), entry("stand-up", hour))
    daemon.start()
    series = by_entry(daemon)
    assert sorted(series) == ["review", "stand-up"], "created before the daemon is ready"
    review, stand_up = series["review"], series["stand-up"]
    assert len(review["occurrences"]) == 3
    path = f"/series/{review['id']}"
    body = {name: review[name] for name in ("rrule", "dtstart", "timezone", "horizon", "session")}
    for method in ("PUT", "DELETE"):
        assert daemon.call(method, path, body, by="anna").json()["refcode"] == 119403
    alone = review["occurrences"][1]["session"]
    call(daemon, "DELETE", f"/supportsession/{alone}")

    # A wrong entry changes nothing; the error names its place.
    file = write(daemon, entry("review", hour).replace('"FREQ=DAILY"', '"FREQ=HOURLY"'))
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.fault", where=f"{file}:4", key="series[review].rrule")
    checked = daemon.command("check", "--config", str(daemon.config))
    assert (checked.returncode, f"{file}:4: series[review].rrule must have" in checked.stderr) == (1, True)
    assert sorted(by_entry(daemon)) == ["review", "stand-up"]

    # One entry moves to a quarter of an hour later, and the other one is removed.
    later = entry("review", hour).replace(f"T{hour:02}:00:00", f"T{hour:02}:15:00")
    write(daemon, later)
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.changed", key="series[stand-up]", old="stand-up")
    daemon.logged("series.configured", key="series[review]", outcome="changed", series=review["id"])
    daemon.logged("series.configured", key="series[stand-up]", outcome="ended", series=stand_up["id"])
    assert sorted(by_entry(daemon)) == ["review"]
    assert starts(call(daemon, "GET", f"/series/{stand_up['id']}")) == []
    moved = call(daemon, "GET", path)["occurrences"]
    assert [one["session"] for one in moved] == [one["session"] for one in review["occurrences"]]
    assert {one["startTime"][13:16] for one in moved if one["session"] != alone} == {":15"}
    assert [one["status"] for one in moved if one["session"] == alone] == ["closed"]

    # After a kill and a start, nothing has changed.
    daemon.kill()
    daemon.start()
    assert call(daemon, "GET", path)["occurrences"] == moved
    assert len(daemon.log_lines("series.configured")) == 4


def test_two_daemons_make_the_series_of_the_configuration_once(
    make_daemon: StartDaemon, pg_server: PostgresServer
) -> None:
    hour = (datetime.now(UTC) + timedelta(hours=12)).hour
    with pg_server.database(empty=True) as database:
        several = [make_daemon(storage={"url": database.configured}) for _ in range(2)]
        for one in several:
            write(one, entry("review", hour))
            one.spawn()
        for one in several:
            one.url = one.logged("daemon.ready")["url"]
        [found] = call(several[0], "GET", "/series")["series"]
        assert found["version"] == 1
        assert call(several[1], "GET", "/supportsessions")["count"] == 3
        for one in several:
            write(one, entry("review", hour, "Another label"))
            one.signal(signal.SIGHUP)
        outcomes = [line["outcome"] for line in eventually(lambda: configured(2, *several))]
        assert sorted(outcomes) == ["changed", "created"]
        rows = call(several[1], "GET", "/supportsessions")["rows"]
        assert [one["label"] for one in rows] == ["Another label"] * 3
        for one in several:
            assert one.terminate() == 0


def test_an_entry_adds_days_and_leaves_some_out(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.arguments = ["--test-clock", BEGIN]
    text = (
        '[[series]]\nname = "shift"\nagent = 7\ndtstart = 2027-03-23T09:00:00\ntimezone = "Europe/Berlin"\n'
        'horizon = "8d"\nsession = { type = "live", label = "Shift" }\n'
        "rdates = [2027-03-28T14:00:00, 2027-03-25T18:00:00]\nexdates = [2027-03-25, 2027-03-26T09:00:00]\n"
    )
    write(daemon, text + f'rrule = "{WEEKDAYS}"\n')
    daemon.start()
    shift = by_entry(daemon)["shift"]
    assert starts(shift) == ["03-23T08:00", "03-24T08:00", "03-28T12:00", "03-29T07:00", "03-30T07:00"]

    write(daemon, text.replace("2027-03-25, ", ""))
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded")
    eventually(lambda: starts(by_entry(daemon)["shift"]) == ["03-23T08:00", "03-25T17:00", "03-28T12:00"])
    assert by_entry(daemon)["shift"]["occurrences"][0]["session"] == shift["occurrences"][0]["session"]

    file = write(daemon, text.replace("2027-03-25T18:00:00", "2027-03-25"))
    daemon.signal(signal.SIGHUP)
    fault = daemon.logged("config.fault", where=f"{file}:8")
    assert fault["key"].startswith("series[shift].rdates")
