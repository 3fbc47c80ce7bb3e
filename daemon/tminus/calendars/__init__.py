"""Calendars (RFC 5545): the entry of a session, for files, feeds and mail.

The library `icalendar` folds and encodes; `entries` escapes text. The library takes 9 MB and a tenth of a second to
load, so it is loaded with the first calendar: import the modules of this package where they are used, not at the top of
a file. No I/O.
"""
