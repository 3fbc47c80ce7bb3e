"""What tests share.

============  ===============================================================
`clocks`      a clock that the test sets
`databases`   SQLite and a real PostgreSQL, a fresh database for each test
`factories`   callers, orders, settings and sessions with sensible fields
`preloaded`   what is loaded before commands are forked
`processes`   the command as a process, started quickly
`waiting`     `eventually`: the one way to wait for another thread
`worlds`      a store, its clock and its settings: what verbs are tried on
============  ===============================================================
"""
