"""Parsing, formatting and storing of times."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql, sqlite
from tests.support.clocks import NOW

from tminus import clock
from tminus.domain import timestamps
from tminus.domain.model import Instant
from tminus.domain.timestamps import EPOCH

OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# Two days inside the range of `datetime`, so that every moment can have every offset.
MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=OFFSETS)  # noqa: DTZ001 - bounds are naive
DIALECTS = pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()])  # type: ignore[no-untyped-call]


def cut_to_milliseconds(instant: datetime) -> datetime:
    """Return the same instant, cut (not rounded) to the millisecond."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def test_an_instant_is_written_in_utc_with_three_decimals_and_z() -> None:
    assert timestamps.text(datetime(2021, 8, 10, 15, 30, tzinfo=UTC)) == "2021-08-10T15:30:00.000Z"


@given(MOMENTS)
def test_an_instant_is_written_in_24_characters_whatever_its_zone(moment: datetime) -> None:
    written = timestamps.text(moment)
    assert (len(written), written[-1], written[-5]) == (24, "Z", ".")


@given(MOMENTS)
def test_a_written_instant_reads_back_to_the_millisecond(moment: datetime) -> None:
    read = timestamps.parse(timestamps.text(moment))
    assert read == cut_to_milliseconds(moment)
    assert read.tzinfo is UTC


@given(MOMENTS)
def test_any_offset_names_the_same_instant(moment: datetime) -> None:
    assert timestamps.parse(moment.isoformat()) == cut_to_milliseconds(moment)


@given(
    date=st.tuples(st.integers(0, 9999), st.integers(0, 13), st.integers(0, 32)),
    time=st.tuples(st.integers(0, 25), st.integers(0, 61), st.integers(0, 61)),
    rest=st.sampled_from(["Z", ".007Z", ".999Z", "+00:00", ".250+00:00"]),
)
def test_the_usual_form_means_the_same_as_another_form_of_the_same_time(
    date: tuple[int, int, int], time: tuple[int, int, int], rest: str
) -> None:
    """The usual form is parsed by the standard library, others are not."""
    usual = "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}".format(*date, *time) + rest
    found: list[datetime | str] = []
    for text in (usual, usual.replace("T", " ")):
        try:
            found.append(timestamps.parse(text))
        except ValueError as error:
            found.append(str(error))
    assert found[0] == found[1]


# Text -> the same instant in the form of the answers of the API, or None if the text is refused.
FORMS: dict[str, str | None] = {
    # RFC 3339: its own examples first
    "1985-04-12T23:20:50.52Z": "1985-04-12T23:20:50.520Z",
    "1996-12-19T16:39:57-08:00": "1996-12-20T00:39:57.000Z",
    "1937-01-01T12:00:27.87+00:20": "1937-01-01T11:40:27.870Z",
    "2021-08-10T15:30:00Z": "2021-08-10T15:30:00.000Z",
    "2021-08-10T15:30:00.000Z": "2021-08-10T15:30:00.000Z",
    "2021-08-10t15:30:00z": "2021-08-10T15:30:00.000Z",
    "2021-08-10t15:30:00Z": "2021-08-10T15:30:00.000Z",
    "2021-08-10T15:30:00z": "2021-08-10T15:30:00.000Z",
    "2021-08-10 15:30:00Z": "2021-08-10T15:30:00.000Z",
    "2021-08-10 15:30:00+00:00": "2021-08-10T15:30:00.000Z",
    "2021-08-10T15:30:00+00:00": "2021-08-10T15:30:00.000Z",
    "2021-08-10T15:30:00-00:00": "2021-08-10T15:30:00.000Z",
    "2021-08-10T17:30:00+02:00": "2021-08-10T15:30:00.000Z",
    "2021-08-10T10:00:00-05:30": "2021-08-10T15:30:00.000Z",
    "2021-08-10T21:15:00+05:45": "2021-08-10T15:30:00.000Z",
    "2021-08-11T05:30:00+14:00": "2021-08-10T15:30:00.000Z",
    "2021-08-10T00:10:00+23:59": "2021-08-09T00:11:00.000Z",
    "2021-08-10T23:50:00-23:59": "2021-08-11T23:49:00.000Z",
    "2021-12-31T23:30:00-01:00": "2022-01-01T00:30:00.000Z",
    "2020-02-29T00:00:00Z": "2020-02-29T00:00:00.000Z",
    "2000-02-29T12:00:00+12:00": "2000-02-29T00:00:00.000Z",
    "2020-03-01T00:30:00+01:00": "2020-02-29T23:30:00.000Z",
    "0001-01-01T00:00:00Z": "0001-01-01T00:00:00.000Z",
    "9999-12-31T23:59:59.999Z": "9999-12-31T23:59:59.999Z",
    "1969-12-31T23:59:59.999Z": "1969-12-31T23:59:59.999Z",
    # fractions of a second, of any length: cut, never rounded
    "2021-08-10T15:30:00.5Z": "2021-08-10T15:30:00.500Z",
    "2021-08-10T15:30:00.05Z": "2021-08-10T15:30:00.050Z",
    "2021-08-10T15:30:00.0Z": "2021-08-10T15:30:00.000Z",
    "2021-08-10T15:30:00.9999Z": "2021-08-10T15:30:00.999Z",
    "2021-08-10T15:30:00.999999Z": "2021-08-10T15:30:00.999Z",
    "2021-08-10T15:30:00.123456789Z": "2021-08-10T15:30:00.123Z",
    f"2021-08-10T15:30:00.{'9' * 200}Z": "2021-08-10T15:30:00.999Z",
    "2021-08-10T15:30:00.123456789+02:00": "2021-08-10T13:30:00.123Z",
    "1969-12-31T23:59:59.9999Z": "1969-12-31T23:59:59.999Z",
    # ISO 8601: a comma, no seconds, an offset without colon or minutes, everything without separators
    "2021-08-10T15:30:00,5Z": "2021-08-10T15:30:00.500Z",
    "2021-08-10T15:30Z": "2021-08-10T15:30:00.000Z",
    "2021-08-10 15:30Z": "2021-08-10T15:30:00.000Z",
    "2021-08-10T15:30+02:00": "2021-08-10T13:30:00.000Z",
    "2021-08-10T15:30:00.000+0000": "2021-08-10T15:30:00.000Z",
    "2021-08-10T15:30:00-0530": "2021-08-10T21:00:00.000Z",
    "2021-08-10T15:30:00+02": "2021-08-10T13:30:00.000Z",
    "2021-08-10 15:30:00+02": "2021-08-10T13:30:00.000Z",
    "20210810T153000Z": "2021-08-10T15:30:00.000Z",
    "20210810t153000z": "2021-08-10T15:30:00.000Z",
    "20210810T1530Z": "2021-08-10T15:30:00.000Z",
    "20210810T153000.25Z": "2021-08-10T15:30:00.250Z",
    "20210810T153000,25Z": "2021-08-10T15:30:00.250Z",
    "20210810T153000+0200": "2021-08-10T13:30:00.000Z",
    "20210810T1530-05": "2021-08-10T20:30:00.000Z",
    "20210810T153000+02:00": "2021-08-10T13:30:00.000Z",
    # fractions of an hour or a minute
    "2021-08-10T10.5Z": None,
    "2021-08-10T10,5Z": None,
    "2021-08-10T10:30.5Z": None,
    "20210810T10.5Z": None,
    "20210810T1030.5Z": None,
    # no such time
    "2021-08-10T24:00:00Z": None,
    "2021-08-10T24:00Z": None,
    "2021-08-10T25:00:00Z": None,
    "2021-08-10T23:60:00Z": None,
    "2021-08-10T23:59:61Z": None,
    "2021-02-29T00:00:00Z": None,
    "2021-02-30T00:00:00Z": None,
    "1900-02-29T00:00:00Z": None,
    "2021-00-10T00:00:00Z": None,
    "2021-13-10T00:00:00Z": None,
    "2021-08-00T00:00:00Z": None,
    "2021-08-32T00:00:00Z": None,
    # leap seconds
    "2016-12-31T23:59:60Z": None,
    "1990-12-31T15:59:60-08:00": None,
    "2016-12-31T23:59:60.5Z": None,
    # years
    "0000-01-01T00:00:00Z": None,
    "0000-12-31T23:59:59-01:00": None,
    "10000-01-01T00:00:00Z": None,
    "-0001-01-01T00:00:00Z": None,
    "+2021-08-10T15:30:00Z": None,
    "+002021-08-10T15:30:00Z": None,
    "21-08-10T15:30:00Z": None,
    "0001-01-01T00:00:00+00:01": None,
    "9999-12-31T23:59:00-00:01": None,
    # offsets
    "2021-08-10T15:30:00": None,
    "2021-08-10 15:30": None,
    "20210810T153000.000": None,
    "2021-08-10T10:30:00+05:99": None,
    "2021-08-10T10:30:00+05:60": None,
    "2021-08-10T15:30:00+24:00": None,
    "2021-08-10T15:30:00+99:99": None,
    "2021-08-10T15:30:00+2": None,
    "2021-08-10T15:30:00+2:00": None,
    "2021-08-10T15:30:00+02:0": None,
    "2021-08-10T15:30:00+02:00:00": None,
    "2021-08-10T15:30:00+020000": None,
    "2021-08-10T15:30:00+02:00Z": None,
    "2021-08-10T15:30:00ZZ": None,
    "2021-08-10T15:30:00 Z": None,
    "2021-08-10T15:30:00 +02:00": None,
    "2021-08-10T15:30:00 02:00": None,
    "2021-08-10T15:30:00\u221205:00": None,
    "2021-08-10T15:30:00UTC": None,
    "2021-08-10T15:30:00 GMT": None,
    "2021-08-10T15:30:00Europe/Berlin": None,
    "2021-08-10T15:30:00+02:00[Europe/Berlin]": None,
    "2021-08-10T15:30:00CEST": None,
    # a mixture of the basic and the extended form of ISO 8601
    "2021-08-10T12345678Z": None,
    "2021-08-10T153000Z": None,
    "20210810T15:30:00Z": None,
    "2021-0810T15:30:00Z": None,
    "2021-08-10T15:3000Z": None,
    "20210810 153000Z": None,
    "20210810153000Z": None,
    # separators and digits
    "2021-08-10_15:30:00Z": None,
    "2021-08-10  15:30:00Z": None,
    "2021-08-10\t15:30:00Z": None,
    "2021/08/10T15:30:00Z": None,
    "2021-8-10T15:30:00Z": None,
    "2021-08-10T5:30:00Z": None,
    "2021-08-10T15:30:00.Z": None,
    "2021-08-10T15:30:00.5.5Z": None,
    "2021-08-10T15:30:.5Z": None,
    "2021-08-10T15:30:00-.5Z": None,
    " 2021-08-10T15:30:00Z": None,
    "2021-08-10T15:30:00Z ": None,
    "2021-08-10T15:30:00Z\n": None,
    "2021-08-10T15:30:00Z\0": None,
    "\ufeff2021-08-10T15:30:00Z": None,
    "\u0662\u0660\u0662\u0661-08-10T15:30:00Z": None,
    "\uff12021-08-10T15:30:00Z": None,
    # other notations
    "": None,
    "tomorrow": None,
    "now": None,
    "2021-08-10": None,
    "15:30:00Z": None,
    "1628609400": None,
    "1628609400000": None,
    "2021-W32-2T15:30:00Z": None,
    "2021W322T153000Z": None,
    "2021-222T15:30:00Z": None,
    "Tue, 10 Aug 2021 15:30:00 GMT": None,
    "Tue Aug 10 15:30:00 2021": None,
    "08/10/2021 15:30": None,
    "10.08.2021 15:30": None,
    "2021-08-10T15:30:00Z/PT1H": None,
    "P1D": None,
}


@pytest.mark.parametrize(("text", "meaning"), FORMS.items(), ids=lambda text: repr(text)[:60])
def test_every_form_of_a_date_is_parsed_correctly_or_refused(text: str, meaning: str | None) -> None:
    if meaning is None:
        with pytest.raises(ValueError, match=r"^(is not an? |has no time zone|is a leap|has an offset|is outside)"):
            timestamps.parse(text)
    else:
        assert timestamps.text(timestamps.parse(text)) == meaning


@pytest.mark.parametrize("text", ["2021-08-10T15:30:00", "2021-08-10 15:30", "20210810T153000.000"])
def test_a_time_without_an_offset_is_refused_not_guessed(text: str) -> None:
    with pytest.raises(ValueError, match=r"has no time zone: end it with Z or an offset, for example 2030-08-10T15:3"):
        timestamps.parse(text)


def test_an_invalid_time_is_refused_with_an_example_or_the_reason() -> None:
    with pytest.raises(ValueError, match=r"^is not an RFC 3339 date and time, for example 2030-08-10T15:30:00\.000Z$"):
        timestamps.parse("tomorrow")
    with pytest.raises(ValueError, match="day is out of range for month"):
        timestamps.parse("2021-02-30T00:00:00Z")
    with pytest.raises(ValueError, match="is a leap second"):
        timestamps.parse("2016-12-31T23:59:60Z")


def test_an_offset_whose_plus_a_url_has_decoded_is_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match=r'in a URL, write "\+" as %2B'):
        timestamps.parse("2021-08-10T15:30:00 02:00")


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_an_instant_outside_the_years_1_to_9999_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="outside the years"):
        timestamps.parse(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"])
def test_the_first_and_the_last_instant_read_back_as_they_were_written(text: str) -> None:
    assert timestamps.text(timestamps.parse(text)) == text


@settings(max_examples=60)
@given(
    st.text()
    | st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})\Z")
)
def test_parsing_raises_only_value_error(text: str) -> None:
    read = None
    with suppress(ValueError):
        read = timestamps.parse(text)
    assert read is None or read.tzinfo is UTC


@DIALECTS
@given(moment=MOMENTS)
def test_a_stored_instant_is_whole_milliseconds_since_1970_and_comes_back_as_it_was(
    dialect: Dialect, moment: datetime
) -> None:
    cut = cut_to_milliseconds(moment.astimezone(UTC))
    number = Instant().process_bind_param(cut, dialect)
    assert number is not None
    assert EPOCH + timedelta(milliseconds=number) == cut
    assert Instant().result_processor(dialect, None)(number) == cut


@DIALECTS
def test_none_is_stored_as_null(dialect: Dialect) -> None:
    assert Instant().process_bind_param(None, dialect) is None
    assert Instant().result_processor(dialect, None)(None) is None


def test_an_instant_without_a_zone_cannot_be_stored() -> None:
    with pytest.raises(TypeError):
        Instant().process_bind_param(NOW.replace(tzinfo=None), sqlite.dialect())


@given(st.integers(-(10**12), 10**12))
def test_a_span_is_counted_in_whole_milliseconds(number: int) -> None:
    assert timestamps.milliseconds(timedelta(milliseconds=number, microseconds=999)) == number


def test_the_wall_clock_is_read_in_utc_and_cut_to_the_millisecond() -> None:
    before = datetime.now(UTC)
    now = clock.now()
    assert before - timedelta(milliseconds=1) < now <= datetime.now(UTC)
    assert (now.tzinfo, now.microsecond % 1000) == (UTC, 0)
