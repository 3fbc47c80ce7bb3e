"""Debian's Chromium for tests of pages, and checks that apply to every page.

`visiting` opens a page that records what it requests, what its console reports and what its policy blocks.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

CHROMIUM = shutil.which("chromium")

MISSING = "NOT TESTED IN A BROWSER: chromium is not installed"

_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

expect.set_options(timeout=30_000)  # the default of 5 s is not enough on a busy machine

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 800}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser until the block ends."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visitor:
    """A person with a browser window of their own."""

    page: Page
    context: BrowserContext
    requests: list[Request] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Errors of scripts, and what the content security policy blocked."""

    def state(self) -> str:
        """Return the state that the page shows."""
        shown = self.page.locator("main > [data-state]:visible")
        return ",".join(one.get_attribute("data-state") or "" for one in shown.all())

    def expect(self, state: str) -> None:
        """Wait until the page shows this state, and nothing else."""
        self.page.wait_for_selector(f'main > [data-state="{state}"]', state="visible", timeout=30_000)
        assert self.state() == state

    def heading(self) -> str:
        return self.page.locator("main > [data-state]:visible h1").inner_text()

    def text(self) -> str:
        return self.page.locator("main > [data-state]:visible").inner_text()

    def spoken(self) -> str:
        """Return what screen readers read last."""
        return self.page.locator("#announcement").inner_text()

    def press(self, name: str) -> None:
        """Press the visible button of this name."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def give_name(self, name: str) -> None:
        self.expect("name")
        self.page.get_by_label("Your name").fill(name)
        self.press("Enter")

    def inaccessible(self) -> list[str]:
        """Return what axe-core finds wrong with the page as it is now."""
        self.page.evaluate(AXE_FILE_PATH.read_text())
        found: Any = self.page.evaluate("axe.run().then(found => found.violations)")
        return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found]


@contextmanager
def visiting(browser: Browser, **options: Any) -> Iterator[Visitor]:
    """Open a window with a profile of its own. Its problems fail the test at the end of the block."""
    options = {"viewport": DESKTOP, "locale": "en-GB", "timezone_id": "Europe/Vienna", **options}
    context = browser.new_context(**options)
    page = context.new_page()
    visitor = Visitor(page, context)
    page.on("request", lambda request: visitor.requests.append(request))  # noqa: PLW0108 - playwright keeps attributes on it
    page.on("pageerror", lambda error: visitor.problems.append(f"script: {error}"))
    page.on(
        "console",
        lambda line: visitor.problems.append(line.text) if "Content Security Policy" in line.text else None,
    )
    try:
        yield visitor
        assert not visitor.problems, visitor.problems
    finally:
        if not page.is_closed():
            page.unroute_all(behavior="ignoreErrors")  # a request that a test holds back fails when the window closes
        context.close()
