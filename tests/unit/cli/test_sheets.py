"""Files of sessions: values in the forms of spreadsheets are read, and unclear values are errors with their lines."""

from zoneinfo import ZoneInfo

import pytest

from tminus.cli.sheets import MEMBERS, Sheet, SheetError, read, start_time
from tminus.new_sessions import NewSession

BERLIN = ZoneInfo("Europe/Berlin")


def csv(text: str, zone: ZoneInfo | None = BERLIN) -> Sheet:
    return read(text.encode(), ndjson=False, encoding="utf-8", zone=zone, session_type="live")


def ndjson(content: bytes) -> Sheet:
    return read(content, ndjson=True, encoding="utf-8", zone=None, session_type=None)


def errors(text: str) -> list[str]:
    with pytest.raises(SheetError) as found:
        csv(text)
    return found.value.errors


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("2026-12-01T09:00:00Z", "2026-12-01T09:00:00Z"),
        ("2026-12-01T09:00:00+05:30", "2026-12-01T09:00:00+05:30"),
        ("2026-12-01 09:00", "2026-12-01T09:00:00+01:00"),
        ("2026-7-1T9:05:30", "2026-07-01T09:05:30+02:00"),
        ("01.12.2026 09:00", "2026-12-01T09:00:00+01:00"),
    ],
)
def test_a_start_may_be_written_as_people_write_it(text: str, start: str) -> None:
    assert start_time(text, BERLIN) == start


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("46357.375", "is a number, as a spreadsheet stores a date"),
        ("01/12/2026 09:00", "may mean different dates"),
        ("2026-02-30 09:00", "day"),
        ("2026-03-29 02:30", "does not exist in Europe/Berlin"),
        ("2026-10-25 02:30", "comes twice in Europe/Berlin"),
        ("tomorrow", "tomorrow"),
    ],
)
def test_a_start_that_is_not_clear_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        start_time(text, BERLIN)


def test_a_time_without_an_offset_needs_a_time_zone() -> None:
    with pytest.raises(ValueError, match="--timezone Europe/Berlin"):
        start_time("2026-12-01 09:00", None)


def test_a_row_has_a_record_people_and_a_description() -> None:
    sheet = csv(
        "Label;Start;Description;Invite;Parent Table;Parent-ID;parent_name;note\n"
        "A;2030-01-01T09:00:00Z;Ann;Joe <joe@example.com>,ann@example.com;incident;4711;INC0042;x\n".replace(
            ", ann", ",ann"
        )
    )

    assert sheet.ignored == ["note"]
    assert sheet.lines == [2]
    assert sheet.sessions == [
        {
            "label": "A",
            "startTime": "2030-01-01T09:00:00Z",
            "type": "live",
            "userDescription": "Ann",
            "invitees": [
                {"email": "joe@example.com", "name": "Joe", "role": "guest"},
                {"email": "ann@example.com", "name": "", "role": "guest"},
            ],
            "externalMapping": "incident.4711",
            "parentObject": {
                "id": "4711", "type": "incident", "name": "INC0042", "sync": False, "provider": "tminus"
            },
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("", "there are no sessions in this file"),
        ("label,start\n", "there are no sessions in this file"),
        ("label,startTme\nA,2030-01-01T09:00:00Z\n", "the heading has no column start"),
        ("label,start\nA,\n", "line 2: has no start"),
        ("live,A\n", "the heading must have the names of the columns, such as: type,label,start"),
        ("label,Title\nA,B\n", "the heading has two columns for label"),
        ("label,start\nA,2030-01-01T09:00:00Z,more\n", "line 2: has 3 cells, and the heading has 2"),
        ("label,start,parent_id\nA,2030-01-01T09:00:00Z,1\n", "line 2: parent_table and parent_id go together"),
        ('label,start\n"A,2030\n', "line 2: unexpected end of data"),
        (
            "label,start\n" + "A,2030-01-01T09:00:00Z\n" * 10_001,
            "there are 10001 sessions in this file, and the maximum is 10000",
        ),
    ],
)
def test_errors_name_the_line(text: str, first: str) -> None:
    assert errors(text)[0].startswith(first)


def test_text_in_quotes_may_have_lines_and_quotes_and_the_next_row_has_its_line() -> None:
    sheet = csv('label,start\n"A ""b""\nc",2030-01-01T09:00:00Z\nD,2030-01-01T09:00:00Z\n')

    assert [one["label"] for one in sheet.sessions] == ['A "b"\nc', "D"]
    assert sheet.lines == [2, 4]


def test_errors_in_lines_of_json_name_the_line() -> None:
    with pytest.raises(SheetError) as found:
        ndjson(b'{"label":"A","startTme":"2030-01-01T09:00:00Z"}\n\n[1]\n{"label":\n')

    assert found.value.errors[:2] == [
        "line 1 has no startTime",
        "line 3 is not an object: each line has one session",
    ]
    assert found.value.errors[2].startswith("line 4 is not JSON: ")
    assert found.value.errors[3] == "these names are not known: startTme"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ('"metaData":{"a":[NaN]}', "line 2 is wrong: metaData.a.0 must be a JSON number: JSON has no NaN"),
        ('"metaData":{"a":-Infinity}', "line 2 is wrong: metaData.a must be a JSON number: JSON has no -Infinity"),
        ('"metaData":{"a":1e400}', "line 2 is wrong: metaData.a must fit in a double: at most 1.7976931348623157e308"),
        ('"metaData":{"a":1e-400}', "line 2 is wrong: metaData.a must fit in a double: 0, or at least 5e-324"),
        ('"metaData":{"a":18446744073709551616}', "line 2 is wrong: metaData.a must be an integer of at most 64 bits"),
        ('"metaData":"\\ud800"', "line 2 is wrong: metaData must not contain half of a surrogate pair"),
        ('"metaData":{"b":1,"b":2}', 'line 2 is wrong: metaData must not have two members with the same name: "b"'),
        ('"label":"B"', 'line 2 must not have two members with the same name: "label"'),
        (
            f'"metaData":{{"a":{"[" * 200}{"]" * 200}}}',
            "line 2 is wrong: metaData.a.0.0 is nested more than 200 levels",
        ),
        (f'"metaData":{{"a":{"[" * 9999}{"]" * 9999}}}', "line 2 is nested more than 200 levels deep"),
    ],
)
def test_a_value_that_the_api_would_refuse_or_change_is_refused_with_its_line(members: str, reason: str) -> None:
    with pytest.raises(SheetError) as found:
        ndjson(f'\n{{"startTime":"2030-01-01T09:00:00Z","label":"A",{members}}}\n'.encode())
    [error] = found.value.errors
    assert error.startswith(reason)


def test_a_codec_that_does_not_say_where_a_file_is_wrong_is_an_error_too() -> None:
    with pytest.raises(SheetError) as found:
        read(b"label,start\nA,2030\n", ndjson=False, encoding="punycode", zone=None, session_type="live")
    [error] = found.value.errors
    assert "is not in punycode: " in error


def test_an_unknown_name_is_reported_and_all_members_of_the_api_are_known() -> None:
    assert ndjson(b'{"label":"A","startTime":"2030-01-01T09:00:00Z","invitee":[]}').ignored == ["invitee"]
    assert frozenset(NewSession.model_fields) == MEMBERS
