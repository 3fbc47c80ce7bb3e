"""What tests share.

============  ===============================================================
`audit`       known holes in what the lock files name: `make audit`
`clocks`      a clock that the test sets
`databases`   SQLite and a real PostgreSQL, a fresh database for each test
`factories`   callers, orders, settings and sessions with sensible fields
`preloaded`   what is loaded before commands are forked
`kills`       what a process does that kills itself in the middle of it
`processes`   the command as a process, started quickly
`waiting`     `eventually`: the one way to wait for another thread
`worlds`      a store, its clock and its settings: what verbs are tried on
============  ===============================================================
"""
