"""Attacks on the page for agents, in Debian's Chromium, with a real daemon."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.daemons import Daemon
from tests.acceptance.test_agent_page import Visit, browser, desk, expect_rows, new_session, row, rows, sign_in, visit
from tests.acceptance.test_pages import check
from tests.support.browsers import CHROMIUM, MISSING, Visitor
from tests.support.waiting import eventually

__all__ = ["browser", "desk", "visit"]
"""Fixtures that `test_agent_page` defines."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=MISSING)]

REVERSED = "INC\u202e\u2066 (gpj.exe)"
"""A label whose control characters would reverse the text after it, beyond the end of its element."""


def content(page: Page) -> str:
    """Return the HTML of the page and the values of its fields: all that a person at the screen could find."""
    text: str = page.evaluate(
        "document.documentElement.outerHTML + [...document.querySelectorAll('input')].map(one => one.value)"
    )
    return text


def private_values(made: dict[str, Any]) -> list[str]:
    """Return the values of a session that nobody else may see."""
    return [made["label"], made["id"], made["urls"]["host"].partition("#host=")[2], made["userDescription"]]


# --- After the agent has left -----------------------------------------------------------------------------------------


def test_a_page_shows_no_session_after_a_sign_out_in_another_tab(desk: Daemon, visit: Visit) -> None:
    made = desk.make(by="anna", type="support", label="Secret", userDescription="A host")
    agent = visit(desk)
    page = agent.page
    row(page, "Secret").locator(".row").click()
    other = agent.context.new_page()
    other.goto(f"{desk.url}/v3/auth/any/goToAuth")
    other.get_by_role("button", name="Sign out", exact=True).click()
    other.locator("#token").wait_for()
    # No event is needed: the stream ends. It has a comment every 15 s.
    expect(page.locator("#ended")).to_be_visible(timeout=12_000)
    assert [one for one in private_values(made) if one in content(page)] == []
    check(agent, "agent-ended")
    page.keyboard.press("n")
    page.keyboard.press("/")
    page.get_by_role("button", name="Sign in", exact=True).click()
    sign_in(page, desk)
    expect_rows(page, "open", ["Secret"])


def test_a_form_is_not_shown_to_the_next_agent(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    page = agent.page
    new_session(agent, "Of Anna")
    other = agent.context.new_page()
    other.goto(f"{desk.url}/v3/auth/any/goToAuth")
    other.get_by_role("button", name="Sign out", exact=True).click()
    page.locator("#ended button").click()
    sign_in(page, desk, "ben")
    expect(page.locator("#lists")).to_be_visible()
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("JSON.stringify(sessionStorage)") == "{}"


def test_a_sign_out_forgets_the_form(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    page = agent.page
    new_session(agent, "Of Anna")
    page.reload()
    expect(page.locator("#create-dialog")).to_be_visible()
    page.evaluate("document.getElementById('create-dialog').close()")
    agent.press("Sign out")
    page.locator("#token").wait_for()
    assert page.evaluate("JSON.stringify([sessionStorage, localStorage])") == "[{},{}]"


def test_a_page_from_the_back_forward_cache_is_read_again(desk: Daemon, visit: Visit) -> None:
    desk.make(by="anna", label="Secret")
    agent = visit(desk)
    page = agent.page
    agent.context.clear_cookies()
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    page.locator("#token").wait_for()


# --- Untrusted text ---------------------------------------------------------------------------------------------------


def test_a_text_does_not_turn_the_text_around_it(desk: Daemon, visit: Visit) -> None:
    record = {"externalMapping": "R\u202e1", "parentObject": {"id": "1", "name": "N\u2067ame"}}
    made = desk.make(by="anna", type="support", label=REVERSED, userDescription="H\u202eost", **record)
    desk.make(by="anna", label="\u05e9\u05dc\u05d5\u05dd")
    agent = visit(desk)
    page = agent.page
    label = "INC (gpj.exe)"
    assert rows(page, "open") == ["\u05e9\u05dc\u05d5\u05dd", label]
    assert row(page, label).locator(".aside").inner_text() == "Name (R1)"
    row(page, label).locator(".row").press("c")
    expect(page.locator("#note")).to_have_text(f"The link of “{label}” is copied.")
    row(page, "\u05e9\u05dc\u05d5\u05dd").locator(".row").press("c")
    expect(page.locator("#note")).to_have_text("The link of “\u2068\u05e9\u05dc\u05d5\u05dd\u2069” is copied.")
    assert not re.search("[\u202a-\u202e\u2066\u2067]", content(page))
    desk.make(by="anna", label="By the\u202d stream")
    expect(row(page, "By the stream")).to_be_visible()
    page.goto(made["urls"]["user"])
    expect(page.locator('[data-state="name"] [data-field="label"]')).to_have_text(label)
    expect(page.locator('[data-state="name"] [data-field="host"]')).to_have_text("Host")


LONG = ["x" * 255, "\u6f22\u5b57" * 127, "\ufdfd" * 255, "z" + "\u0301" * 254, "\U0001f469\u200d" * 127, " "]


def test_long_and_odd_texts_stay_in_their_place(desk: Daemon, visit: Visit) -> None:
    for text in LONG:
        desk.make(by="anna", type="support", label=text, userDescription=text)
    agent = visit(desk)
    page = agent.page
    heights = page.locator('[data-rows="open"] li').evaluate_all("some => some.map(one => one.offsetHeight)")
    assert max(heights) <= 56
    check(agent, "agent-long")
    page.locator(".rows .row").nth(4).click()
    check(agent, "agent-long-detail")


# --- Secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [True, False])
def test_a_link_in_the_search_finds_its_session_and_its_key_stays_in_the_page(
    desk: Daemon, visit: Visit, scheme: bool
) -> None:
    made = desk.make(by="anna", type="support", label="Wanted")
    desk.make(by="anna", label="Other")
    agent = visit(desk)
    field = agent.page.locator("#search")
    links = [made["urls"]["host"], made["urls"]["user"]]
    for link in links:
        field.fill(link if scheme else link.partition("://")[2])
        field.press("Enter")
        if scheme or "#host=" in link:
            expect_rows(agent.page, "found", ["Wanted"])
    field.fill("a title of https://example.com/#host=abcdef")
    field.press("Enter")
    expect(agent.page.locator("#search-note")).to_have_text("Nothing was found.")
    sent = "".join(one.url for one in agent.requests)
    assert "search=" in sent
    assert not [one for one in (links[0].partition("#host=")[2], "abcdef", "%23host") if one in sent]


def test_a_ticket_is_worth_nothing_without_the_page_that_made_it(desk: Daemon, visit: Visit) -> None:
    made = desk.make(by="anna", type="support", label="Meeting", userDescription="Anna")
    other = desk.make(by="ben", type="support", label="Of Ben")
    agent = visit(desk)
    page = agent.page
    ticket = (row(page, "Meeting").locator(".join").get_attribute("href") or "").partition("#")[2]
    tab = agent.context.new_page()

    def enter(session: dict[str, Any], fragment: str) -> str:
        tab.goto("about:blank")
        tab.goto(f"{desk.url}/?{session['id']}#{fragment}")
        expect(tab.get_by_label("Your name")).to_be_visible()
        assert tab.url == f"{desk.url}/?{session['id']}"
        kept: str = tab.evaluate("Object.values(sessionStorage).join()")
        tab.evaluate("sessionStorage.clear()")
        return kept

    key = made["urls"]["host"].partition("#host=")[2]
    assert key in enter(made, ticket)
    assert "key" not in enter(made, "from=" + "0" * 32)
    assert "key" not in enter(other, ticket)
    expect(tab.locator('[data-field="no-key"]')).to_contain_text("you are a guest here")
    check(Visitor(tab, agent.context, agent.requests), "name-no-key")
    agent.press("Sign out")
    page.locator("#token").wait_for()
    assert "key" not in enter(made, ticket)


def test_a_page_that_opens_this_one_gets_no_hold_of_its_window(desk: Daemon, visit: Visit) -> None:
    agent = visit(desk)
    foreign = agent.context.new_page()
    foreign.goto(desk.url.replace("127.0.0.1", "localhost"))
    with agent.context.expect_page() as opened:
        foreign.evaluate(f"window.held = window.open('{desk.url}/agent', 'name')")
    expect(opened.value.locator("#lists")).to_be_visible()
    eventually(lambda: foreign.evaluate("held.closed"))
    assert opened.value.evaluate("[window.opener, window.name]") == [None, ""]


# --- Answers of a proxy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["<html>", "null", "{}", '{"user":null}', "7", ""])
def test_an_answer_that_is_not_the_daemons_counts_as_lost(desk: Daemon, visit: Visit, body: str) -> None:
    agent = visit(desk)
    page = agent.page
    page.route("**/v3/me", lambda route: route.fulfill(status=200, body=body, content_type="application/json"))
    page.reload()
    expect(page.locator("#notice")).to_contain_text("The server cannot be reached")
    page.unroute("**/v3/me")
    expect(page.locator("#lists")).to_be_visible(timeout=10_000)
    expect(page.locator("#notice")).to_be_hidden()
