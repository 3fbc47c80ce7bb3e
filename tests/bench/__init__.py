"""`make bench`: how fast, how large, each figure beside a floor measured in the same run on the same machine.

============  =====================================================================
`trivial`     the floor of requests: an application that does nothing, on the daemon's server
`wrk`         the load generator for requests a second: wrk, 16 connections
`requests`    requests a second: schedules, reschedules, reads, `/healthz`
`start`       time to ready and memory, beside a process that only imports
`load`        the load generator at a given rate, a process of its own, raw HTTP
`daemon`      a real `tminus run`, its token, its memory and its time
`rows`        databases of many sessions, multiplied from one that was really made
`workbench`   what the figures share: sizes, directories, a row of the report
`figures`     what is measured
`receiver`    what webhooks are delivered to, a process of its own
`deliveries`  what is measured of webhooks
`postgres`    a PostgreSQL of its own, and databases of many sessions in it
`shared`      what is measured of one and two daemons on it
`report`      the table, and the same as JSON
============  =====================================================================
"""
