"""The messages of rooms: which are accepted, and which are refused."""

import contextlib
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tminus.domain.errors import InvalidMessage
from tminus.domain.types import ParticipantRole
from tminus.monitoring.metrics import ROOM_MESSAGES, ROOM_STATES
from tminus.rooms import asyncapi, protocol
from tminus.rooms.protocol import Admit, Join, parse
from tminus.rooms.visitor import CLOSE_CODES, Stage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.text())
def test_any_text_is_a_message_or_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidMessage):
        assert parse(text).type in protocol.CLIENT_TYPES


@given(st.sampled_from(list(protocol.CLIENT_TYPES)), st.dictionaries(st.text(), JSON, max_size=5))
def test_any_members_are_a_message_or_are_refused(kind: str, members: dict[str, object]) -> None:
    try:
        message = parse(json.dumps({**members, "type": kind}))
    except InvalidMessage:
        return
    assert message.type == kind


@given(st.text(max_size=300))
def test_a_name_that_is_read_is_visible_short_and_on_one_line(name: str) -> None:
    try:
        message = parse(json.dumps({"type": "join", "name": name}))
    except InvalidMessage:
        return
    assert isinstance(message, Join)
    assert message.name == name.strip()
    assert 1 <= len(message.name) <= 255
    assert not {unicodedata.category(char) for char in message.name} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(message.name) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


@pytest.mark.parametrize("name", [
    "Ada", "Ada Lovelace", "علی‌رضا", "李小龍", "👩‍💻", "O’Brien", "x" * 80, "Zoë", "ที่ปี้", "Nguye\u0302\u0303n",
    "שִׁמְעוֹן", "བསྒྲུབས",
])  # fmt: skip
def test_names_of_people_are_accepted(name: str) -> None:
    message = parse(json.dumps({"type": "join", "name": name}))
    assert isinstance(message, Join)
    assert (message.name, message.role) == (name, ParticipantRole.GUEST)


@pytest.mark.parametrize(
    "name", ["\u3164", "\u115f\u1160", "\uffa0 \u2800", "\u0301\u200d", "a" + "\u0301" * 5, "a\u20dd" + "\u20dd" * 4]
)
def test_a_name_that_shows_nothing_or_covers_other_lines_is_refused(name: str) -> None:
    with pytest.raises(InvalidMessage, match="name: must"):
        parse(json.dumps({"type": "join", "name": name}))


@pytest.mark.parametrize("kind", ["admit", "deny", "remove"])
@pytest.mark.parametrize("participant", ["", "a\0b", "x" * 65, "a-b", "a\n"])
def test_an_id_that_no_participant_can_have_is_refused(kind: str, participant: str) -> None:
    with pytest.raises(InvalidMessage, match="participant: "):
        parse(json.dumps({"type": kind, "participant": participant}))


def test_an_error_repeats_no_value_of_the_message() -> None:
    for members in ({"name": "secret\n"}, {"name": "Ada", "key": "secret" * 50}, {"name": "Ada", "role": "secret"}):
        with pytest.raises(InvalidMessage) as refused:
            parse(json.dumps({"type": "join", **members}))
        assert "secret" not in refused.value.description


def test_a_key_is_not_part_of_a_representation() -> None:
    message = parse('{"type": "join", "name": "Ada", "key": "secret", "resume": "secret"}')
    assert "secret" not in repr(message)


def test_unknown_members_are_ignored() -> None:
    assert parse('{"type": "admit", "participant": "a", "why": 1}') == Admit(type="admit", participant="a")


def test_metrics_have_every_type_of_message_and_every_state() -> None:
    assert tuple(protocol.CLIENT_TYPES) == ROOM_MESSAGES
    assert [stage.value for stage in Stage if stage is not Stage.ENDED] == list(ROOM_STATES)


def test_the_description_has_every_message_and_every_reference_leads_somewhere() -> None:
    described = asyncapi.document()
    messages = described["channels"]["room"]["messages"]
    assert len(messages) == len(protocol.CLIENT_MESSAGES) + len(protocol.SERVER_MESSAGES)
    for reference in _references(described):
        found = described
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    for message in messages.values():
        schema = described["components"]["schemas"][message["payload"]["$ref"].rpartition("/")[2]]
        assert schema["properties"]["type"]["const"] == message["name"]
        assert "type" in schema["required"]


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for member in value.values() for found in _references(member)]
    return [found for member in value for found in _references(member)] if isinstance(value, list) else []


def test_every_code_of_an_error_is_described() -> None:
    assert set(CLOSE_CODES.values()) <= set(protocol.CLOSE_CODES)
