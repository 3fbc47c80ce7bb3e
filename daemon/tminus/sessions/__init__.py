"""What callers may do with sessions.

===============  ==================================================================
`commands`       create, reschedule or close a session
`batches`        create, reschedule or close many sessions: all or none
`series`         series of sessions, and the scheduler's part in them
`participants`   join, knock, admit, deny, leave
`queries`        get, list, search and look up sessions; events; reports; busy times
`transitions`    execute a transition for a caller
`overlaps`       the policy on appointments that overlap
`mail_limit`     how many mails each agent may cause
`authorization`  who may do what
`idempotency`    the record of what an `Idempotency-Key` has created
===============  ==================================================================
"""
