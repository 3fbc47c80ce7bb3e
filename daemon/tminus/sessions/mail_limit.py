"""The limit of mails that each agent may cause (`limits.mails_per_agent`).

The transaction that creates or moves a session also counts its mails. A request that exceeds the limit is refused, so
no mail of an accepted request is held back. A close is never refused, because people who were invited must learn of it.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

import orjson

from tminus.config import Settings
from tminus.domain.errors import TooManyMails
from tminus.domain.model import MailCount
from tminus.domain.reminders import parse_stored
from tminus.storage import Transaction, View, mails

Wanted = Iterable[tuple[int, int]]
"""Pairs: the id of an agent, and a number of mails that it would cause."""


def mails_of(invitees: str | None, reminders: str | None) -> int:
    """Return how many mails a session with these stored invitees and reminders causes when it is created or moved."""
    return 0 if invitees is None else len(orjson.loads(invitees)) * (1 + len(parse_stored(reminders)))


def refuse_mails(view: View, settings: Settings, wanted: Wanted, now: datetime) -> list[MailCount]:
    """Return the counts after these mails, without storing them. Raises `TooManyMails`."""
    rate = settings.limits.mails_per_agent
    if rate is None or not settings.mail.host:
        return []
    period, of_agent = timedelta(seconds=rate.seconds), Counter[int]()
    for agent_id, number in wanted:
        of_agent[agent_id] += number
    counts = []
    for agent_id, number in sorted((+of_agent).items()):
        counted = mails.count_of(view, agent_id)
        # The clock may have been set back meanwhile.
        if counted is None or not counted.since <= now < counted.since + period:
            counted = MailCount(agent_id=agent_id, since=now, mails=0)
        if counted.mails + number > rate.count:
            wait = (counted.since + period - now).total_seconds()
            never = number > rate.count
            raise TooManyMails(str(rate), number, rate.count - counted.mails, None if never else wait)
        counts.append(MailCount(agent_id=agent_id, since=counted.since, mails=counted.mails + number))
    return counts


def count_mails(tx: Transaction, settings: Settings, wanted: Wanted) -> None:
    """Store the counts after these mails. Raises `TooManyMails`, and then stores none."""
    for count in refuse_mails(tx, settings, wanted, tx.now):
        mails.set_count(tx, count)
