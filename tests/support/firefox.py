"""Debian's Firefox for tests of pages, controlled over WebDriver BiDi without a driver.

Playwright's support needs a newer Firefox than Debian's, and Selenium needs geckodriver, which Debian does not have.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.support.waiting import eventually

FIREFOX = shutil.which("firefox-esr")

MISSING = "NOT TESTED IN FIREFOX: firefox-esr is not installed"

ENTER, TAB = "\ue007", "\ue004"
"""Keys as WebDriver names them."""

_PREFERENCES = {
    "app.normandy.enabled": False,
    "browser.aboutwelcome.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "intl.accept_languages": "en-GB",
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
}
"""Prevents the browser's own requests, and the pages that it shows at its first start."""

_EVENTS = ["log.entryAdded", "network.beforeRequestSent"]

_SECONDS = 60.0
"""Maximum duration of a command: how long a failure takes."""


class Firefox:
    """A running browser. Commands are those of WebDriver BiDi."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def command(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result. Events that arrive meanwhile are kept."""
        self._last += 1
        self._connection.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=_SECONDS))
            if message["type"] == "event":
                self.events.append(message)
            elif message.get("id") == self._last:
                assert message["type"] == "success", message
                return message["result"]

    def window(self, url: str) -> "Window":
        """Open a window with cookies and storage of its own."""
        profile = self.command("browser.createUserContext")["userContext"]
        made = self.command("browsingContext.create", type="window", userContext=profile)
        window = Window(self, made["context"])
        window.go(url)
        return window

    def problems(self) -> list[str]:
        """Return errors of scripts, and what a content security policy has blocked."""
        logged = [event["params"] for event in self.events if event["method"] == "log.entryAdded"]
        return [str(one["text"]) for one in logged if one["level"] == "error"]

    def hosts(self) -> set[str]:
        """Return the hosts, with ports, of all requests of pages."""
        sent = [event["params"] for event in self.events if event["method"] == "network.beforeRequestSent"]
        return {one["request"]["url"].split("/")[2] for one in sent if one["context"]}


class Window:
    """A window of a person."""

    def __init__(self, firefox: Firefox, context: str) -> None:
        self._firefox = firefox
        self._context = context

    def go(self, url: str) -> None:
        self._firefox.command("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def reload(self) -> None:
        self._firefox.command("browsingContext.reload", context=self._context, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, which must be a string, a number or a boolean."""
        answer = self._firefox.command(
            "script.evaluate", expression=expression, target={"context": self._context}, awaitPromise=True
        )
        assert answer["type"] == "success", answer
        return answer["result"].get("value")

    def press(self, keys: str) -> None:
        """Press keys as a person does, one after the other."""
        self._firefox.command("browsingContext.activate", context=self._context)
        eventually(lambda: self.evaluate("document.hasFocus()"))  # otherwise the keys are lost
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        keyboard = {"type": "key", "id": "keyboard", "actions": actions}
        self._firefox.command("input.performActions", context=self._context, actions=[keyboard])

    def expect(self, state: str) -> None:
        """Wait until the page shows this state, and nothing else."""
        shown = "[...document.querySelectorAll('main > [data-state]')].filter(one => !one.hidden)"
        eventually(lambda: self.evaluate(f"{shown}.map(one => one.dataset.state).join()") == state)

    def text(self) -> str:
        """Return the text that the page shows."""
        found: str = self.evaluate("document.querySelector('main').innerText")
        return found

    def people(self) -> list[str]:
        found: str = self.evaluate(
            "[...document.querySelectorAll('[data-list=\"people\"] li .name')].map(one => one.innerText).join('|')"
        )
        return found.split("|")

    def focused(self) -> str:
        """Return the name of the element that has the focus."""
        found: str = self.evaluate("document.activeElement.ariaLabel ?? document.activeElement.innerText")
        return found


@contextmanager
def firefox(folder: Path) -> Iterator[Firefox]:
    """Run a browser with an empty profile until the block ends."""
    profile, output = folder / "profile", folder / "output"
    profile.mkdir()
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in _PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(lines))
    assert FIREFOX is not None
    arguments = [FIREFOX, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    with output.open("wb") as written:
        process = subprocess.Popen(arguments, stdout=written, stderr=written, env={"HOME": str(folder)})
    try:
        found = eventually(lambda: re.search(r"WebDriver BiDi listening on (ws://\S+)", output.read_text()), _SECONDS)
        assert found is not None
        with connect(f"{found[1]}/session", proxy=None, max_size=None) as connection:
            browser = Firefox(connection)
            browser.command("session.new", capabilities={})
            browser.command("session.subscribe", events=_EVENTS)
            yield browser
            browser.command("browser.close")
    finally:
        process.terminate()
        process.wait(_SECONDS)
