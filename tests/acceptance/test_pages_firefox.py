"""The page for people who were invited, in Debian's Firefox: one session from the knock to the end."""

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.test_pages import at
from tests.support import firefox
from tests.support.firefox import ENTER, FIREFOX, MISSING, TAB, Firefox
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.skipif(FIREFOX is None, reason=MISSING)]


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    with firefox.firefox(tmp_path_factory.mktemp("firefox")) as one:
        yield one


def test_a_guest_and_a_host_meet_from_the_knock_to_the_end(start_daemon: StartDaemon, browser: Firefox) -> None:
    daemon = start_daemon(rooms={"reconnect": "2m", "restart": "2m"})  # long enough for a busy machine
    made = at(daemon, daemon.make(agentPrefs={"knock": True}, userDescription="Anna Agent"))
    host, bob = browser.window(made["host"]), browser.window(made["user"])
    host.expect("name")
    assert host.evaluate("location.href") == f"{daemon.url}/?{made['id']}"
    host.press(ENTER)  # the focus is in the field, which has the agent's name
    host.expect("in")

    bob.expect("name")
    bob.press(f"Bob{ENTER}")
    bob.expect("knock")
    eventually(lambda: "Let in" in host.text())
    host.press(TAB)
    assert host.focused() == "Let Bob in"
    host.press(" ")
    bob.expect("in")
    for each in (host, bob):
        eventually(lambda each=each: each.people() == ["Anna Agent", "Bob"])  # type: ignore[misc]

    before = daemon.events(made["id"])
    bob.reload()
    bob.expect("in")
    daemon.kill()
    eventually(lambda: "The connection is lost" in bob.text())
    port = daemon.url.rpartition(":")[2]
    daemon.config.write_text(daemon.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    daemon.start()
    for each in (host, bob):
        eventually(lambda each=each: "The connection is lost" not in each.text())  # type: ignore[misc]
        eventually(lambda each=each: each.people() == ["Anna Agent", "Bob"])  # type: ignore[misc]
    assert daemon.events(made["id"]) == before

    host.evaluate("document.querySelector('[data-action=\"end\"]').focus()")
    host.press(" ")
    host.press(f"{TAB} ")
    for each, sentence in ((host, "You have ended the session"), (bob, "The host has ended the session")):
        each.expect("over")
        assert sentence in each.text()
    assert daemon.session(made["id"])["status"] == "closed"
    assert browser.hosts() == {daemon.url.split("/")[2]}
    assert not [one for one in browser.problems() if "Content-Security-Policy" in one or "Error" in one]
