"""The page for agents, in Debian's Chromium, with a real daemon.

`TMINUS_TEST_PICTURES` names a directory for pictures of the page, on a phone and a desktop, light and dark.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.acceptance.test_behind_a_path import free_port
from tests.acceptance.test_pages import check
from tests.acceptance.times import from_now
from tests.support import browsers
from tests.support.browsers import CHROMIUM, DESKTOP, MISSING, PHONE, Visitor

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
    return start_daemon(server={"listen": f"127.0.0.1:{port}", "public_url": public})


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


def test_an_agent_session_that_has_ended_is_said_and_a_new_one_leads_back(desk: Daemon, visit: Visit) -> None:
    page = visit(desk).page
    other = visit(desk).page
    other.goto(f"{desk.url}/v3/auth/any/goToAuth")
    other.get_by_role("button", name="Sign out everywhere").click()
    other.locator("#token").wait_for()
    desk.make(by="anna", label="Somebody else made this")  # the stream notices at its next read
    expect(page.locator("#ended")).to_be_visible()
    page.get_by_role("button", name="Sign in", exact=True).click()
    sign_in(page, desk)
    expect_rows(page, "open", ["Somebody else made this"])


def test_an_agent_without_the_right_to_see_sessions_is_told(desk: Daemon, browser: Browser) -> None:
    with browsers.visiting(browser) as agent:
        agent.page.goto(f"{desk.url}/agent")
        sign_in(agent.page, desk, "room")
        expect(agent.page.locator("#notice")).to_contain_text("Your roles do not include")


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
    # The clock: it opens at once, since the lead time has begun.
    desk.make(by="anna", label="By the clock", startTime=(datetime.now(UTC) + timedelta(seconds=2)).isoformat())
    expect_rows(page, "open", ["By the clock"])


def test_a_lost_connection_is_said_and_heals_without_loss(desk: Daemon, visit: Visit) -> None:
    page = visit(desk).page
    before = desk.make(by="anna", label="Before")
    expect_rows(page, "open", ["Before"])
    desk.kill()
    expect(page.locator("#lost")).to_contain_text("The connection is lost")
    desk.start()
    desk.delete(f"/supportsession/{before['id']}")
    desk.make(by="anna", label="Meanwhile")
    expect(page.locator("#lost")).to_be_hidden(timeout=30_000)
    expect_rows(page, "open", ["Meanwhile"])
    expect_rows(page, "past", ["Before"])


def test_a_change_that_was_missed_offline_is_shown_when_the_network_is_back(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    # Offline does not end a stream that is open; ending it makes the page connect again.
    agent.context.set_offline(offline=True)
    desk.kill()
    desk.start()
    expect(agent.page.locator("#lost")).to_be_visible()
    desk.make(by="anna", label="While offline")
    agent.context.set_offline(offline=False)
    expect_rows(agent.page, "open", ["While offline"])
    expect(agent.page.locator("#lost")).to_be_hidden()


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
    # One stop of the Tab key for each list, and three for what can be done in it.
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


def test_a_supervisor_sees_the_whole_organization_live(desk: Daemon, visit: Visit) -> None:
    desk.make(by="anna", label="Of Anna")
    supervisor = visit(desk, "supervisor")
    expect_rows(supervisor.page, "open", ["Of Anna"])  # without the role agent there are no own ones
    desk.make(by="ben", label="Of Ben")
    expect_rows(supervisor.page, "open", ["Of Ben", "Of Anna"])
    assert "Ben" in row(supervisor.page, "Of Ben").locator(".aside").inner_text()
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
        field.fill(words)
        expect_rows(page, "found", ["Printer"])
    field.fill("long ago")
    field.press("Enter")
    expect_rows(page, "found", ["Done long ago"])
    for words in (foreign["id"], str(foreign["pin"])):
        field.fill(words)
        field.press("Enter")
        expect(page.locator("#search-note")).to_contain_text("belongs to another agent")
        assert rows(page, "found") == []
    field.fill("nothing like that")
    expect(page.locator("#search-note")).to_have_text("Nothing was found.")
    check(agent, "agent-search")
    field.press("Escape")
    expect(page.locator("#lists")).to_be_visible()


def test_what_was_found_stays_current(desk: Daemon, visit: Visit) -> None:
    made = desk.make(by="anna", label="Wanted")
    page = visit(desk).page
    page.locator("#search").fill("wanted")
    expect_rows(page, "found", ["Wanted"])
    desk.delete(f"/supportsession/{made['id']}")
    expect(row(page, "Wanted").locator(".chip")).to_have_text("Ended")


# --- One session ------------------------------------------------------------------------------------------------------


def test_a_session_is_closed_after_a_question(desk: Daemon, visit: Visit) -> None:
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
    link = row(agent.page, "Meeting").get_by_role("link", name="Join Meeting as host")
    assert link.get_attribute("href") == made["urls"]["host"]
    with agent.context.expect_page() as opened:
        link.click()
    room = opened.value
    sent: list[str] = []
    room.on("request", lambda request: sent.append(request.url))
    room.get_by_label("Your name").fill("Anna")
    room.get_by_label("Your name").press("Enter")
    expect(room.locator('[data-state="in"]')).to_be_visible()
    expect(row(agent.page, "Meeting").locator(".chip")).to_have_text("Active")
    key = made["urls"]["host"].partition("#host=")[2]
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


# --- Keyboard, languages, sizes ---------------------------------------------------------------------------------------


def test_the_page_is_used_with_the_keyboard_alone(desk: Daemon, visit: Visit) -> None:
    for label in ("Third", "Second", "First"):
        desk.make(by="anna", label=label)
    page = visit(desk).page
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
