"""The AsyncAPI description of the rooms' protocol, made from the declarations in `protocol`.

`make docs` writes it to `docs/asyncapi.json`, from which other clients can be generated.
"""

import inspect
from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

from tminus.rooms import protocol


def document() -> dict[str, Any]:
    """Return the description, as AsyncAPI 3.0."""
    schemas: dict[str, Any] = {}
    received = [_message(message, schemas) for message in protocol.CLIENT_MESSAGES]
    sent = [_message(message, schemas) for message in protocol.SERVER_MESSAGES]
    channel = "#/channels/room"
    codes = "; ".join(f"{code}: {why}" for code, why in protocol.CLOSE_CODES.items())
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Rooms of tminus",
            "version": "1",
            "description": f"Subprotocol `{protocol.SUBPROTOCOL}`. Each message is a JSON object of at most 64 KiB. "
            f"Clients and servers ignore members that they do not know. Close codes: {codes}.",
        },
        "channels": {
            "room": {
                "address": "/v3/rooms/{sessionId}",
                "parameters": {"sessionId": {"description": "The id of a session, from the link"}},
                "messages": {message["name"]: message for message in [*received, *sent]},
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": {
            "clientSends": _operation("receive", channel, received),
            "serverSends": _operation("send", channel, sent),
        },
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _operation(action: str, channel: str, messages: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{message['name']}"} for message in messages],
    }


def _message(message: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a message, and add its types to `schemas`."""
    schema = protocol.schema(message)
    schemas |= schema.pop("$defs", {})
    schemas[message.__name__] = schema
    schema["required"] = sorted({"type", *schema.get("required", ())})
    return {
        "name": name(message),
        "summary": inspect.cleandoc(message.__doc__).split("\n", maxsplit=1)[0],
        "payload": {"$ref": f"#/components/schemas/{message.__name__}"},
    }


def name(message: Any) -> str:
    """Return the `type` of a message."""
    (value,) = get_args(get_type_hints(message)["type"])
    return str(value)
