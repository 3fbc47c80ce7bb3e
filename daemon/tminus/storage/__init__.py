"""The database: tables, migrations, and the one writer.

===============  ==============================================================================
`tables`         the model's classes as tables
`engine`         connections: SQLite or PostgreSQL, and what each must be told
`migrate`,       Alembic: any older schema becomes the present one at start
`migrations`
`view`           what can be read
`listing`        the statements that list and count sessions
`transaction`    what can be written: a change and its events, together
`due`            the clock's moves, thousands at once
`outbox`         webhooks: how far each endpoint is, what is due to it, what became of it
`log_places`     how far the log of each daemon has come
`writer`         one thread, one transaction for all who wait: group commit
`store`          an open database: `read`, `submit`, `transact`
`observer`       what a store reports to the daemon
`locks`          PostgreSQL's advisory locks
`listen_notify`  several daemons on one PostgreSQL wake each other
`meta`           the keys of the table `meta`, and how their values are written
`watch`          whether PostgreSQL still answers
`backup`         copies: made while a daemon writes, and put back
`checkpoint`     files that have grown, made small again
`check`          whether a database is whole
`wal`            what SQLite leaves out of a damaged -wal file, and does not tell
===============  ==============================================================================
"""

from tminus.storage.engine import READERS
from tminus.storage.listing import SessionFilter
from tminus.storage.observer import StoreObserver
from tminus.storage.store import Store
from tminus.storage.transaction import Transaction
from tminus.storage.view import PAGE_BYTES, Active, EventFilter, Page, View

__all__ = [
    "PAGE_BYTES",
    "READERS",
    "Active",
    "EventFilter",
    "Page",
    "SessionFilter",
    "Store",
    "StoreObserver",
    "Transaction",
    "View",
]
