"""Write docs/page-*.png: the page for people who were invited, of a real daemon. `make picture` runs this."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from tests.acceptance.daemons import Daemon
from tests.support import browsers
from tests.support.browsers import Visitor
from tests.support.waiting import eventually
from tminus import clock
from tminus.domain import timestamps

DOCS = Path(__file__).parents[2] / "docs"

NAMES = ("page-early.png", "page-door.png", "page-in.png")

VIEWPORT = {"width": 400, "height": 640}

LARGEST = 60_000
"""Maximum bytes of a picture, because every clone of the repository contains all pictures."""


def write(folder: Path, browser: Browser) -> None:
    """Write the pictures: a guest who is early, a host while a guest knocks, and people in a session."""
    with _daemon() as daemon, ExitStack() as stack:

        def visit(link: str, scheme: str = "light") -> Visitor:
            options: dict[str, Any] = {"viewport": VIEWPORT, "color_scheme": scheme}
            visitor = stack.enter_context(browsers.visiting(browser, **options))
            visitor.page.goto(f"{daemon.url}/{link.partition('//')[2].partition('/')[2]}")
            return visitor

        for name, show in zip(NAMES, (_early, _door, _inside), strict=True):
            shown = show(daemon, visit)
            shown.page.mouse.move(0, 0)  # away from the button that was pressed
            shown.page.screenshot(path=folder / name, animations="disabled")


Visit = Callable[..., Visitor]


@contextmanager
def _daemon() -> Iterator[Daemon]:
    daemon = Daemon(organization={"name": "Example Support"})
    try:
        daemon.start()
        yield daemon
        assert daemon.terminate() == 0
    finally:
        daemon.remove()


def _early(daemon: Daemon, visit: Visit) -> Visitor:
    made = daemon.make(
        label="Set up the new laptop", userDescription="Anna Agent", startTime=_in(timedelta(minutes=35))
    )
    guest = visit(made["urls"]["user"])
    guest.give_name("Bob")
    guest.expect("early")
    return guest


def _door(daemon: Daemon, visit: Visit) -> Visitor:
    made = daemon.make(label="Interview", userDescription="Anna Agent", agentPrefs={"knock": True})
    host = visit(made["urls"]["host"])
    host.give_name("Anna Agent")
    host.expect("in")
    for number, name in enumerate(("Bob", "Carol"), start=1):
        guest = visit(made["urls"]["user"])
        guest.give_name(name)
        guest.expect("knock")
        _wait_for(host, "knocking", number)
    host.press("Let Bob in")
    _wait_for(host, "people", 2)
    return host


def _inside(daemon: Daemon, visit: Visit) -> Visitor:
    made = daemon.make(type="support", label="Printer on floor 3", userDescription="Anna Agent")
    host, guest = visit(made["urls"]["host"]), visit(made["urls"]["user"], "dark")
    host.give_name("Anna Agent")
    host.expect("in")
    guest.give_name("Bob")
    guest.expect("in")
    _wait_for(guest, "people", 2)
    return guest


def _wait_for(visitor: Visitor, people: str, number: int) -> None:
    rows = visitor.page.locator(f'[data-list="{people}"] li')
    eventually(lambda: rows.count() == number)


def _in(span: timedelta) -> str:
    start: datetime = clock.now().replace(second=0, microsecond=0) + span
    return timestamps.text(start)


if __name__ == "__main__":
    with browsers.chromium() as chromium:
        write(DOCS, chromium)
