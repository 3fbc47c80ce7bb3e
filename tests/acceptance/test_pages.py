"""The page for people who were invited, in Debian's Chromium, with a real daemon and its real rooms.

`TMINUS_TEST_PICTURES` names a directory for screenshots of each state, on a phone and a desktop, light and dark.
"""

import os
import re
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, WebSocketRoute

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.test_behind_a_path import free_port, nginx, proxied
from tests.support import browsers, challenges, page_pictures
from tests.support.browsers import CHROMIUM, DESKTOP, MISSING, PHONE, Visitor
from tests.support.databases import PostgresServer
from tests.support.waiting import eventually
from tminus.api.challenges import WIDTH

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=MISSING)]

Visit = Callable[..., Visitor]

PICTURES = os.environ.get("TMINUS_TEST_PICTURES")

HOSTILE = "<img src=x onerror=alert(1)>&amp;{name}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as one:
        yield one


@pytest.fixture
def database(pg_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database. Request it before a fixture that starts daemons."""
    with pg_server.database(empty=True) as one:
        yield one.configured


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Return a function that opens a link in a new window with its own profile."""
    with ExitStack() as stack:

        def visit(url: str, **options: Any) -> Visitor:
            visitor = stack.enter_context(browsers.visiting(browser, **options))
            visitor.page.goto(url)
            return visitor

        yield visit


@pytest.fixture
def knocked(daemon: Daemon) -> JSON:
    """A session in which guests wait until a host admits them."""
    return at(daemon, daemon.make(agentPrefs={"knock": True}, userDescription="Anna Agent"))


def at(daemon: Daemon, made: JSON) -> JSON:
    """Return a session with its links on the daemon's address. Tests cannot configure it, because the port is 0."""
    user, host = made["urls"]["user"], made["urls"]["host"]
    origin = re.compile(r"^https?://[^/]+")
    return {**made, "user": origin.sub(daemon.url, user), "host": origin.sub(daemon.url, host)}


def start_in(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def check(visitor: Visitor, name: str) -> None:
    """Check what must hold in every state of the page, and take screenshots of it."""
    assert visitor.inaccessible() == []
    own = visitor.page.evaluate("location.origin")
    assert {request.url.split("/")[2] for request in visitor.requests} == {own.split("/")[2]}
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    if PICTURES:
        for size, viewport in (("phone", PHONE), ("desktop", DESKTOP)):
            for scheme in ("light", "dark"):
                visitor.page.set_viewport_size(viewport)  # type: ignore[arg-type]  # a dict of two ints
                visitor.page.emulate_media(color_scheme=scheme)
                visitor.page.screenshot(path=f"{PICTURES}/{name}-{size}-{scheme}.png", full_page=True)
        visitor.page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]


def people(visitor: Visitor) -> list[str]:
    return visitor.page.locator('[data-list="people"] li .name').all_inner_texts()


def knocking(visitor: Visitor) -> list[str]:
    return visitor.page.locator('[data-list="knocking"] li .name').all_inner_texts()


# --- PIN --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["", " ", "-", " - "])
def test_a_pin_may_be_typed_with_spaces_and_dashes(daemon: Daemon, visit: Visit, mark: str) -> None:
    made = daemon.make(type="support", userDescription="Anna Agent", label="Printer")
    pin = str(made["pin"])
    guest = visit(f"{daemon.url}/")
    guest.expect("pin")
    check(guest, "pin")
    guest.page.get_by_label("PIN").fill(f" {pin[:3]}{mark}{pin[3:]} ")
    guest.page.keyboard.press("Enter")
    guest.expect("name")
    assert "Printer" in guest.text()
    assert "Anna Agent" in guest.text()
    check(guest, "name")
    # The address bar, and with it the browser's history, has no PIN.
    assert guest.page.url == f"{daemon.url}/?{made['id']}"


def test_a_wrong_pin_is_reported_and_each_further_one_takes_longer(daemon: Daemon, visit: Visit) -> None:
    guest = visit(f"{daemon.url}/")
    pin = guest.page.get_by_label("PIN")
    pin.fill("12345")
    guest.press("Continue")
    assert "six digits" in guest.page.locator("#pin-error").inner_text()
    pauses = []
    for _ in range(4):
        pin.fill("100000")
        guest.press("Continue")
        error = eventually(lambda: guest.page.locator("#pin-error").inner_text())
        assert "no open session" in error
        pauses += re.findall(r"wait (\d+) seconds?", error)
        check(guest, "pin-wrong")
        guest.page.wait_for_selector("#pin-form [type=submit]:enabled")
    assert pauses == ["2", "4"]
    assert guest.page.locator("#pin").get_attribute("aria-invalid") is None


def test_the_page_shows_that_it_looks_up_a_pin(daemon: Daemon, visit: Visit) -> None:
    made = daemon.make(type="support", label="Printer")
    guest = visit(f"{daemon.url}/")
    held: list[Route] = []
    guest.page.route("**/meta", lambda route: held.append(route))  # noqa: PLW0108 - playwright keeps attributes on it
    guest.page.goto(f"{daemon.url}/{made['pin']}")
    guest.expect("loading")
    eventually(lambda: held)
    check(guest, "loading")
    held[0].continue_()
    guest.expect("name")


def test_after_too_many_wrong_pins_the_digits_in_a_picture_let_a_guest_go_on_at_once(
    start_daemon: StartDaemon, visit: Visit
) -> None:
    daemon = start_daemon(limits={"pin_lookups": "1/hour"})
    made = daemon.make(type="support", label="Printer")
    guest = visit(f"{daemon.url}/100000")
    guest.expect("pin")
    page = guest.page
    assert page.get_by_label("PIN").input_value() == "100000"
    challenge_after(guest, lambda: guest.press("Continue"))
    assert re.search(r"wrong PINs.*Please wait (1 hour|\d+ minutes)", page.locator("#pin-error").inner_text())
    assert "cannot see it, wait" in page.locator("#challenge-lead").inner_text()
    assert page.evaluate("document.getElementById('picture').naturalWidth") == WIDTH
    assert page.evaluate("document.activeElement.id") == "digits"
    assert page.locator("#picture").get_attribute("alt") == "A picture with four digits"
    check(guest, "pin-challenge")

    guest.press("Continue")
    assert "type the digits" in page.locator("#digits-error").inner_text()
    check(guest, "pin-challenge-missing")
    challenge_after(guest, lambda: guest.press("Another picture"))
    page.get_by_label("Digits in the picture").fill("no digits")
    uuid = challenge_after(guest, lambda: page.keyboard.press("Enter"))
    assert "not right" in page.locator("#pin-error").inner_text()
    check(guest, "pin-challenge-wrong")

    # With the keyboard alone: the focus is on the digits.
    page.get_by_label("PIN").fill(str(made["pin"]))
    page.get_by_label("Digits in the picture").focus()
    page.keyboard.type(challenges.solve(daemon.database, uuid))
    page.keyboard.press("Enter")
    guest.expect("name")
    assert "Printer" in guest.text()


def test_a_guest_who_cannot_see_the_picture_can_wait_instead(start_daemon: StartDaemon, visit: Visit) -> None:
    daemon = start_daemon(limits={"pin_lookups": "1/second"})
    made = daemon.make(type="support")
    guest = visit(f"{daemon.url}/", locale="de-DE")
    for _ in range(4):  # after the fourth wrong PIN the pause is eight seconds long
        eventually(lambda: daemon.get("/support/100000/meta", by=None).status_code == 404, deadline=30)
    guest.page.get_by_label("PIN").fill(str(made["pin"]))
    guest.press("Weiter")
    guest.page.wait_for_selector("#challenge:visible")
    check(guest, "pin-challenge-german")
    guest.page.wait_for_selector("#challenge", state="hidden", timeout=40_000)
    assert guest.page.evaluate("document.activeElement.id") == "pin"
    guest.press("Weiter")
    guest.expect("name")


def challenge_after(visitor: Visitor, press: Callable[[], None]) -> str:
    """Press a button; return the id of the challenge that the page then requests, once its picture is shown."""
    with visitor.page.expect_response("**/v3/support/challenge") as response:
        press()
    uuid: str = response.value.json()["uuid"]
    visitor.page.wait_for_selector("#challenge:visible")
    return uuid


@pytest.mark.parametrize("form", ["/{pin}", "/#cobrowse_pin={pin}", "/?{pin}", "/{pin}#token=secret"])
def test_every_form_of_a_link_with_a_pin_leads_to_the_session(daemon: Daemon, visit: Visit, form: str) -> None:
    made = daemon.make(type="cobrowse", label="With a PIN")
    guest = visit(daemon.url + form.format(pin=made["pin"]))
    guest.give_name("Bob")
    guest.expect("in")
    eventually(lambda: people(guest) == ["Bob"])


# --- from the knock to the end ----------------------------------------------------------------------------------------


def test_two_guests_and_a_host_meet_from_the_knock_to_the_end(daemon: Daemon, visit: Visit, knocked: JSON) -> None:
    bob = visit(knocked["user"])
    bob.give_name("Bob")
    bob.expect("knock")
    assert "Anna Agent" in bob.text()
    check(bob, "knock")

    host = visit(knocked["host"])
    host.expect("name")
    assert host.page.get_by_label("Your name").input_value() == "Anna Agent"
    host.press("Enter")
    host.expect("in")
    eventually(lambda: knocking(host) == ["Bob"])
    assert host.page.title().startswith("(1) ")
    carol = visit(knocked["user"], locale="de-AT")
    carol.expect("name")
    carol.page.get_by_label("Ihr Name").fill("Carol")
    carol.press("Eintreten")
    carol.expect("knock")
    check(carol, "knock-german")
    eventually(lambda: knocking(host) == ["Bob", "Carol"])
    assert "Carol is at the door" in eventually(host.spoken)
    check(host, "host")

    host.press("Let Bob in")
    bob.expect("in")
    eventually(lambda: people(bob) == ["Anna Agent", "Bob"])
    check(bob, "in")
    host.press("Refuse Carol")
    carol.expect("denied")
    check(carol, "denied")
    carol.press("Noch einmal fragen")
    carol.expect("knock")
    eventually(lambda: knocking(host) == ["Carol"])
    host.press("Let Carol in")
    carol.expect("in")
    eventually(lambda: people(host) == ["Anna Agent", "Bob", "Carol"])

    host.press("Remove Carol from the session")
    host.page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    carol.expect("removed")
    check(carol, "removed")
    eventually(lambda: people(bob) == ["Anna Agent", "Bob"])

    host.press("End for everybody")
    check(host, "end")
    host.press("Keep it open")
    assert host.state() == "in"
    host.press("End for everybody")
    host.press("End it")
    for each, sentence in ((host, "You have ended the session"), (bob, "The host has ended the session")):
        each.expect("over")
        assert sentence in each.text()
    check(bob, "over")
    assert daemon.session(knocked["id"])["status"] == "closed"


def test_a_host_who_admits_somebody_who_has_gone_gets_a_notice(daemon: Daemon, visit: Visit, knocked: JSON) -> None:
    host, bob = visit(f"{daemon.url}/"), visit(knocked["user"])

    def drop_departure(socket: WebSocketRoute) -> None:
        """Forward all messages except the one that reports that Bob no longer waits."""
        server = socket.connect_to_server()
        server.on_message(lambda message: None if is_departure(str(message)) else socket.send(message))

    def is_departure(message: str) -> bool:
        return '"knocking"' in message and "Bob" not in message

    host.page.route_web_socket("**/v3/rooms/*", drop_departure)
    host.page.goto(knocked["host"])
    host.give_name("Anna")
    host.expect("in")
    bob.give_name("Bob")
    bob.expect("knock")
    eventually(lambda: knocking(host) == ["Bob"])
    bob.press("Stop waiting")
    bob.expect("left")
    host.press("Let Bob in")
    host.page.wait_for_selector("#notice", state="visible")
    assert "This person has gone" in host.page.locator("#notice").inner_text()
    check(host, "notice")
    host.press("Close")
    host.page.wait_for_selector("#notice", state="hidden")


def test_a_guest_leaves_and_comes_back(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make())
    bob, carol = visit(made["user"]), visit(made["user"])
    for each, name in ((bob, "Bob"), (carol, "Carol")):
        each.give_name(name)
        each.expect("in")
    eventually(lambda: people(bob) == ["Bob", "Carol"])
    bob.press("Leave")
    bob.expect("left")
    check(bob, "left")
    eventually(lambda: people(carol) == ["Carol"])
    assert "Bob has left" in eventually(carol.spoken)
    bob.press("Come back")
    bob.expect("in")
    eventually(lambda: people(carol) == ["Carol", "Bob"])


def test_nobody_answers_a_knock(start_daemon: StartDaemon, visit: Visit) -> None:
    daemon = start_daemon(rooms={"knock_timeout": "1s"})
    made = at(daemon, daemon.make(agentPrefs={"knock": True}))
    bob = visit(made["user"])
    bob.give_name("Bob")
    bob.expect("unanswered")
    check(bob, "unanswered")


# --- before and after -------------------------------------------------------------------------------------------------


def test_an_early_guest_sees_the_countdown_and_enters_automatically(start_daemon: StartDaemon, visit: Visit) -> None:
    daemon = start_daemon(lifecycle={"lead": "10m"})
    made = at(daemon, daemon.make(startTime=start_in(7200), userDescription="Anna Agent", label="Interview"))
    bob = visit(made["user"], timezone_id="America/New_York")
    bob.give_name("Bob")
    bob.expect("early")
    for part in ("Interview", "Anna Agent", "Starts", "Doors open", re.compile("E[SD]T|GMT-[45]")):
        assert re.search(part, bob.text()), part
    assert re.fullmatch(r"1:\d\d:\d\d", eventually(bob.page.locator(".countdown strong").inner_text))
    check(bob, "early")

    answer = daemon.put(f"/supportsession/{made['id']}", {"startTime": start_in(10800)})
    assert answer.status_code == 200
    eventually(lambda: "This session was moved" in bob.text())
    eventually(lambda: re.fullmatch(r"2:\d\d:\d\d", bob.page.locator(".countdown strong").inner_text()))
    check(bob, "moved")

    daemon.put(f"/supportsession/{made['id']}", {"startTime": start_in(602)})
    bob.expect("in")
    eventually(lambda: people(bob) == ["Bob"])


def test_the_page_reports_a_cancellation_to_waiting_guests(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make(startTime=start_in(7200)))
    bob = visit(made["user"])
    bob.give_name("Bob")
    bob.expect("early")
    daemon.delete(f"/supportsession/{made['id']}")
    bob.expect("over")
    assert "cancelled" in bob.text()


@pytest.mark.parametrize(
    ("lifecycle", "enters", "reason"),
    [
        ({"new_timeout": "1s"}, False, "Nobody came in time"),
        ({"max_active": "2s"}, True, "time limit"),
    ],
)
def test_the_page_shows_the_reason_if_a_time_limit_ends_the_session(
    start_daemon: StartDaemon, visit: Visit, lifecycle: JSON, enters: bool, reason: str
) -> None:
    daemon = start_daemon(lifecycle=lifecycle)
    made = at(daemon, daemon.make())
    if not enters:
        eventually(lambda: daemon.session(made["id"])["status"] == "closed")
    bob = visit(made["user"])
    if enters:
        bob.give_name("Bob")
    bob.expect("over")
    assert reason in bob.text()
    bob.press("Enter another PIN")
    bob.expect("pin")
    assert bob.page.url == f"{daemon.url}/"


def test_the_page_shows_that_the_session_was_closed_while_empty(start_daemon: StartDaemon, visit: Visit) -> None:
    daemon = start_daemon(lifecycle={"empty_timeout": "1s"})
    made = at(daemon, daemon.make())
    bob = visit(made["user"])
    bob.give_name("Bob")
    bob.expect("in")
    bob.press("Leave")
    bob.expect("left")
    eventually(lambda: daemon.session(made["id"])["status"] == "closed")
    bob.press("Come back")
    bob.expect("over")
    assert "Everybody had left" in bob.text()
    check(bob, "over-empty")


@pytest.mark.parametrize(
    ("by", "sentence"),
    [
        ("anna", "The person who set up the session has ended it"),
        ("supervisor", "The operators of this service have ended the session"),
        ("command", "The operators of this service have ended the session"),
    ],
)
def test_the_page_shows_who_has_ended_the_session(daemon: Daemon, visit: Visit, by: str, sentence: str) -> None:
    made = at(daemon, daemon.make(by="anna"))
    bob = visit(made["user"])
    bob.give_name("Bob")
    bob.expect("in")
    if by == "command":
        assert daemon.command("close", made["id"]).returncode == 0
    else:
        assert daemon.delete(f"/supportsession/{made['id']}", by=by).status_code == 200
    bob.expect("over")
    assert sentence in bob.text()
    bob.page.goto(made["user"])  # the same to people who open the link later
    bob.expect("over")
    assert sentence in bob.text()


def test_an_error_that_does_not_pass_is_said_and_can_be_tried_again(make_daemon: StartDaemon, visit: Visit) -> None:
    daemon = make_daemon()
    daemon.start()
    made = at(daemon, daemon.make())
    bob = visit(made["user"])
    bob.expect("name")
    with closing(sqlite3.connect(daemon.state / "tminus.db", isolation_level=None)) as database:
        database.execute("CREATE TRIGGER broken BEFORE INSERT ON presence BEGIN SELECT RAISE(ABORT, 'broken'); END")
        bob.give_name("Bob")
        bob.expect("failed")
        check(bob, "failed")
        assert len(daemon.log_lines("http.failed")) == 3
        assert daemon.session(made["id"])["participants"] == 0
        database.execute("DROP TRIGGER broken")
    bob.press("Try again")
    bob.expect("in")
    eventually(lambda: people(bob) == ["Bob"])


def test_the_page_reports_a_link_to_no_session(daemon: Daemon, visit: Visit) -> None:
    for path in ("/?ABCDEF", "/nothing.here"):
        guest = visit(f"{daemon.url}{path}")
        guest.expect("missing")
        check(guest, "missing")
        guest.press("Enter a PIN")
        guest.expect("pin")


def test_marks_of_text_direction_in_a_name_do_no_harm(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make(userDescription=f"\u200fAnna Agent\u200e {'x' * 100}"))
    host, guest = visit(made["host"]), visit(made["user"])
    host.expect("name")
    host.press("Enter")
    host.expect("in")
    guest.give_name("\u202aعلی\u200cرضا\u202c\ufeff")
    guest.expect("in")
    eventually(lambda: people(guest) == [f"Anna Agent {'x' * 69}", "علی\u200cرضا"])


def test_the_page_reports_a_full_session(start_daemon: StartDaemon, visit: Visit) -> None:
    daemon = start_daemon(limits={"participants_per_session": 1})
    made = at(daemon, daemon.make())
    first, second = visit(made["user"]), visit(made["user"])
    first.give_name("Bob")
    first.expect("in")
    second.give_name("Carol")
    second.expect("full")
    check(second, "full")
    first.press("Leave")
    first.expect("left")
    second.press("Try again")
    second.expect("in")


def test_after_too_many_wrong_links_the_page_counts_down(start_daemon: StartDaemon, visit: Visit) -> None:
    daemon = start_daemon(limits={"failed_tokens": "1/hour"})
    guest = visit(f"{daemon.url}/?ABCDEF")
    guest.expect("missing")
    guest.page.goto(f"{daemon.url}/?ABCDEG")
    guest.expect("busy")
    eventually(lambda: re.search(r"Next attempt in \d+ seconds?", guest.text()))
    check(guest, "busy")


def test_the_page_reports_that_the_people_are_in_another_system(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make())
    assert daemon.join(made["id"]).status_code == 200
    guest = visit(made["user"])
    guest.give_name("Bob")
    guest.expect("otherroom")
    check(guest, "otherroom")


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_secrets_of_a_link_leave_the_address_bar_and_no_request_has_them(
    daemon: Daemon, visit: Visit, knocked: JSON
) -> None:
    key = knocked["host"].partition("#host=")[2]
    host = visit(knocked["host"])
    host.give_name("Anna")
    host.expect("in")
    assert host.page.url == f"{daemon.url}/?{knocked['id']}"
    for request in host.requests:
        assert key not in request.url
        assert key not in str(request.all_headers())
    assert key not in host.page.content()
    assert key not in daemon.log_text
    assert host.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    # After a reload, the page still enters as host, with the key that the tab has stored.
    host.page.reload()
    host.expect("in")
    assert host.page.get_by_role("button", name="End for everybody").is_visible()


def test_a_token_of_another_system_is_dropped(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make())
    secret = daemon.token
    guest = visit(f"{made['user']}#token={secret}")
    sent: list[str] = []
    guest.page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(str(frame))))
    guest.expect("name")
    assert "the key in it was not used" in guest.text()
    guest.give_name("Bob")
    guest.expect("in")
    assert sent
    assert not [frame for frame in sent if secret in frame]
    assert not [request.url for request in guest.requests if secret in request.url]
    assert secret not in guest.page.url + guest.page.evaluate("JSON.stringify(sessionStorage)")


def test_a_wrong_host_key_is_reported_and_the_person_can_enter_as_a_guest(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make())
    guest = visit(f"{made['user']}#host={'x' * 32}")
    guest.give_name("Bob")
    guest.expect("hostkey")
    check(guest, "hostkey")
    guest.press("Enter as a guest")
    guest.give_name("Bob")
    guest.expect("in")
    assert not guest.page.get_by_role("button", name="End for everybody").is_visible()


def test_the_page_reports_to_a_host_that_their_agent_is_removed(start_daemon: StartDaemon, visit: Visit) -> None:
    daemon = start_daemon()
    made = at(daemon, daemon.make(by="anna"))
    host = visit(made["host"])
    host.give_name("Anna")
    host.expect("in")
    tables = daemon.config.read_text().split("[[agents]]")
    daemon.config.write_text("[[agents]]".join(one for one in tables if '"anna@example.com"' not in one))
    daemon.signal(signal.SIGHUP)
    host.expect("revoked")
    check(host, "revoked")
    again = visit(made["host"])
    again.give_name("Anna")
    again.expect("revoked")
    again.press("Enter as a guest")
    again.give_name("Anna")
    again.expect("in")
    assert not again.page.get_by_role("button", name="End for everybody").is_visible()


def test_texts_of_others_are_only_text(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make(label=HOSTILE, userDescription=f"A{HOSTILE}", agentPrefs={"knock": True}))
    host, guest = visit(made["host"]), visit(made["user"])
    host.expect("name")
    host.press("Enter")
    host.expect("in")
    guest.expect("name")
    assert f"A{HOSTILE}" in guest.text()
    guest.give_name(f"B{HOSTILE}")
    eventually(lambda: knocking(host) == [f"B{HOSTILE}"])
    host.press(f"Let B{HOSTILE} in")
    guest.expect("in")
    assert guest.heading() == HOSTILE
    eventually(lambda: people(guest) == [f"A{HOSTILE}", f"B{HOSTILE}"])
    for each in (host, guest):
        assert each.page.locator('img[src="x"]').count() == 0
        check(each, "hostile")


# --- lost connections -------------------------------------------------------------------------------------------------


def test_a_reload_is_the_same_participant_and_records_nothing(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make())
    bob = visit(made["user"])
    bob.give_name("Bob")
    bob.expect("in")
    before = daemon.events(made["id"])
    for _ in range(3):
        bob.page.reload()
        bob.expect("in")
        eventually(lambda: people(bob) == ["Bob"])
    assert daemon.events(made["id"]) == before


def test_a_reload_keeps_the_place_at_the_door(daemon: Daemon, visit: Visit, knocked: JSON) -> None:
    host, bob = visit(knocked["host"]), visit(knocked["user"])
    host.give_name("Anna")
    host.expect("in")
    bob.give_name("Bob")
    bob.expect("knock")
    eventually(lambda: knocking(host) == ["Bob"])
    before = daemon.events(knocked["id"])
    bob.page.reload()
    bob.expect("knock")
    assert daemon.events(knocked["id"]) == before
    bob.press("Stop waiting")
    bob.expect("left")
    eventually(lambda: knocking(host) == [])
    assert not host.page.title().startswith("(")


def test_a_reload_before_the_opening_does_not_ask_for_the_name_again(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make(startTime=start_in(7200)))
    bob = visit(made["user"])
    bob.give_name("Bob")
    bob.expect("early")
    bob.page.reload()
    bob.expect("early")


def test_a_daemon_that_is_killed_and_started_again_finds_everybody_back(
    start_daemon: StartDaemon, visit: Visit
) -> None:
    port = free_port()
    daemon = start_daemon(server={"listen": f"127.0.0.1:{port}"})
    made = at(daemon, daemon.make())
    host, bob = visit(made["host"]), visit(made["user"])
    for each, name in ((host, "Anna"), (bob, "Bob")):
        each.give_name(name)
        each.expect("in")
    eventually(lambda: people(bob) == ["Anna", "Bob"])
    before = daemon.events(made["id"])
    daemon.kill()
    bob.page.wait_for_selector("#lost", state="visible")
    assert "The connection is lost" in eventually(bob.spoken)
    check(bob, "lost")
    daemon.start()
    for each in (host, bob):
        each.page.wait_for_selector("#lost", state="hidden")
        assert each.state() == "in"
        eventually(lambda each=each: people(each) == ["Anna", "Bob"])  # type: ignore[misc]
    assert daemon.events(made["id"]) == before
    daemon.delete(f"/supportsession/{made['id']}")
    for each in (host, bob):
        each.expect("over")


def test_two_tabs_of_one_visitor_are_one_participant_at_a_time(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make())
    bob = visit(made["user"])
    bob.give_name("Bob")
    bob.expect("in")
    stored = bob.page.evaluate("JSON.stringify(sessionStorage)")
    # A browser that duplicates a tab copies its session storage.
    second = bob.context.new_page()
    second.add_init_script(f"for (const [k, v] of Object.entries({stored})) sessionStorage.setItem(k, v)")
    second.goto(made["user"])
    second.wait_for_selector('main > [data-state="name"]', state="visible")
    assert bob.state() == "in"
    eventually(lambda: people(bob) == ["Bob"])


def test_people_on_two_daemons_are_in_one_room(database: str, start_daemon: StartDaemon, visit: Visit) -> None:
    first, second = (start_daemon(storage={"url": database}) for _ in range(2))
    made = first.make()
    bob, carol = visit(at(first, made)["user"]), visit(at(second, made)["user"])
    for each, name in ((bob, "Bob"), (carol, "Carol")):
        each.give_name(name)
        each.expect("in")
    eventually(lambda: people(bob) == ["Bob", "Carol"] and people(carol) == ["Bob", "Carol"])
    second.delete(f"/supportsession/{made['id']}")
    for each in (bob, carol):
        each.expect("over")


def test_a_copy_of_the_tab_in_another_profile_takes_over_its_connection(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make())
    bob = visit(made["user"])
    bob.give_name("Bob")
    bob.expect("in")
    stored = bob.page.evaluate("JSON.stringify(sessionStorage)")
    # Tabs in different profiles cannot exchange messages.
    other = visit(f"{daemon.url}/")
    other.page.evaluate(f"for (const [k, v] of Object.entries({stored})) sessionStorage.setItem(k, v)")
    other.page.goto(made["user"])
    other.expect("in")
    bob.expect("elsewhere")
    check(bob, "elsewhere")
    eventually(lambda: people(other) == ["Bob"])
    bob.press("Continue here")
    bob.expect("in")
    eventually(lambda: people(bob) == ["Bob", "Bob"])


def test_a_network_that_dies_without_a_sign_is_noticed(daemon: Daemon, visit: Visit) -> None:
    made = at(daemon, daemon.make())
    bob = visit(f"{daemon.url}/")
    bob.page.clock.install()
    bob.page.goto(made["user"])
    bob.give_name("Bob")
    bob.expect("in")
    before = daemon.events(made["id"])
    bob.context.set_offline(True)  # the WebSocket stays open
    bob.page.clock.fast_forward(16_000)
    bob.page.wait_for_selector("#lost", state="visible")
    bob.context.set_offline(False)
    bob.page.wait_for_selector("#lost", state="hidden")
    eventually(lambda: people(bob) == ["Bob"])
    assert daemon.events(made["id"]) == before


def test_guests_and_hosts_meet_on_host_names_of_their_own(start_daemon: StartDaemon, visit: Visit) -> None:
    port = free_port()
    guests, hosts = f"http://guests.localhost:{port}", f"http://hosts.localhost:{port}/index.html"
    server = {"listen": f"127.0.0.1:{port}", "public_url": f"http://127.0.0.1:{port}", "user_url": guests}
    daemon = start_daemon(server={**server, "host_url": hosts})
    for type_ in ("live", "support"):
        made = daemon.make(type=type_, userDescription="Anna")
        host, bob = visit(made["urls"]["host"]), visit(made["urls"]["user"])
        host.give_name("Anna")
        bob.give_name("Bob")
        for each in (host, bob):
            each.expect("in")
            eventually(lambda each=each: sorted(people(each)) == ["Anna", "Bob"])  # type: ignore[misc]
            check(each, f"names-{type_}")
        assert bob.page.url == f"{guests}/?{made['id']}"
        assert host.page.url == f"{hosts}?{made['id']}"


def test_people_meet_behind_a_proxy_that_removes_a_path(
    start_daemon: StartDaemon, visit: Visit, tmp_path: Path
) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}/tminus"
    daemon = start_daemon(server={"public_url": base, "host_url": f"{base}/index.html"})
    made = daemon.make(type="support", userDescription="Anna")
    with proxied(nginx, tmp_path, port, [daemon]):
        host, bob = visit(made["urls"]["host"]), visit(made["urls"]["user"])
        host.give_name("Anna")
        bob.give_name("Bob")
        for each in (host, bob):
            each.expect("in")
            eventually(lambda each=each: sorted(people(each)) == ["Anna", "Bob"])  # type: ignore[misc]
        assert host.page.url == f"{base}/index.html?{made['id']}"
        assert bob.page.url == f"{base}/?{made['id']}"


def test_the_page_works_with_the_keyboard_alone(daemon: Daemon, visit: Visit, knocked: JSON) -> None:
    host = visit(knocked["host"])
    host.expect("name")
    host.page.keyboard.press("Enter")  # the focus is in the field, which has the agent's name
    host.expect("in")
    bob = visit(knocked["user"])
    bob.expect("name")
    bob.page.keyboard.type("Bob")
    bob.page.keyboard.press("Enter")
    bob.expect("knock")
    eventually(lambda: knocking(host) == ["Bob"])
    host.page.keyboard.press("Tab")
    assert host.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Let Bob in"
    host.page.keyboard.press("Space")
    bob.expect("in")
    # The focus stays in the page when the pressed button has gone.
    eventually(lambda: host.page.evaluate("document.activeElement !== document.body"))


def test_the_pictures_of_the_readme_can_be_made_again(browser: Browser, tmp_path: Path) -> None:
    page_pictures.write(tmp_path, browser)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(page_pictures.NAMES)
    assert all(one.stat().st_size <= page_pictures.LARGEST for one in tmp_path.iterdir())
