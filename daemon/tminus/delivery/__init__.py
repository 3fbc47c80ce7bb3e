"""Webhooks and mail: each webhook receives every event that it subscribes to, in order and at least once.

================  ===================================================================================
`signing`         the headers by which a receiver verifies the sender
`backoff`         how long to wait before a retry
`forbidden`       addresses that events are not sent to
`resolver`        look up the addresses of a receiver
`happy_eyeballs`  connect to the first of them that accepts
`tls`             certificate authorities as a TLS context
`credentials`     the secrets of endpoints, and the authorities that they trust
`connection`      one request and its response on a connection
`client`          requests to one receiver, limited in time and size, and their outcomes
`sender`          the interface between the delivery worker and what sends events
`mail`            sends mail to the people who are invited to a session
`webhook_sender`  sends events to a webhook, as signed JSON
`due`             find what is due to an endpoint
`worker`          the delivery worker of one endpoint
`webhooks`        all delivery workers, on a thread of their own, and the operators' commands
================  ===================================================================================
"""

from tminus.delivery.credentials import Secrets, read_secrets
from tminus.delivery.webhooks import EndpointStatus, Webhooks

__all__ = ["EndpointStatus", "Secrets", "Webhooks", "read_secrets"]
