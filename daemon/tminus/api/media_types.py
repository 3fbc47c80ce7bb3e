"""Choose the media type of an answer by the header `Accept` (RFC 9110, section 12.5.1)."""

import re

MAX_RANGES = 20
"""Maximum number of media types of a header that count."""

_NOT_ACCEPTED = re.compile(r"[ \t]*q=0(?:\.0{0,3})?[ \t]*")


def listed(accept: str) -> set[str]:
    """Return the media types that the header names, in lower case, without those that it excludes by `q=0`."""
    parts = (part.split(";") for part in accept.lower().split(",")[:MAX_RANGES])
    return {
        media_type.strip(" \t")
        for media_type, *parameters in parts
        if not any(_NOT_ACCEPTED.fullmatch(parameter) for parameter in parameters)
    }
