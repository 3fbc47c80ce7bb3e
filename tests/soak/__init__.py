"""`make soak`: a load under random faults, and at the end a check that nothing was lost or done twice.

==============  ======================================================================
`stages`        the systems under test: one daemon on SQLite, two daemons on one PostgreSQL
`lives`         a daemon that runs for hours: its log and its memory
`model`         the requests of the callers: acknowledged, refused, or unknown
`requests`      requests that are retried until they get an answer
`callers`       threads that create, change and close single sessions
`planners`      threads that use batches and series
`followers`     a reader of the feed, and a receiver of webhooks that fails now and then
`calendars`     a program that subscribes to a calendar
`mailbox`       a mail server that defers, refuses, hangs and drops connections now and then
`faults`        the faults, chosen at random
`settled`       checks that calendar, free-busy and report agree with the database
`judge`         checks that database, feed and deliveries agree with the model
`appointments`  the same for reminders, mails, batches and series
`report`        the report as tables
==============  ======================================================================
"""
