"""`make soak`: a load under random faults, and at the end a check that nothing was lost or done twice.

===========  =========================================================================
`stages`     the systems under test: one daemon on SQLite, two daemons on one PostgreSQL
`lives`      a daemon that runs for hours: its log and its memory
`model`      the requests of the callers: acknowledged, refused, or unknown
`callers`    threads that send requests, and retry until they get an answer
`followers`  a reader of the feed, and a receiver of webhooks that fails now and then
`faults`     the faults, chosen at random
`judge`      checks that database, feed and deliveries agree with the model
`report`     the report as tables
===========  =========================================================================
"""
