"""What may be done to a session, by people and by time.

==============  =====================================================
`verbs`         create, reschedule, close
`participants`  join, knock, admit, deny, leave
`moves`         a move as all of them make it
`reads`         show, list, look up, history
`rights`        who may
`retries`       what an `Idempotency-Key` has made
`sweeps`        what time does: advance, retention, moved deadlines
==============  =====================================================
"""
