"""Serve the HTTP API: short routes around commands and queries.

======================  ===============================================================
`application`           the ASGI application, assembled
`starting`              responses during the start, before the database is open
`middleware`            request id, limits, headers and log line of every request
`request_context`       data of a request that middleware and routes share
`client_address`        the client's address behind trusted proxies
`browsers`              CORS and cross-site requests
`request_body`          read a body within limits of size and time
`request_log`           metrics and log line of a request
`websocket_middleware`  request id, origin, limits and log line of every WebSocket
`websocket`             one WebSocket, as endpoints use it
`routing`               routes: one declaration serves requests and the OpenAPI document
`dispatch`              find the endpoint of a request and call it
`parameters`            parameters of endpoints: source, validation, description
`routes_*`              the endpoints, grouped by subject
`requests`              schemas of request bodies and parameters
`bodies`                strict parsing of JSON bodies
`batch_bodies`          bodies of batches, in parts
`batch_answers`         the decision on a batch, and its response in parts
`conditions`            `If-Match` and `If-None-Match`
`free_busy_query`       the body of a CalDAV `free-busy-query`
`services`              the objects that routes use
`readers`               threads that read from the database for requests
`fair_semaphore`        limits concurrent searches and batches, fairly between callers
`held`                  requests that wait for events, limited for each caller
`answers`               model objects as JSON responses
`response`              a response with status, headers and a complete body
`tagged_response`       a response with an entity tag made from its body
`errors`                errors as HTTP responses; the only place that maps them to statuses
`authentication`        the caller of a request
`known_agents`          agents that are shut out or came by an issuer, in memory
`oidc_agents`           the agent of a person whom an OpenID Connect issuer has signed in
`agent_sessions`        start and end agent sessions
`browser_session`       cookies of the sign-in page, and the key against forged requests
`receivers`             web pages to which a browser returns after the sign-in
`signin_page`           the sign-in page as HTML; its files are in `signin/`
`rate_limit`            limits of wrong tokens, PINs and session ids for each address
`paced_queue`           a queue for addresses that have reached a limit
`pin_lookups`           find a session by its PIN, within limits
`id_guesses`            limits of wrong session ids and keys of rooms
`challenges`            pictures with digits, for addresses that sent too many wrong PINs
`openapi`               generate the OpenAPI document from the routes
`fields`                descriptions of fields and parameters in the OpenAPI document
`examples`              examples in the OpenAPI document
`refusals`              error responses in the OpenAPI document
`links`                 links between operations in the OpenAPI document
`description`           `/openapi.json` and the page `/docs`
`assets`                static files of the page `/docs`
======================  ===============================================================
"""

from tminus.api.application import make_application
from tminus.api.client_address import trusted
from tminus.api.held import HOLD
from tminus.api.middleware import BEGUN, HEADERS
from tminus.api.request_body import MALFORMED, WHOLE
from tminus.api.request_log import CUT_OFF
from tminus.api.response import RESPOND
from tminus.api.services import Services
from tminus.api.starting import make_starting_application
from tminus.api.websocket import IS_OURS

__all__ = [
    "BEGUN", "CUT_OFF", "HEADERS", "HOLD", "IS_OURS", "MALFORMED", "RESPOND", "WHOLE", "Services",
    "make_application", "make_starting_application", "trusted",
]  # fmt: skip
