"""Webhooks: each endpoint is told every event that it wants, in order, at least once, whatever fails in between.

=============  ======================================================================================
`signing`      the headers that prove to a receiver whom a request is from
`backoff`      when to try again
`forbidden`    addresses that events are not sent to
`resolver`     which addresses a receiver has
`connecting`   connects to the first of them that answers
`trust`        whom TLS trusts
`exchange`     a request and its answer on one connection
`post`         requests to one receiver: bounded in time and size, and what became of each
`endpoint`     one endpoint: what is due to it, sent and recorded, again and again
`webhooks`     all of them, on a thread of their own; what operators ask of them
=============  ======================================================================================
"""

from tminus.delivery.webhooks import EndpointStatus, Secrets, Webhooks, read_secrets

__all__ = ["EndpointStatus", "Secrets", "Webhooks", "read_secrets"]
