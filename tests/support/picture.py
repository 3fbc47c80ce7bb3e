"""Write docs/watch.svg: the screen of `tminus watch` with a real daemon. `make picture` runs this."""

import html
import io
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from tests.acceptance.daemons import Daemon, environment
from tests.support.processes import TMINUS
from tests.support.terminals import Terminal
from tests.support.waiting import eventually
from tminus import clock
from tminus.domain import timestamps

PICTURE = Path(__file__).parents[2] / "docs" / "watch.svg"

COLUMNS = 92
ROWS = 18

_FOREIGN = re.compile(r"\s*(?:@font-face \{.*?\}|<!--.*?-->)", re.DOTALL)
"""The parts of rich's template that are removed: fonts that it loads from another host, and a comment."""

_SCREEN_CODES = re.compile(r"\x1b\[[0-9;]*[A-LN-Za-ln-z]|\r")
"""All escape sequences of `tminus watch` except those for colours."""


def picture() -> str:
    """Return the picture as SVG: two open sessions and three that are scheduled."""
    daemon = Daemon()
    try:
        daemon.start()
        _make_sessions(daemon)
        console = Console(width=COLUMNS, record=True, file=io.StringIO())
        console.print(Text.from_ansi(_screen(daemon)), no_wrap=True, crop=True)
        assert daemon.terminate() == 0
    finally:
        daemon.remove()
    svg = console.export_svg(title="tminus watch", theme=DIMMED_MONOKAI, unique_id="watch")
    return _FOREIGN.sub("", svg) + "\n"


def _make_sessions(daemon: Daemon) -> None:
    def record(number: str) -> dict[str, Any]:
        key = number.lower()
        return {"externalMapping": f"incident.{key}", "parentObject": {"id": key, "type": "incident", "name": number}}

    nine = clock.now().replace(hour=9, minute=0, second=0, microsecond=0) + timedelta(days=1)
    daemon.make(type="support", label="Printer on floor 3", **record("INC0000005"))
    interview = daemon.make(type="live", label="Interview")
    for name, role in (("Anna Agent", "host"), ("Joe", "guest")):
        assert daemon.join(interview["id"], name, role).status_code == 200
    daemon.make(type="live", label="Review of INC0000005", startTime=_in(minutes=25), **record("INC0000005"))
    daemon.make(type="support", label="Set up the new laptop", startTime=_in(hours=2), **record("REQ0010042"))
    daemon.make(type="live", label="Weekly service desk meeting", startTime=_text(nine))


def _in(**span: int) -> str:
    minute = clock.now().replace(second=0, microsecond=0)
    return _text(minute + timedelta(**span))


def _text(instant: datetime) -> str:
    return timestamps.text(instant)


def _screen(daemon: Daemon) -> str:
    """Return the first screen that the command draws, with its colours."""
    env = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config), TZ="UTC")
    env.pop("NO_COLOR", None)
    command = (TMINUS, "watch", "--interval", "1h")
    with Terminal(command, env, columns=COLUMNS, rows=ROWS) as terminal:
        eventually(lambda: "Ctrl-C" in terminal.raw)
        return _SCREEN_CODES.sub("", terminal.raw).replace("\r\n", "\n")


def words(svg: str) -> set[str]:
    """Return the words in a picture, without ids, which are random."""
    spans = re.findall(r"<text [^>]*>([^<]*)</text>", svg)
    shown = (html.unescape(span).replace("\xa0", " ").strip() for span in spans)
    return {word for span in shown if not _ID.fullmatch(span) for word in re.findall(r"[A-Za-z-]{2,}…?", span)}


_ID = re.compile("[0-9A-Za-z]{6}|[0-9A-Za-z]{12}")


if __name__ == "__main__":
    PICTURE.write_text(picture())
