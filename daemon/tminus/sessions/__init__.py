"""What callers may do with sessions.

===============  ================================================================
`commands`       create, reschedule, close
`participants`   join, knock, admit, deny, leave
`queries`        get, list, search and look up sessions; their events; the feed
`transitions`    executes a transition for a caller
`mail_limit`     how many mails each agent may cause
`authorization`  who may do what
`idempotency`    the record of what an `Idempotency-Key` has created
===============  ================================================================
"""
