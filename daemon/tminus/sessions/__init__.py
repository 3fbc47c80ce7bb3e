"""What callers may do with sessions.

===============  ================================================================
`commands`       create, reschedule, close
`participants`   join, knock, admit, deny, leave
`queries`        show, list, look up, history
`transitions`    carries out a transition with the caller as its cause
`authorization`  who may do what
`idempotency`    the record of what an `Idempotency-Key` has created
===============  ================================================================
"""
