"""The page for agents, in Debian's Chromium, with a real daemon.

`TMINUS_TEST_PICTURES` names a directory for screenshots of the page, on a phone and a desktop, light and dark.
"""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from playwright.sync_api import APIResponse, Browser, Locator, Page, Route, expect

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.test_behind_a_path import free_port, nginx, proxied
from tests.acceptance.test_pages import check
from tests.acceptance.times import from_now
from tests.support import browsers
from tests.support.browsers import CHROMIUM, DESKTOP, MISSING, PHONE, Visitor
from tests.support.databases import PostgresServer
from tminus.api import browser_session

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=MISSING)]

HOSTILE = "<img src=x onerror=alert(1)>&amp;{label}"

Visit = Callable[..., Visitor]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as one:
        yield one


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Return a function that signs an agent in, in a new window, and opens the page."""
    with ExitStack() as stack:

        def visit(daemon: Daemon, who: str = "anna", **options: Any) -> Visitor:
            visitor = stack.enter_context(browsers.visiting(browser, **options))
            visitor.page.goto(f"{daemon.url}/agent")
            sign_in(visitor.page, daemon, who)
            expect(visitor.page.locator("#lists")).to_be_visible()
            return visitor

        yield visit


@pytest.fixture
def desk(start_daemon: StartDaemon) -> Daemon:
    """A daemon with no sessions but those of the test. It keeps its port when it is started again."""
    port = free_port()
    public = f"http://127.0.0.1:{port}"
    # The tests use dates in 2037, so that they do not fail when a nearer date has passed.
    return start_daemon(server={"listen": f"127.0.0.1:{port}", "public_url": public}, lifecycle={"horizon": "36500d"})


def sign_in(page: Page, daemon: Daemon, who: str = "anna") -> None:
    page.locator("#token").fill(daemon.tokens[who])
    page.locator("#token").press("Enter")
    page.wait_for_url(f"{daemon.url}/agent")


def rows(page: Page, of: str) -> list[str]:
    """Return the labels in a list."""
    return page.locator(f'[data-rows="{of}"] .label').all_inner_texts()


def row(page: Page, label: str) -> Locator:
    return page.locator(".rows li:visible").filter(
        has=page.locator(".label", has_text=re.compile(f"^{re.escape(label)}$"))
    )


def expect_rows(page: Page, of: str, labels: list[str]) -> None:
    expect(page.locator(f'[data-rows="{of}"] .label')).to_have_text(labels)


# --- Signing in -------------------------------------------------------------------------------------------------------


def test_an_agent_who_is_not_signed_in_signs_in_and_comes_back(desk: Daemon, browser: Browser) -> None:
    with browsers.visiting(browser) as agent:
        agent.page.goto(f"{desk.url}/agent")
        assert "/goToAuth?back=agent" in agent.page.url
        agent.page.locator("#token").fill("wrong" * 8)
        agent.page.locator("#token").press("Enter")
        expect(agent.page.locator("#error")).to_be_visible()
        sign_in(agent.page, desk)
        expect(agent.page.locator('[data-field="agent"]')).to_have_text("Anna Agent")
        agent.press("Sign out")
        expect(agent.page.locator("#token")).to_be_visible()
        assert "/goToAuth?back=agent" in agent.page.url


def test_the_page_reports_the_end_of_the_agent_session_and_a_new_one_leads_back(desk: Daemon, visit: Visit) -> None:
    page = visit(desk).page
    other = visit(desk).page
    other.goto(f"{desk.url}/v3/auth/any/goToAuth")
    other.get_by_role("button", name="Sign out everywhere").click()
    other.locator("#token").wait_for()
    desk.make(by="anna", label="Somebody else made this")  # at its next read, the stream ends
    expect(page.locator("#ended")).to_be_visible()
    page.get_by_role("button", name="Sign in", exact=True).click()
    sign_in(page, desk)
    expect_rows(page, "open", ["Somebody else made this"])


def test_an_agent_without_the_right_to_see_sessions_gets_the_reason(desk: Daemon, browser: Browser) -> None:
    with browsers.visiting(browser) as agent:
        agent.page.goto(f"{desk.url}/agent")
        sign_in(agent.page, desk, "room")
        expect(agent.page.locator("#notice")).to_contain_text("Your roles do not include")
        expect(agent.page.locator("#reading")).to_be_hidden()
        check(agent, "agent-no-rights")


# --- Lists ------------------------------------------------------------------------------------------------------------


def test_sessions_are_listed_as_open_coming_and_past(desk: Daemon, visit: Visit) -> None:
    parent = {"externalMapping": "INC0042", "parentObject": {"id": "1", "name": "Printer is on fire"}}
    desk.make(by="anna", type="support", label="Printer", **parent)
    busy = desk.make(by="anna", label="Busy")
    desk.join(busy["id"])
    desk.make(by="anna", label="Later", startTime=from_now(days=2))
    desk.make(by="anna", label="Sooner", startTime=from_now(hours=3))
    desk.delete(f"/supportsession/{desk.make(by='anna', label='Done')['id']}")
    desk.make(by="ben", label="Of Ben")
    agent = visit(desk)
    assert rows(agent.page, "open") == ["Busy", "Printer"]
    assert rows(agent.page, "coming") == ["Sooner", "Later"]
    assert rows(agent.page, "past") == ["Done"]
    assert "Printer is on fire (INC0042)" in row(agent.page, "Printer").inner_text()
    assert "1 in it" in row(agent.page, "Busy").inner_text()
    check(agent, "agent-lists")


def test_what_others_do_appears_without_a_reload(desk: Daemon, visit: Visit) -> None:
    page = visit(desk).page
    expect_rows(page, "open", [])
    made = desk.make(by="anna", label="From a script")
    expect_rows(page, "open", ["From a script"])
    desk.join(made["id"])
    expect(row(page, "From a script").locator(".chip")).to_have_text("Active")
    desk.delete(f"/supportsession/{made['id']}")
    expect_rows(page, "past", ["From a script"])
    expect_rows(page, "open", [])
    # This session opens at its creation, because its lead time has begun.
    desk.make(by="anna", label="By the clock", startTime=(datetime.now(UTC) + timedelta(seconds=2)).isoformat())
    expect_rows(page, "open", ["By the clock"])


def test_what_happens_on_another_daemon_appears_without_a_reload(
    pg_server: PostgresServer, start_daemon: StartDaemon, visit: Visit
) -> None:
    with pg_server.database(empty=True) as database:
        first, second = (
            start_daemon(
                storage={"url": database.configured},
                server={"listen": f"127.0.0.1:{port}", "public_url": f"http://127.0.0.1:{port}"},
            )
            for port in (free_port(), free_port())
        )
        page = visit(first).page
        made = second.make(by="anna", label="From the other daemon")
        expect_rows(page, "open", ["From the other daemon"])
        second.delete(f"/supportsession/{made['id']}")
        expect_rows(page, "past", ["From the other daemon"])
        first.terminate()
        second.terminate()


def test_the_page_works_behind_a_proxy_that_removes_a_path(
    start_daemon: StartDaemon, browser: Browser, tmp_path: Path
) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}/tminus"
    daemon = start_daemon(server={"public_url": base})
    with proxied(nginx, tmp_path, port, [daemon]), browsers.visiting(browser) as agent:
        agent.page.goto(f"{base}/agent")
        agent.page.locator("#token").fill(daemon.tokens["anna"])
        agent.page.locator("#token").press("Enter")
        agent.page.wait_for_url(f"{base}/agent")
        new_session(agent, "Behind a proxy")
        agent.press("Create")
        expect(agent.page.locator("#detail")).to_be_visible()
        agent.page.keyboard.press("Escape")
        expect_rows(agent.page, "open", ["Behind a proxy"])
        made = daemon.make(by="anna", label="From a script")  # the stream passes the proxy, too
        expect_rows(agent.page, "open", ["From a script", "Behind a proxy"])
        daemon.delete(f"/supportsession/{made['id']}")
        expect_rows(agent.page, "past", ["From a script"])
        agent.press("Sign out")
        expect(agent.page.locator("#token")).to_be_visible()
        assert agent.page.url.startswith(f"{base}/v3/auth/")


def test_the_page_reports_a_lost_connection_and_then_shows_all_missed_changes(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    page = agent.page
    before = desk.make(by="anna", label="Before")
    expect_rows(page, "open", ["Before"])
    desk.kill()
    expect(page.locator("#lost")).to_contain_text("The connection is lost")
    check(agent, "agent-lost")
    desk.start()
    desk.delete(f"/supportsession/{before['id']}")
    desk.make(by="anna", label="Meanwhile")
    expect(page.locator("#lost")).to_be_hidden(timeout=30_000)
    expect_rows(page, "open", ["Meanwhile"])
    expect_rows(page, "past", ["Before"])


def test_a_change_that_was_missed_offline_is_shown_when_the_network_is_back(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    # Going offline does not end an open stream. A kill of the daemon ends it, so that the page connects again.
    agent.context.set_offline(offline=True)
    desk.kill()
    desk.start()
    expect(agent.page.locator("#lost")).to_be_visible()
    desk.make(by="anna", label="While offline")
    agent.context.set_offline(offline=False)
    expect_rows(agent.page, "open", ["While offline"])
    expect(agent.page.locator("#lost")).to_be_hidden()


def test_a_connection_that_dies_without_a_sign_is_noticed_and_what_was_found_is_read_again(
    desk: Daemon, visit: Visit
) -> None:
    made = [desk.make(by="anna", label=f"Wanted {number}") for number in range(51)]
    for one in made:
        desk.delete(f"/supportsession/{one['id']}")
    page = visit(desk).page
    page.clock.install()
    page.reload()
    page.locator("#search").fill("Wanted 0")  # not among the fifty that the page has read
    page.locator("#search").press("Enter")
    expect_rows(page, "found", ["Wanted 0"])
    desk.signal(signal.SIGSTOP)  # as when a computer sleeps: the connection stays open, and nothing arrives
    page.clock.fast_forward(130_000)
    expect(page.locator("#lost")).to_be_visible()
    desk.signal(signal.SIGCONT)
    desk.make(by="anna", label="Wanted 00")
    page.clock.fast_forward(15_000)
    expect(page.locator("#lost")).to_be_hidden()
    expect_rows(page, "found", ["Wanted 00", "Wanted 0"])


def test_a_hundred_sessions_stay_legible(desk: Daemon, visit: Visit) -> None:
    for number in range(100):
        desk.make(by="anna", type="support", label=f"Ticket {number:03} of a customer with a problem")
    for number in range(30):
        desk.make(by="anna", label=f"Meeting {number:03}", startTime=from_now(hours=1 + number))
    agent = visit(desk)
    page = agent.page
    expect(page.locator('[data-rows="open"] li')).to_have_count(100)
    assert page.locator('nav [data-count="open"]').inner_text() == "100"
    heights = page.locator('[data-rows="open"] li').evaluate_all("some => some.map(one => one.offsetHeight)")
    assert max(heights) <= 56
    # Only one session of a list has tab stops: its row, its link to join and its button to copy.
    assert page.locator('[data-rows="open"] [tabindex="0"]').count() == 3
    check(agent, "agent-hundred")


def test_more_sessions_than_a_page_are_shown_on_request(desk: Daemon, visit: Visit) -> None:
    for number in range(60):
        desk.delete(f"/supportsession/{desk.make(by='anna', label=f'Past {number}')['id']}")
    page = visit(desk).page
    assert len(rows(page, "past")) == 50
    page.locator('[data-more="past"] button').click()
    expect(page.locator('[data-rows="past"] li')).to_have_count(60)
    expect(page.locator('[data-more="past"]')).to_be_hidden()


def test_a_list_that_is_longer_than_the_page_counts_what_is_not_shown(desk: Daemon, visit: Visit) -> None:
    oldest = desk.make(by="anna", label="Oldest")
    for number in range(200):
        desk.make(by="anna", label=f"Open {number}")
    page = visit(desk).page
    count = page.locator('nav [data-count="open"]')
    expect(count).to_have_text("201")
    desk.delete(f"/supportsession/{oldest['id']}")
    expect(count).to_have_text("200")
    expect_rows(page, "past", ["Oldest"])


def test_a_supervisor_sees_the_whole_organization_live(desk: Daemon, visit: Visit) -> None:
    desk.make(by="anna", label="Of Anna")
    supervisor = visit(desk, "supervisor")
    expect_rows(supervisor.page, "open", ["Of Anna"])  # without the role agent, a supervisor sees all sessions
    desk.make(by="ben", label="Of Ben")
    expect_rows(supervisor.page, "open", ["Of Ben", "Of Anna"])
    assert "Ben" in row(supervisor.page, "Of Ben").locator(".aside").inner_text()
    check(supervisor, "agent-all")
    chief = visit(desk, "chief").page
    expect_rows(chief, "open", [])
    chief.get_by_label("Whole organization").check()
    expect_rows(chief, "open", ["Of Ben", "Of Anna"])
    desk.make(by="ben", label="Another of Ben")
    expect_rows(chief, "open", ["Another of Ben", "Of Ben", "Of Anna"])
    chief.get_by_label("Mine").check()
    expect_rows(chief, "open", [])


# --- Search -----------------------------------------------------------------------------------------------------------


def test_search_finds_by_pin_id_label_and_record(desk: Daemon, visit: Visit) -> None:
    parent = {"externalMapping": "INC0042", "parentObject": {"id": "1", "name": "Fire"}}
    support = desk.make(by="anna", type="support", label="Printer", **parent)
    desk.make(by="anna", label="Other")
    closed = desk.make(by="anna", label="Done long ago")
    desk.delete(f"/supportsession/{closed['id']}")
    foreign = desk.make(by="ben", type="support", label="Of Ben")
    agent = visit(desk)
    page, field = agent.page, agent.page.get_by_label("Search: PIN, id, label or record")
    pin = str(support["pin"])
    for words in (pin, f"{pin[:3]} {pin[3:]}", support["id"], "print", "inc0042", "fire"):
        field.fill("long ago")  # so that the search for these words must change the list
        expect_rows(page, "found", ["Done long ago"])
        field.fill(words)
        expect_rows(page, "found", ["Printer"])
    field.fill("long ago")
    field.press("Enter")
    expect_rows(page, "found", ["Done long ago"])
    for words in (foreign["id"], str(foreign["pin"])):
        field.fill("long ago")
        expect_rows(page, "found", ["Done long ago"])
        field.fill(words)
        field.press("Enter")
        expect(page.locator("#search-note")).to_contain_text("belongs to another agent")
        assert rows(page, "found") == []
    check(agent, "agent-found-foreign")
    field.fill("nothing like that")
    expect(page.locator("#search-note")).to_have_text("Nothing was found.")
    check(agent, "agent-search")
    field.press("Escape")
    expect(page.locator("#lists")).to_be_visible()


def test_what_was_found_stays_current(desk: Daemon, visit: Visit) -> None:
    made = desk.make(by="anna", label="Wanted")
    agent = visit(desk)
    page = agent.page
    page.locator("#search").fill("wanted")
    expect_rows(page, "found", ["Wanted"])
    desk.delete(f"/supportsession/{made['id']}")
    expect(row(page, "Wanted").locator(".chip")).to_have_text("Ended")
    check(agent, "agent-found")
    row(page, "Wanted").locator(".row").click()
    check(agent, "agent-detail-ended")


# --- One session ------------------------------------------------------------------------------------------------------


def test_a_session_is_closed_after_a_confirmation(desk: Daemon, visit: Visit) -> None:
    made = desk.make(by="anna", label="Printer")
    desk.join(made["id"])
    agent = visit(desk)
    page = agent.page
    row(page, "Printer").locator(".row").click()
    check(agent, "agent-detail")
    agent.press("End session")
    expect(page.locator("#close-text")).to_contain_text("1 in it")
    check(agent, "agent-close")
    agent.press("Keep it")
    assert desk.session(made["id"])["status"] == "active"
    agent.press("End session")
    agent.press("End it")
    expect_rows(page, "past", ["Printer"])
    assert desk.session(made["id"])["status"] == "closed"


def test_link_and_pin_are_copied(desk: Daemon, visit: Visit) -> None:
    made = desk.make(by="anna", type="support", label="Printer")
    agent = visit(desk)
    agent.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = agent.page
    row(page, "Printer").get_by_role("button", name="Copy the link of Printer").click()
    expect(page.locator("#note")).to_contain_text("is copied")
    assert page.evaluate("navigator.clipboard.readText()") == made["urls"]["user"]
    row(page, "Printer").locator(".row").press("p")
    expect(page.locator("#note")).to_contain_text("The PIN")
    assert page.evaluate("navigator.clipboard.readText()") == str(made["pin"])
    row(page, "Printer").locator(".row").click()
    page.get_by_role("button", name="Copy", exact=True).last.click()
    expect(page.locator("#detail-note")).to_contain_text("The link")
    assert page.evaluate("navigator.clipboard.readText()") == made["urls"]["user"]


def test_the_agent_joins_as_host_and_the_key_stays_in_the_fragment(desk: Daemon, visit: Visit) -> None:
    made = desk.make(by="anna", label="Meeting")
    agent = visit(desk)
    key = made["urls"]["host"].partition("#host=")[2]
    link = row(agent.page, "Meeting").get_by_role("link", name="Join Meeting as host")
    # Browsers keep the addresses of links in their history, so the link must not contain the host key.
    assert key not in agent.page.content()
    assert (link.get_attribute("href") or "").startswith(f"{made['urls']['user']}#from=")
    with agent.context.expect_page() as opened:
        link.click()
    room = opened.value
    sent: list[str] = []
    room.on("request", lambda request: sent.append(request.url))
    room.get_by_label("Your name").fill("Anna")
    room.get_by_label("Your name").press("Enter")
    expect(room.locator('[data-state="in"]')).to_be_visible()
    expect(row(agent.page, "Meeting").locator(".chip")).to_have_text("Active")
    expect(room.get_by_role("button", name="End for everybody")).to_be_visible()
    assert room.url == made["urls"]["user"]
    room.reload()
    expect(room.get_by_role("button", name="End for everybody")).to_be_visible()
    assert key
    assert not [url for url in sent if key in url]
    assert key not in "".join(str(line) for line in desk.log_lines())


def test_texts_of_others_are_shown_as_text(desk: Daemon, visit: Visit) -> None:
    parent = {"externalMapping": "<b>1</b>", "parentObject": {"id": "1", "name": HOSTILE}}
    desk.make(by="anna", label=HOSTILE, userDescription=HOSTILE, **parent)
    agent = visit(desk)
    row(agent.page, HOSTILE).locator(".row").click()
    assert agent.page.locator('[data-detail="host"]').inner_text() == HOSTILE
    agent.press("End session")
    assert agent.page.locator('[data-field="close-label"]').inner_text() == HOSTILE
    assert agent.page.locator("main img").count() == 0


# --- Creating ---------------------------------------------------------------------------------------------------------


def new_session(agent: Visitor, label: str, kind: str = "live") -> None:
    """Open the form, and fill in the first fields."""
    agent.page.get_by_role("button", name="New session").click()
    agent.page.locator("#create-type").select_option(kind)
    agent.page.get_by_label("Name", exact=True).fill(label)


def schedule(page: Page, date: str, time: str, form: str = "create") -> None:
    if form == "create":
        page.get_by_label("At a time").check()
    page.locator(f"#{form}-date").fill(date)
    page.locator(f"#{form}-time").fill(time)


def labelled(daemon: Daemon, label: str, by: str = "anna") -> list[JSON]:
    """Return the sessions with this label, ended ones too."""
    found = daemon.get("/supportsessions?limit=1000&status=new&status=scheduled&status=active&status=closed", by=by)
    return [one for one in found.json()["rows"] if one["label"] == label]


def test_a_session_is_created_with_the_fields_of_the_form(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    page = agent.page
    new_session(agent, "Printer", "support")
    page.get_by_label("Recording").check()
    page.get_by_text("Record and host").click()
    page.get_by_label("Number of the record").fill("INC0042")
    page.get_by_label("Name of the record").fill("Fire")
    page.get_by_label("Name of the host").fill("Desk")
    check(agent, "agent-create")
    agent.press("Create")
    expect(page.locator("#detail")).to_be_visible()
    expect(page.locator("#detail-note")).to_contain_text("The session is ready")
    [made] = labelled(desk, "Printer")
    assert page.locator("#detail-link").input_value() == made["urls"]["user"]
    assert (made["type"], made["externalMapping"], made["userDescription"]) == ("support", "INC0042", "Desk")
    assert made["parentObject"] == {"id": "INC0042", "name": "Fire"}
    assert made["settings"]["recording"] is True
    check(agent, "agent-created")


def test_the_form_offers_what_the_policy_leaves_to_the_agent(start_daemon: StartDaemon, visit: Visit) -> None:
    daemon = start_daemon(policy={"knock": "always", "audio": "agent", "recording": "never"})
    agent = visit(daemon)
    new_session(agent, "Meeting", "live")
    expect(agent.page.locator("#create-prefs label:visible")).to_have_text(["Audio"])
    agent.page.locator("#create-type").select_option("replay")
    expect(agent.page.locator("#create-prefs")).to_be_hidden()


def test_a_double_click_creates_one_session(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    new_session(agent, "Once")
    agent.page.get_by_role("button", name="Create", exact=True).dblclick()
    expect(agent.page.locator("#detail")).to_be_visible()
    assert len(labelled(desk, "Once")) == 1


def test_a_retry_after_a_lost_answer_creates_one_session(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    page = agent.page
    keys: list[str | None] = []

    def lose_the_answer(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        if len(keys) <= 2:
            route.fetch()  # the daemon executes the request; the page gets no answer
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/v3/supportsessions", lose_the_answer)
    new_session(agent, "Once")
    agent.press("Create")
    expect(page.locator('[data-field="create-progress"]')).to_contain_text("Trying again")
    check(agent, "agent-retry")
    expect(page.locator("#detail")).to_be_visible(timeout=20_000)
    assert len(labelled(desk, "Once")) == 1
    assert len(keys) == 3
    assert len(set(keys)) == 1


def create_without_answer(agent: Visitor, label: str) -> None:
    """Send the form, lose every answer, and reload the page."""

    def lose_the_answer(route: Route) -> None:
        route.fetch()
        route.abort("connectionreset")

    agent.page.route("**/v3/supportsessions", lose_the_answer)
    new_session(agent, label)
    agent.press("Create")
    expect(agent.page.locator('[data-field="create-progress"]')).to_be_visible()
    agent.page.reload()
    agent.page.unroute("**/v3/supportsessions")


def test_a_form_survives_a_reload_and_still_makes_one_session(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    page = agent.page
    create_without_answer(agent, "Once")
    expect(page.locator('[data-field="create-kept"]')).to_be_visible()
    check(agent, "agent-kept")
    assert page.get_by_label("Name", exact=True).input_value() == "Once"
    agent.press("Create")
    expect(page.locator("#detail")).to_be_visible()
    assert len(labelled(desk, "Once")) == 1


def test_a_form_survives_the_end_of_the_agent_session(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    page = agent.page
    new_session(agent, "Kept")
    desk.http.get(f"{desk.url}/v3/auth/signout", headers=cookie_headers(agent))
    agent.press("Create")
    expect(page.locator("#ended")).to_be_visible()
    page.get_by_role("button", name="Sign in", exact=True).click()
    sign_in(page, desk)
    expect(page.locator('[data-field="create-kept"]')).to_be_visible()
    agent.press("Create")
    expect(page.locator("#detail")).to_be_visible()
    assert len(labelled(desk, "Kept")) == 1


def cookie_headers(visitor: Visitor) -> dict[str, str]:
    """Return the headers with which the page of this window calls the API."""
    cookie = next(one for one in visitor.context.cookies() if one["name"].endswith("tminus"))
    return {"Cookie": f"{cookie['name']}={cookie['value']}", "X-CSRF-Token": browser_session.key_of(cookie["value"])}


def test_a_session_that_is_created_while_the_lists_are_read_stays(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    page = agent.page
    held: list[tuple[Route, APIResponse]] = []
    # The list is read before the session exists, and its answer arrives after the session was created.
    page.route("**/v3/supportsessions?*status=new*", lambda route: held.append((route, route.fetch())))
    page.reload()
    new_session(agent, "Meanwhile")
    agent.press("Create")
    expect(page.locator("#detail")).to_be_visible()
    assert held
    for route, answer in held:
        route.fulfill(response=answer)
    expect(page.locator("#lists")).to_be_visible()
    expect_rows(page, "open", ["Meanwhile"])
    expect(page.locator("#detail")).to_be_visible()


def test_a_changed_form_after_a_lost_answer_names_the_session_that_exists(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    page = agent.page
    create_without_answer(agent, "First")
    page.get_by_label("Name", exact=True).fill("Second")
    agent.press("Create")
    [first] = labelled(desk, "First")
    expect(page.locator("#create-error")).to_contain_text(first["id"])
    assert labelled(desk, "Second") == []


@pytest.mark.parametrize(("field", "value", "message"), [("label", "", "Please give the session a name")])
def test_a_missing_value_is_reported_at_its_field(
    desk: Daemon, visit: Visit, field: str, value: str, message: str
) -> None:
    agent = visit(desk)
    new_session(agent, value)
    agent.press("Create")
    expect(agent.page.locator(f"#create-{field}-error")).to_contain_text(message)
    assert agent.page.locator(f"#create-{field}").get_attribute("aria-invalid") == "true"
    check(agent, f"agent-missing-{field}")


def test_errors_of_the_api_are_shown_at_their_fields(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    page = agent.page
    new_session(agent, "Odd record")
    page.get_by_text("Record and host").click()
    page.get_by_label("Number of the record").fill("a?b")
    agent.press("Create")
    expect(page.locator("#create-externalMapping-error")).to_contain_text("must not contain")
    expect(page.locator("#create-error")).to_contain_text("Please correct what is marked")
    check(agent, "agent-refused")


def test_too_many_sessions_are_explained(start_daemon: StartDaemon, visit: Visit) -> None:
    daemon = start_daemon(limits={"sessions_per_agent": 1})
    daemon.make(by="anna", label="The one")
    agent = visit(daemon)
    new_session(agent, "Another")
    agent.press("Create")
    expect(agent.page.locator("#create-error")).to_contain_text("as many open sessions")
    check(agent, "agent-too-many")


# --- Time -------------------------------------------------------------------------------------------------------------


def test_a_session_is_scheduled_in_the_agents_own_zone(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk, timezone_id="America/New_York")
    new_session(agent, "Later")
    year = datetime.now(UTC).year + 1
    schedule(agent.page, f"{year}-01-15", "09:30")
    expect(agent.page.locator("#create-zone")).to_have_text("Your time zone: America/New_York, UTC−5")
    check(agent, "agent-schedule")
    agent.press("Schedule")
    expect_rows(agent.page, "coming", ["Later"])
    assert labelled(desk, "Later")[0]["startTime"] == f"{year}-01-15T14:30:00.000Z"


GAPS = [
    ("Europe/Vienna", "2037-03-29", "02:30", "02:00", "03:00"),
    ("America/New_York", "2037-03-08", "02:00", "02:00", "03:00"),
    ("Australia/Lord_Howe", "2037-10-04", "02:15", "02:00", "02:30"),
]


@pytest.mark.parametrize(("zone", "date", "time", "start", "end"), GAPS)
def test_a_time_in_the_gap_of_summer_time_is_refused_with_the_reason(
    desk: Daemon, visit: Visit, zone: str, date: str, time: str, start: str, end: str
) -> None:
    agent = visit(desk, timezone_id=zone)
    new_session(agent, "Never")
    schedule(agent.page, date, time)
    agent.press("Schedule")
    expect(agent.page.locator("#create-time-error")).to_contain_text(f"from {start} to {end}")
    assert agent.page.locator("#create-time").get_attribute("aria-invalid") == "true"
    assert labelled(desk, "Never") == []
    if zone == "Europe/Vienna":
        check(agent, "agent-gap")


@pytest.mark.parametrize(
    ("zone", "date", "time", "which", "start"),
    [
        ("Europe/Vienna", "2037-10-25", "02:30", "The first time: 02:30 (UTC+2)", "2037-10-25T00:30:00.000Z"),
        ("Europe/Vienna", "2037-10-25", "02:30", "The second time: 02:30 (UTC+1)", "2037-10-25T01:30:00.000Z"),
        ("Australia/Lord_Howe", "2037-04-05", "01:45", "The second time: 01:45 (UTC+10:30)",
         "2037-04-04T15:15:00.000Z"),
    ],
)  # fmt: skip
def test_the_form_asks_which_one_is_meant_if_a_time_comes_twice(
    desk: Daemon, visit: Visit, zone: str, date: str, time: str, which: str, start: str
) -> None:
    agent = visit(desk, timezone_id=zone)
    page = agent.page
    new_session(agent, "Twice")
    schedule(page, date, time)
    agent.press("Schedule")
    expect(page.locator("#create-time-error")).to_contain_text("comes twice")
    page.get_by_label(which).check()
    if "first" in which:
        check(agent, "agent-twice")
    agent.press("Schedule")
    expect_rows(page, "coming", ["Twice"])
    assert labelled(desk, "Twice")[0]["startTime"] == start
    # The form to reschedule shows the same moment again.
    page.get_by_role("button", name="Reschedule").click()
    assert page.locator("#move-which").get_by_label(which).is_checked()


@pytest.mark.parametrize("zone", ["Europe/Vienna", "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia", "UTC"])
def test_every_half_hour_of_two_years_converts_to_a_local_time_and_back(desk: Daemon, visit: Visit, zone: str) -> None:
    page = visit(desk, timezone_id=zone).page
    source = page.locator('script[type="module"]').get_attribute("src")
    wrong = page.evaluate(
        """async (source) => {
            const module = new URL(source.replace("agent.js", "agent-time.js"), location.href);
            const { moments, inputs } = await import(module);
            const wrong = [];
            for (let at = Date.UTC(2027, 0, 1); at < Date.UTC(2029, 0, 1); at += 1800_000) {
                const { date, time } = inputs(at);
                const found = moments(date, time);
                if (!found.moments.includes(at) || found.gap || found.moments.length > 2) wrong.push([at, date, time]);
            }
            return wrong;
        }""",
        source,
    )
    assert wrong == []


def test_a_start_in_the_past_is_refused_at_the_field(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    new_session(agent, "Past")
    schedule(agent.page, "2020-01-01", "12:00")
    agent.press("Schedule")
    expect(agent.page.locator("#create-time-error")).to_contain_text("in the past")


def test_a_session_is_rescheduled(desk: Daemon, visit: Visit) -> None:
    made = desk.make(by="anna", label="Later", startTime="2037-05-05T10:00:00Z")
    agent = visit(desk)
    page = agent.page
    row(page, "Later").locator(".row").press("m")
    assert page.locator("#move-date").input_value() == "2037-05-05"
    assert page.locator("#move-time").input_value() == "12:00"
    schedule(page, "2037-06-06", "13:00", "move")
    check(agent, "agent-move")
    page.locator("#move-dialog").get_by_role("button", name="Reschedule").click()
    expect(page.locator("#detail-note")).to_contain_text("new start")
    assert desk.session(made["id"])["startTime"] == "2037-06-06T11:00:00.000Z"


def test_a_reschedule_that_meets_another_change_is_refused_and_can_be_repeated(desk: Daemon, visit: Visit) -> None:
    made = desk.make(by="anna", label="Later", startTime="2037-05-05T10:00:00Z")
    agent = visit(desk)
    page = agent.page
    row(page, "Later").locator(".row").press("m")
    desk.put(f"/supportsession/{made['id']}", {"startTime": "2037-07-07T10:00:00Z"})
    schedule(page, "2037-06-06", "13:00", "move")
    button = page.locator("#move-dialog").get_by_role("button", name="Reschedule")
    button.click()
    expect(page.locator("#move-error")).to_contain_text("Somebody else has changed")
    check(agent, "agent-changed")
    assert desk.session(made["id"])["startTime"] == "2037-07-07T10:00:00.000Z"
    button.click()
    expect(page.locator("#detail")).to_be_visible()
    assert desk.session(made["id"])["startTime"] == "2037-06-06T11:00:00.000Z"


def test_a_reschedule_whose_answer_is_lost_succeeds(desk: Daemon, visit: Visit) -> None:
    made = desk.make(by="anna", label="Later", startTime="2037-05-05T10:00:00Z")
    page = visit(desk).page
    lost: list[APIResponse] = []

    def lose_the_answer(route: Route) -> None:
        if route.request.method == "PUT" and not lost:
            lost.append(route.fetch())
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/v3/supportsession/*", lose_the_answer)
    row(page, "Later").locator(".row").press("m")
    schedule(page, "2037-06-06", "13:00", "move")
    page.locator("#move-dialog").get_by_role("button", name="Reschedule").click()
    expect(page.locator("#detail")).to_be_visible(timeout=20_000)
    assert desk.session(made["id"])["startTime"] == "2037-06-06T11:00:00.000Z"
    assert lost


# --- The day ----------------------------------------------------------------------------------------------------------


def place(page: Page, label: str) -> dict[str, float]:
    """Return the position of a session's bar."""
    box = page.locator("#day-items .item").filter(has_text=label).locator(".bar").bounding_box()
    assert box is not None
    return {"x": box["x"], "y": box["y"]}


NOON = datetime(2037, 6, 15, 10, tzinfo=UTC)
"""12:00 in Vienna."""


def test_a_day_is_a_timeline_in_the_agents_zone(desk: Daemon, visit: Visit) -> None:
    for label, hours in (("Noon", 0), ("Two", 2), ("Overlaps", 2.25), ("Late", 9)):
        desk.make(by="anna", label=label, startTime=(NOON + timedelta(hours=hours)).isoformat())
    desk.make(by="anna", label="Another day", startTime=(NOON + timedelta(days=1)).isoformat())
    agent = visit(desk)
    page = agent.page
    page.get_by_label("Show this day").fill("2037-06-15")
    expect(page.locator("#day-items text")).to_have_text(["12:00 Noon", "14:00 Two", "14:15 Overlaps", "21:00 Late"])
    assert page.locator("#day-name").inner_text() == "Monday, 15 June 2037"
    noon, two, overlapping, late = (place(page, label) for label in ("Noon", "Two", "Overlaps", "Late"))
    hour = (two["x"] - noon["x"]) / 2
    assert late["x"] - noon["x"] == pytest.approx(9 * hour, abs=1.5)
    assert overlapping["y"] > two["y"]
    assert noon["y"] == two["y"]
    check(agent, "agent-day")
    page.get_by_role("button", name="Next day").click()
    expect(page.locator("#day-items text")).to_have_text(["12:00 Another day"])
    page.get_by_role("button", name="Previous day").click()
    expect(page.locator("#day-items .item")).to_have_count(4)
    page.get_by_role("button", name="Next day").click()
    page.get_by_role("button", name="Next day").click()
    expect(page.locator("#day-empty")).to_be_visible()


def test_today_shows_what_is_open_what_ended_and_the_present(desk: Daemon, visit: Visit) -> None:
    ended = desk.make(by="anna", label="Ended")
    desk.delete(f"/supportsession/{ended['id']}")
    busy = desk.make(by="anna", label="Busy")
    desk.join(busy["id"])
    agent = visit(desk)
    page = agent.page
    expect(page.locator("#day-items .item")).to_have_count(2)
    assert page.locator("#day-now").get_attribute("visibility") == "visible"
    # The timeline is live, as the lists are.
    desk.make(by="anna", label="New one")
    expect(page.locator("#day-items .item")).to_have_count(3)
    desk.delete(f"/supportsession/{busy['id']}")
    expect(page.locator("#day-items .item").filter(has_text="Busy")).to_have_attribute("data-status", "closed")


def test_the_day_is_used_with_the_keyboard(desk: Daemon, visit: Visit) -> None:
    for hours in range(3):
        # In the browser's time zone, where the date may differ from the date in UTC.
        start = (datetime.now(ZoneInfo("Europe/Vienna")).replace(hour=10) + timedelta(days=3, hours=hours)).isoformat()
        desk.make(by="anna", label=f"Meeting {hours}", startTime=start)
    page = visit(desk).page
    for _ in range(3):
        page.keyboard.press("]")
    expect(page.locator("#day-items .item")).to_have_count(3)
    page.keyboard.press("t")
    focused = page.locator(":focus")
    expect(focused).to_contain_text("Meeting 0")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    expect(focused).to_contain_text("Meeting 2")
    assert page.locator('#day-items [tabindex="0"]').count() == 1
    page.keyboard.press("Enter")
    expect(page.locator("#detail-heading")).to_have_text("Meeting 2")
    page.keyboard.press("Escape")
    expect(focused).to_contain_text("Meeting 2")
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.closest('#day-chart')")


@pytest.mark.parametrize(("date", "hours"), [("2037-03-29", 23), ("2037-10-25", 25), ("2037-06-15", 24)])
def test_a_day_of_23_or_25_hours_has_them_all(desk: Daemon, visit: Visit, date: str, hours: int) -> None:
    midnight = datetime.fromisoformat(f"{date}T00:00:00").replace(tzinfo=ZoneInfo("Europe/Vienna")).astimezone(UTC)
    for label, after in (("First", timedelta(minutes=1)), ("Last", timedelta(hours=hours, minutes=-1))):
        desk.make(by="anna", label=label, startTime=(midnight + after).isoformat())
    page = visit(desk).page
    page.get_by_label("Show this day").fill(date)
    expect(page.locator("#day-items text")).to_have_text(["00:01 First", "23:59 Last"])
    assert page.locator("#day-axis line").count() == hours + 1


def test_a_day_of_a_hundred_sessions_is_seen_at_a_glance(desk: Daemon, visit: Visit) -> None:
    for number in range(100):
        start = NOON + timedelta(minutes=5 * number - 240)
        desk.make(by="anna", label=f"Customer {number:03}", startTime=start.isoformat())
    agent = visit(desk)
    page = agent.page
    page.get_by_label("Show this day").fill("2037-06-15")
    more = page.locator("#day-more")
    expect(more).to_be_visible()
    assert page.locator("#day-chart").evaluate("one => one.clientHeight") < 480
    check(agent, "agent-day-hundred")
    more.click()
    expect(page.locator("#day-items .item")).to_have_count(100)
    # No two labels overlap.
    boxes = page.locator("#day-items .ring").evaluate_all(
        "some => some.map(one => one.getBBox()).map(({ x, y, width }) => [x, y, width])"
    )
    for index, (x, y, width) in enumerate(boxes):
        for other_x, other_y, _ in boxes[index + 1 :]:
            assert y != other_y or other_x >= x + width or x >= other_x
    more.click()
    expect(more).to_have_text(re.compile("Show [0-9]+ more"))


def test_a_supervisor_sees_the_day_of_everybody(desk: Daemon, visit: Visit) -> None:
    desk.make(by="anna", label="Of Anna", startTime=NOON.isoformat())
    desk.make(by="ben", label="Of Ben", startTime=(NOON + timedelta(hours=1)).isoformat())
    page = visit(desk, "supervisor").page
    page.get_by_label("Show this day").fill("2037-06-15")
    expect(page.locator("#day-items text")).to_have_text(["12:00 Of Anna", "13:00 Of Ben"])


def test_labels_on_the_timeline_are_text(desk: Daemon, visit: Visit) -> None:
    desk.make(by="anna", label=HOSTILE)
    page = visit(desk).page
    expect(page.locator("#day-items text")).to_contain_text([re.compile(r"<img src=x.*…$")])
    assert HOSTILE in (page.locator("#day-items .item").get_attribute("aria-label") or "")
    assert page.locator("#day-chart [style], #day-chart img").count() == 0


# --- Keyboard, languages, sizes ---------------------------------------------------------------------------------------


def test_the_page_is_used_with_the_keyboard_alone(desk: Daemon, visit: Visit) -> None:
    for label in ("Third", "Second", "First"):
        desk.make(by="anna", label=label)
    agent = visit(desk)
    page = agent.page
    focused = page.locator(":focus")
    page.keyboard.press("1")
    expect(focused).to_contain_text("First")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(focused).to_contain_text("Third")
    page.keyboard.press("Enter")
    expect(page.locator("#detail")).to_be_visible()
    page.keyboard.press("Escape")
    expect(focused).to_contain_text("Third")
    page.keyboard.press("x")
    expect(page.locator("#close-dialog")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect_rows(page, "past", ["Third"])
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    check(agent, "agent-shortcuts")
    page.get_by_label("Use single-key shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert not page.locator("#search").evaluate("one => one === document.activeElement")


def test_no_key_leaves_the_focus_in_a_trap(desk: Daemon, visit: Visit) -> None:
    for number in range(3):
        desk.make(by="anna", label=f"Session {number}")
    page = visit(desk).page
    page.locator("body").focus()
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.outerHTML.slice(0, 80)"))
        if len(seen) > 1 and seen[-1].startswith("<body"):
            break
    assert any("search" in one for one in seen)
    assert any('class="row"' in one for one in seen)
    assert len(set(seen)) > 8


def test_live_changes_leave_the_focus_where_it_is_and_keys_type_in_fields(desk: Daemon, visit: Visit) -> None:
    made = [desk.make(by="anna", label=f"Session {number}") for number in range(3)]
    page = visit(desk).page
    field = page.locator("#search")
    field.focus()
    page.keyboard.type("n1t?[jx")
    for one in made[:2]:
        desk.join(one["id"])
    desk.make(by="anna", label="From elsewhere")
    expect(page.locator('nav [data-count="open"]')).to_have_text("4")
    assert field.evaluate("one => one === document.activeElement")
    assert field.input_value() == "n1t?[jx"
    assert page.locator("dialog[open]").count() == 0
    page.keyboard.press("Escape")
    row(page, "Session 2").locator(".row").focus()
    desk.join(made[2]["id"])
    expect(row(page, "Session 2").locator(".chip")).to_have_text("Active")
    expect(page.locator(":focus")).to_contain_text("Session 2")


def test_after_several_lost_connections_there_is_one_stream(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    page = agent.page
    for _ in range(2):
        desk.kill()
        expect(page.locator("#lost")).to_be_visible()
        desk.start()
        expect(page.locator("#lost")).to_be_hidden(timeout=30_000)
    made = desk.make(by="anna", label="Once")
    expect_rows(page, "open", ["Once"])
    desk.delete(f"/supportsession/{made['id']}")
    expect_rows(page, "past", ["Once"])
    reads = [one for one in agent.requests if one.url.endswith(f"/supportsession/{made['id']}")]
    assert len(reads) <= 4  # created, ready, closed: at most one read for each event, and one to spare


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_the_page_is_in_german(desk: Daemon, browser: Browser, size: dict[str, int]) -> None:
    desk.make(by="anna", type="support", label="Drucker")
    with browsers.visiting(browser, locale="de-AT", viewport=size) as agent:
        agent.page.goto(f"{desk.url}/agent")
        sign_in(agent.page, desk)
        expect(agent.page.locator("h1")).to_have_text("Ihre Sitzungen")
        expect(row(agent.page, "Drucker").locator(".chip")).to_have_text("Offen")
        check(agent, f"agent-german-{size['width']}")


# --- HTTP -------------------------------------------------------------------------------------------------------------


def test_no_other_site_can_read_the_page_or_frame_it(desk: Daemon) -> None:
    answer = httpx.get(f"{desk.url}/agent", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})
    assert answer.status_code == 403
