"""What tests share.

=============  ===============================================================
`activation`   sockets handed to a process as systemd does it
`audit`        known holes in what the lock files name: `make audit`
`callers`      who goes on asking a daemon while something happens to it
`clocks`       a clock that the test sets
`databases`    SQLite and a real PostgreSQL, a fresh database for each test
`disks`        disks that fail, and one that loses its power
`factories`    callers, orders, settings and sessions with sensible fields
`kills`        deeds by a process that kills itself in the middle of them
`trials`       all else that a daemon writes, for the same
`pages`        the blocks and tables of docs/, as readers follow them
`picture`      docs/watch.svg: `make picture`
`preloaded`    what is loaded before commands are forked
`processes`    the command as a process, started quickly
`proxy`        a way to PostgreSQL that can be cut, slow, or silent
`receivers`    receivers of webhooks that answer well or badly
`reference`    the tables of docs/events.md: `make docs`
`systemd_box`  a real systemd to try the units under
`tables`       a daemon's rows, changed behind its back
`waiting`      `eventually`: the one way to wait for another thread
`worlds`       a store, its clock and its settings: what verbs are tried on
=============  ===============================================================
"""
