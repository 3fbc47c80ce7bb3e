"""The messages of a room, `tminus.room.v1`. The types here are the only declaration; no I/O.

`docs/asyncapi.json` is generated from them. Each message is a JSON object with a `type`; unknown members are ignored.
"""

import unicodedata
from typing import Annotated, Any, Literal, NotRequired

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from typing_extensions import TypedDict  # pydantic supports typing.TypedDict only from Python 3.12 on

from tminus import schemas
from tminus.domain.errors import InvalidMessage
from tminus.domain.text import INVISIBLE
from tminus.domain.types import ParticipantRole

SUBPROTOCOL = "tminus.room.v1"

NAME_LENGTH = 255
"""Maximum characters of a name that a daemon can be configured to accept; `limits.participant_name` is in force."""

KEY_LENGTH = 128
"""Maximum characters of a host key or resume key. The daemon makes keys of 32."""

_JOINERS = "\u200c\u200d"
"""Zero-width joiners, which are part of Persian and Indic names and of many emoji."""

MARKS = 4
"""Maximum number of combining marks on one character of a name. More of them cover the lines above and below; Thai,
Hebrew, Tibetan and Vietnamese need fewer.
"""

_NOT_ALLOWED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's categories of control characters, format characters (such as marks of text direction) and line ends."""


def _name(text: str) -> str:
    """Return a name without surrounding blanks. A name must be visible, and must not change the text around it."""
    if any(unicodedata.category(char) in _NOT_ALLOWED and char not in _JOINERS for char in text):
        raise ValueError("must not contain control characters or marks of text direction")
    text = text.strip()
    if not any(unicodedata.category(char)[0] in "LNPS" and char not in INVISIBLE for char in text):
        raise ValueError("must have a visible character")
    if _most_marks(text) > MARKS:
        raise ValueError(f"must not have more than {MARKS} combining marks on a character")
    return text


def _most_marks(text: str) -> int:
    """Return the largest number of combining marks that follow each other."""
    most = marks = 0
    for char in text:
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        most = max(most, marks)
    return most


Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH), AfterValidator(_name)]
Key = Annotated[str, Field(min_length=1, max_length=KEY_LENGTH)]
Id = Annotated[str, Field(pattern="^[A-Za-z0-9]{1,64}$")]
"""A participant's id. The pattern keeps NUL out, which PostgreSQL does not accept in a text."""


# --- from the client --------------------------------------------------------------------------------------------------


class ClientMessage(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Join(ClientMessage):
    """Enter the room; the first message. With `resume`, the other members are not needed and not read."""

    type: Literal["join"]
    role: ParticipantRole = ParticipantRole.GUEST
    name: Name | None = Field(default=None, description="At most `limits.participant_name` characters: 80 by default")
    key: Key | None = Field(default=None, repr=False, description="The host key, from the fragment of the host's link")
    resume: Key | None = Field(
        default=None, repr=False, description="The resume key of an earlier `joined` or `waiting`"
    )

    @model_validator(mode="after")
    def _check_name(self) -> "Join":
        if self.name is None and self.resume is None:
            raise ValueError("needs a name")
        return self


class Leave(ClientMessage):
    """Leave the room, or stop waiting. The server closes the connection."""

    type: Literal["leave"]


class Admit(ClientMessage):
    """Admit somebody who knocked. Hosts only."""

    type: Literal["admit"]
    participant: Id


class Deny(ClientMessage):
    """Deny somebody who knocked. Hosts only."""

    type: Literal["deny"]
    participant: Id


class Remove(ClientMessage):
    """Remove somebody from the room. Hosts only."""

    type: Literal["remove"]
    participant: Id


class End(ClientMessage):
    """Close the session for everybody. Hosts only."""

    type: Literal["end"]


AnyClientMessage = Join | Leave | Admit | Deny | Remove | End

CLIENT_MESSAGES: tuple[type[ClientMessage], ...] = (Join, Leave, Admit, Deny, Remove, End)


def _type(message: type[ClientMessage]) -> str:
    (name,) = message.model_fields["type"].annotation.__args__  # type: ignore[union-attr]  # a Literal with one value
    return str(name)


CLIENT_TYPES: dict[str, type[ClientMessage]] = {_type(message): message for message in CLIENT_MESSAGES}


def parse(text: str) -> AnyClientMessage:
    """Return the message of a client. Raises `InvalidMessage`, which repeats no value of the message."""
    try:
        sent = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidMessage("is not JSON") from None
    if not isinstance(sent, dict):
        raise InvalidMessage("is not a JSON object")
    kind = sent.get("type")
    message = CLIENT_TYPES.get(kind) if isinstance(kind, str) else None
    if message is None:
        raise InvalidMessage(f"has a type that is not one of {', '.join(CLIENT_TYPES)}")
    try:
        return message.model_validate(sent)  # type: ignore[return-value]  # one of CLIENT_MESSAGES
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise InvalidMessage("; ".join(_problem(problem["loc"], problem["msg"]) for problem in problems)) from None


def _problem(where: tuple[Any, ...], message: str) -> str:
    field = ".".join(str(part) for part in where)
    return f"{field}: {message}".removeprefix(": ").replace("Value error, ", "")


# --- from the server --------------------------------------------------------------------------------------------------


class RoomSession(TypedDict):
    """What everybody who has a session's link may see of it."""

    id: str
    type: schemas.SessionType
    label: str
    userDescription: str
    status: schemas.Status
    expiresAt: schemas.Instant
    settings: schemas.Settings
    startTime: NotRequired[schemas.Instant]
    opensAt: NotRequired[schemas.Instant]


class SessionMessage(TypedDict):
    """The session; the first message, repeated when the session changes. `now` is the server's clock."""

    type: Literal["session"]
    now: schemas.Instant
    session: RoomSession


class Joined(TypedDict):
    """The person is in the room. `resume` is a secret with which a new connection represents the same person."""

    type: Literal["joined"]
    participant: str
    role: schemas.ParticipantRole
    resume: str


class Waiting(TypedDict):
    """The person has knocked and waits for a host."""

    type: Literal["waiting"]
    participant: str
    resume: str


class Person(TypedDict):
    """Somebody who is in the room or waits to be admitted. `joinedAt`: since when."""

    id: str
    role: schemas.ParticipantRole
    name: str
    joinedAt: schemas.Instant


class Participants(TypedDict):
    """Everybody in the room, in the order in which they joined; repeated after each change."""

    type: Literal["participants"]
    participants: list[Person]


class Knocking(TypedDict):
    """Everybody who waits to be admitted; repeated after each change. Hosts only."""

    type: Literal["knocking"]
    participants: list[Person]


class Denied(TypedDict):
    """A host did not admit the person, or nobody answered in time. The connection is closed with 4403."""

    type: Literal["denied"]
    reason: Literal["denied", "timeout"]


class Removed(TypedDict):
    """The person is not in the room any more. The connection is closed with 4403.

    `removed`: a host removed them, or they did not reconnect in time. `revoked`: the person was a host, and the
    session's agent was shut out or removed, or has no valid token any more.
    """

    type: Literal["removed"]
    reason: Literal["removed", "revoked"]


class Replaced(TypedDict):
    """Another connection with the same resume key represents the person now. This one is closed with 4409."""

    type: Literal["replaced"]


Closer = Literal["host", "agent", "operator", "daemon"]


class Closed(TypedDict):
    """The session is over, for everybody. The connection is closed with 4410.

    `by`: who ended it: a `host` in the room, the `agent` who created it, an `operator` (anybody else), or the `daemon`
    at a deadline.
    """

    type: Literal["closed"]
    reason: schemas.CloseReason
    by: Closer


class ErrorMessage(TypedDict):
    """A message was refused, in the shape of the API's errors. After a fatal error the connection is closed."""

    type: Literal["error"]
    code: int
    refcode: int
    description: str


SERVER_MESSAGES: tuple[Any, ...] = (
    SessionMessage, Joined, Waiting, Participants, Knocking, Denied, Removed, Replaced, Closed, ErrorMessage
)  # fmt: skip

CLOSE_CODES = {
    1000: "the person left",
    1002: "a frame was not valid",
    1003: "a message was binary",
    1007: "a text was not UTF-8",
    1008: "too many messages, or too many bytes",
    1009: "a message was longer than 64 KiB",
    1011: "internal error",
    1012: "the daemon stops: connect again, with `resume`",
    1013: "the database does not answer: connect again, with `resume`",
    4400: "the first message was not a valid `join`",
    4403: "a wrong key, a session whose agent may not act any more, `denied` or `removed`",
    4404: "there is no such session, or the resume key is not valid any more",
    4408: "no message within 10 s",
    4409: "`replaced`, or another system reports the people of this session",
    4410: "`closed`",
    4429: "the session is full, or the address sent too many wrong ids or keys",
}
"""Every code with which the server closes a connection, and why."""


def schema(message: Any) -> dict[str, Any]:
    """Return the JSON Schema of a message."""
    return TypeAdapter(message).json_schema(ref_template="#/components/schemas/{model}")
