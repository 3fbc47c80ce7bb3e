"""The database: tables, migrations, queries, and the one writer.

================ ==============================================================================
`tables`         the records of `domain.model` as tables
`engine`         connections to the database
`postgresql`,    connections to PostgreSQL: settings and checks, and their pools
`server_pool`
`failures`       the meaning of the database's errors
`watch`,         the watchdog for PostgreSQL, and the one for SQLite, which does nothing
`server_watch`
`shared_clock`   PostgreSQL's clock
`migrate`,       creates the schema, or upgrades an older one with Alembic, at the start
`migrations`
`schema`         compares an SQLite file's schema with the one that tminus creates
`view`           queries
`listing`        the statements that list and count sessions
`transaction`    the write transaction: collects rows and events, and inserts them together
`transitions`    executes transitions, of one session or of many
`deadlines`      the next deadline of a session, as SQL
`due`            the sessions that are due; their deadlines after new time-outs
`agents`         the stored state of agents: the last sign-in, and whether they are shut out
`appointments`   the appointments of an agent: open sessions with a start
`calendar_feeds` the addresses of agents' calendars, and the sessions that a calendar shows
`retention`      removes old rows
`reminders`      the reminders that are due
`series`         series of sessions, and the session of each occurrence
`presence`       people in the daemons' own rooms, and when people who lost their connection leave
`batches`        batches that are decided but not done, and their parts
`challenges`     answers to challenges, each of which counts once
`inserts`        inserts many rows with one statement
`json_rows`      passes values for many rows to a statement, as a JSON object
`reports`        aggregates of the sessions that closed in a period
`pins`           random free PINs
`allowances`     what the writer keeps in memory between transactions
`outbox`         the position of each endpoint, replays, the delivery log
`mails`          what became of the mails to invitees
`log_positions`  the position of each daemon's log
`test_clock`     whether a database belongs to a test clock, and its time
`meta`           the keys of the table `meta`, and the format of their values
`writer`         one thread, group commit
`store`          an open database: `read`, `submit`, `transact`, `transact_then`
`reads`          whether the database can be read
`observer`       what a store reports to the daemon
`notifier`       wakes coroutines that wait for new events
`listen_notify`  LISTEN and NOTIFY between daemons on one PostgreSQL
`locks`          PostgreSQL's advisory locks
`backup`         copies an SQLite database while a daemon writes
`restore`        puts a backup in the database's place
`snapshot`       copies one snapshot of an SQLite database, and checks it
`partial_file`   writes a file as a whole or not at all
`checkpoint`     shrinks SQLite's files
`check`          checks that a database is consistent
`invariants`     the invariants of all sessions, as SQL queries
`wal`            finds what SQLite drops from a damaged -wal file
================ ==============================================================================
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
