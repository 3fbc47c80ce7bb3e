"""HTTP at the rim: routes of two or three lines around the verbs.

================  ==================================================================
`routes_*`        the calls, by whom they are for
`requests`        shapes of what comes in
`bodies`          JSON as it comes in, and what is refused in it
`conditions`      which versions `If-Match` and `If-None-Match` name
`routing`         from a request to its endpoint and back, with all faults told at once
`answers`         model objects as the wire has them
`responses`       what the description says of refusals
`json`            JSON as it goes out
`callers`         who calls
`attempts`        how often one address may try what can be guessed
`errors`          causes as HTTP statuses: the only place
`context`         what the rim knows of a request
`rim`             around everything: request id, bounded body, log line
`browsers`        origins, CORS, and what pages of other sites ask
`held`            requests that wait for events, and how many a caller may have
`fixed`           answers that are always the same, with an entity tag
`assets`          the files of the page for people
`services`        what the routes work with
`links`           which call takes what another has answered, for the description
`description`     what the API says of itself, for programs and for people
`application`     all of it put together
`starting`        what is answered before there is a database to ask
================  ==================================================================
"""

from tminus.api.application import make_application
from tminus.api.held import HOLD
from tminus.api.middleware import BEGUN, HEADERS, trusted
from tminus.api.services import Services
from tminus.api.starting import make_starting_application

__all__ = ["BEGUN", "HEADERS", "HOLD", "Services", "make_application", "make_starting_application", "trusted"]
