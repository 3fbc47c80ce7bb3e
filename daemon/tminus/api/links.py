"""Where an answer leads: which call takes what another has answered, as the API's description says it."""

from typing import Any

_SESSION = "/v3/supportsession/{session_id}"
_PARTICIPANTS = f"{_SESSION}/participants"
_PARTICIPANT = f"{_PARTICIPANTS}/{{participant_id}}"

_MADE = {"session_id": "$response.body#/id"}
_SAME = {"session_id": "$request.path.session_id"}
_JOINED = _SAME | {"participant_id": "$response.body#/participantId"}

_LINKS: dict[tuple[str, str], dict[str, tuple[str, str, dict[str, str]]]] = {
    ("post", "/v3/supportsessions"): {
        "show": ("get", _SESSION, _MADE),
        "reschedule": ("put", _SESSION, _MADE),
        "close": ("delete", _SESSION, _MADE),
        "events": ("get", f"{_SESSION}/events", _MADE),
        "join": ("post", _PARTICIPANTS, _MADE),
    },
    ("put", _SESSION): {"show": ("get", _SESSION, _SAME), "close": ("delete", _SESSION, _SAME)},
    # A session that is closed is still there.
    ("delete", _SESSION): {"show": ("get", _SESSION, _SAME), "events": ("get", f"{_SESSION}/events", _SAME)},
    ("post", _PARTICIPANTS): {
        "answer": ("put", _PARTICIPANT, _JOINED),
        "leave": ("delete", _PARTICIPANT, _JOINED),
        "show": ("get", _SESSION, _SAME),
    },
}
"""By call: the names of its links; where each leads, and with which parameters."""


def add_links(paths: dict[str, Any]) -> None:
    """Adds the links to the description of all paths."""
    for (method, path), links in _LINKS.items():
        paths[path][method]["responses"]["200"]["links"] = {
            name: {"operationId": paths[to][verb]["operationId"], "parameters": parameters}
            for name, (verb, to, parameters) in links.items()
        }
