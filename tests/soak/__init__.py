"""`make soak`: everything at once under random faults, and at the end a look whether all is as it must be.

===========  =========================================================================
`stages`     what is tried: one daemon on SQLite, two daemons on one PostgreSQL
`lives`      a daemon whose log grows for hours, and what memory it takes
`model`      what callers know: acknowledged, refused, or not known
`callers`    threads that call, and ask again until they have an answer
`followers`  a reader of the feed, and a receiver of webhooks in all its moods
`faults`     what goes wrong, at random
`judge`      whether database, feed and deliveries agree with the model
`report`     the table
===========  =========================================================================
"""
