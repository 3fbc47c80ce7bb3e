"""Serve the HTTP API: short routes around commands and queries.

===================  ===============================================================
`routes_*`           the endpoints, grouped by subject
`requests`           schemas of request bodies and parameters
`bodies`             strict parsing of JSON bodies
`conditions`         `If-Match` and `If-None-Match`
`routing`            routes: one declaration serves requests and the OpenAPI document
`parameters`         parameters of endpoints: source, validation, description
`dispatch`           find the endpoint of a request and call it
`answers`            model objects as JSON responses
`response`           a response with status, headers and a complete body
`refusals`           error responses in the OpenAPI document
`authentication`     the caller of a request
`agent_sessions`     start and end agent sessions
`browser_session`    cookies of the sign-in page, and the key against forged requests
`receivers`          web pages to which a browser returns after the sign-in
`signin_page`        the sign-in page as HTML; its files are in `signin/`
`rate_limit`         limits of wrong tokens, PINs and session ids for each address
`pin_lookups`        find a session by its PIN, within limits
`id_guesses`         limits of wrong session ids and keys of rooms
`challenges`         pictures with digits, for addresses that sent too many wrong PINs
`errors`             errors as HTTP responses; the only place that maps them to statuses
`request_context`    data of a request that middleware and routes share
`middleware`         request id, limits, headers and log line of every request
`websocket`          one WebSocket, as endpoints use it
`websocket_middleware` request id, origin, limits and log line of every WebSocket
`client_address`     the client's address behind trusted proxies
`request_body`       read a complete body within limits of size and time
`request_log`        metrics and log line of a request
`browsers`           CORS and cross-site requests
`held`               requests that wait for events, limited for each caller
`fair_semaphore`     limits concurrent searches, fairly between callers
`fixed`              responses that never change, with an entity tag
`assets`             static files of the documentation page
`services`           the objects that routes use
`readers`            threads that read from the database for requests
`links`              links between operations in the OpenAPI document
`openapi`            generate the OpenAPI document from the routes
`description`        `/openapi.json` and the page `/docs`
`application`        the ASGI application, assembled
`starting`           responses during the start, before the database is open
===================  ===============================================================
"""

from tminus.api.application import make_application
from tminus.api.client_address import trusted
from tminus.api.held import HOLD
from tminus.api.middleware import BEGUN, HEADERS
from tminus.api.request_body import WHOLE
from tminus.api.services import Services
from tminus.api.starting import make_starting_application
from tminus.api.websocket import IS_OURS

__all__ = [
    "BEGUN", "HEADERS", "HOLD", "IS_OURS", "WHOLE", "Services", "make_application", "make_starting_application",
    "trusted",
]  # fmt: skip
