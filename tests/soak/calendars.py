"""A program that subscribes to an agent's calendar, and reads it repeatedly as calendar programs do."""

import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import icalendar

from tests.acceptance.daemons import token_of
from tests.soak.requests import TIMEOUT, Url

AGENT = 8
"""The number of the agent whose calendar is read."""

PAUSE = 1.5
"""Seconds between two reads."""

Entry = tuple[int, Mapping[str, str]]
"""The SEQUENCE of an entry, and those of its properties that a change of the session changes."""

SHOWN = ("DTSTART", "DTEND", "STATUS", "SUMMARY")


def entries(content: str) -> dict[str, Entry]:
    """Return the entries of a calendar by their UID. Raises `ValueError` if two have the same."""
    found: dict[str, Entry] = {}
    event: Any
    for event in icalendar.Calendar.from_ical(content).walk("VEVENT"):
        uid = str(event["UID"])
        if uid in found:
            raise ValueError(f"two entries have the UID {uid}")
        shown = {name: str(event[name].to_ical(), "utf-8") for name in SHOWN}
        found[uid] = (int(str(event["SEQUENCE"])), shown)
    return found


class Subscriber(threading.Thread):
    """Reads the calendar until it is stopped, from a random daemon each time.

    It checks that an entry keeps its UID, and that its SEQUENCE rises if the entry changes, and never falls.
    """

    def __init__(self, name: str, url: Url, count: Callable[[str, str], None]) -> None:
        super().__init__(name=f"{name} calendar", daemon=True)
        self.stopping = threading.Event()
        self.problems: list[str] = []
        self.path = ""
        """The path of the calendar's address, with its secret."""
        self._url = url
        self._count = count
        self._seen: dict[str, Entry] = {}
        self._tag = ""
        self._http = httpx.Client(timeout=TIMEOUT)

    def run(self) -> None:
        while not self.stopping.wait(PAUSE):
            try:
                if not self.path:
                    self._subscribe()
                else:
                    self._read()
            except (httpx.TransportError, httpx.InvalidURL):
                self._count("calendar", "retried")
            except Exception as error:
                self.problems.append(f"the calendar could not be read: {error!r}")
        self._http.close()

    def _subscribe(self) -> None:
        answer = self._http.post(f"{self._url()}/v3/agents/{AGENT}/calendar", headers={"Session-id": token_of("admin")})
        if answer.status_code == 200:
            self.path = urlsplit(answer.json()["url"]).path
        self._judge(answer)

    def _read(self) -> None:
        answer = self._http.get(f"{self._url()}{self.path}", headers={"If-None-Match": self._tag} if self._tag else {})
        self._judge(answer)
        if answer.status_code != 200:
            return
        self._tag = answer.headers["etag"]
        read = entries(answer.text)
        for uid, (sequence, shown) in read.items():
            before = self._seen.get(uid)
            if before is None or before == (sequence, shown):
                continue
            # A session may change in a way that its entry does not show: then only the SEQUENCE rises.
            if sequence <= before[0]:
                self.problems.append(f"the entry {uid} went from {before} to {(sequence, shown)}")
        self._seen |= read

    def _judge(self, answer: httpx.Response) -> None:
        outcome = {200: "acknowledged", 304: "unchanged", 503: "retried"}.get(answer.status_code, "error")
        self._count("calendar", outcome)
        if outcome == "error":
            self.problems.append(f"the calendar was answered with {answer.status_code}: {answer.text[:300]}")
