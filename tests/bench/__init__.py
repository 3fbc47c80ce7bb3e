"""`make bench`: figures of speed and memory, each beside a floor that is measured in the same run on the same machine.

============  =====================================================================
`trivial`     the floor of requests: an application that does nothing, on the daemon's server
`wrk`         the load generator for requests a second: wrk, 16 connections
`requests`    requests a second: schedules, reschedules, reads, `/healthz`
`rows_server` the floor of schedules: the daemon's server, and only the rows of each request
`start`       time to ready and memory, beside a process that only imports
`load`        the load generator for a given rate: a separate process that sends raw HTTP
`daemon`      a real `tminus run`: its token, its memory, its processor time
`rows`        databases of many sessions, as copies of one real session
`workbench`   shared by the figures: sizes, directories, a row of the report
`figures`     the figures of one daemon on SQLite
`receiver`    the receiver of webhooks: a separate process
`deliveries`  the figures of webhooks
`postgres`    a PostgreSQL server, and databases of many sessions in it
`shared`      the figures of one and two daemons on it
`batches`     the figures of batches
`lists`       the figures of lists of a million closed sessions
`rooms`       the figures of the daemon's own rooms
`commands`    the time that a command takes
`attacks`     honest calls during an attack with connections: a program of its own
`one_agent`   the same during an attack by one agent: a program of its own
`report`      the report as a table and as JSON
============  =====================================================================
"""
