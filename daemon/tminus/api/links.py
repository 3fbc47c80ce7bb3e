"""Add links to the OpenAPI document: which operations take a value from the response of another one."""

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
    # A closed session can still be read.
    ("delete", _SESSION): {"show": ("get", _SESSION, _SAME), "events": ("get", f"{_SESSION}/events", _SAME)},
    ("post", _PARTICIPANTS): {
        "answer": ("put", _PARTICIPANT, _JOINED),
        "leave": ("delete", _PARTICIPANT, _JOINED),
        "show": ("get", _SESSION, _SAME),
    },
}
"""Links by operation: the name of each, its target, and the parameters that it passes."""


def add_links(paths: dict[str, Any]) -> None:
    """Add the links to the description of all paths."""
    for (source, path), links in _LINKS.items():
        paths[path][source]["responses"]["200"]["links"] = {
            name: {"operationId": paths[to][method]["operationId"], "parameters": parameters}
            for name, (method, to, parameters) in links.items()
        }
