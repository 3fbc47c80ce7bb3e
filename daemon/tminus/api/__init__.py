"""HTTP: routes of two or three lines around commands and queries.

===================  ===============================================================
`routes_*`           the calls, by whom they are for
`requests`           shapes of what comes in
`bodies`             JSON as it comes in, and what is refused in it
`conditions`         which versions `If-Match` and `If-None-Match` name
`routing`            how a call is declared: once, for its service and its description
`parameters`         where the values of an endpoint's parameters come from
`dispatch`           from a request to its endpoint and back
`answers`            model objects as the API shows them
`response`           a status, headers and a body
`refusals`           what the description says of refusals
`authentication`     who calls
`rate_limit`         how often one address may try what can be guessed
`errors`             causes as HTTP statuses: the only place
`request_context`    what is known of a request before its route sees it
`middleware`         around everything: request id, limits, headers, log line
`client_address`     the address that a request comes from
`request_body`       a body, read whole
`request_log`        what is counted and logged of a request
`browsers`           origins, CORS, and what pages of other sites ask
`held`               requests that wait for events, and how many a caller may have
`fixed`              answers that are always the same, with an entity tag
`assets`             the files of the page for people
`services`           what the routes work with
`readers`            the threads that read for requests
`links`              which call takes what another has answered, for the description
`openapi`            the OpenAPI document of routes
`description`        what the API says of itself, for programs and for people
`application`        all of it put together
`starting`           what is answered before there is a database to ask
===================  ===============================================================
"""

from tminus.api.application import make_application
from tminus.api.client_address import trusted
from tminus.api.held import HOLD
from tminus.api.middleware import BEGUN, HEADERS
from tminus.api.request_body import WHOLE
from tminus.api.services import Services
from tminus.api.starting import make_starting_application

__all__ = [
    "BEGUN", "HEADERS", "HOLD", "WHOLE", "Services", "make_application", "make_starting_application", "trusted",
]  # fmt: skip
