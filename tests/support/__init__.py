"""Helpers that several tests share.

=============  ===============================================================
`activation`   pass sockets to a process as systemd does
`audit`        known vulnerabilities in the lock files: `make audit`
`callers`      clients that call a daemon repeatedly during a fault
`clocks`       a clock that a test sets
`databases`    SQLite and a real PostgreSQL, a fresh database for each test
`disks`        disks that fail, and one that loses power
`factories`    callers, requests, settings and sessions with defaults
`kills`        actions that a process performs until it kills itself
`trials`       the other writes of a daemon, for the same tests with kills
`pages`        the code blocks and tables of the pages in docs/
`picture`      docs/watch.svg: `make picture`
`preloaded`    modules to import before commands are forked
`processes`    the command as a process, started quickly
`proxy`        a TCP proxy to PostgreSQL that can break, delay or stop
`receivers`    webhook receivers with good and bad responses
`reference`    the tables of docs/events.md: `make docs`
`systemd_box`  a real systemd that runs the unit files
`tables`       read and change the rows of a daemon's database
`waiting`      `eventually`: the only way to wait for another thread
`worlds`       a store, its clock and its settings, to test commands on
=============  ===============================================================
"""
