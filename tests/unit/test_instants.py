"""How an instant is written and stored."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql, sqlite
from tests.support.clocks import NOW

from tminus import clock, instants
from tminus.instants import EPOCH
from tminus.model import Instant

OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# Two days from both ends of what a datetime can hold, so that every offset can be expressed.
MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=OFFSETS)  # noqa: DTZ001 - as it wants them
DIALECTS = pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()])  # type: ignore[no-untyped-call]


def test_an_instant_is_written_in_utc_with_three_decimals_and_z() -> None:
    assert instants.text(datetime(2021, 8, 10, 15, 30, tzinfo=UTC)) == "2021-08-10T15:30:00.000Z"


@given(MOMENTS)
def test_an_instant_is_written_in_24_characters_whatever_its_zone(moment: datetime) -> None:
    written = instants.text(moment)
    assert (len(written), written[-1], written[-5]) == (24, "Z", ".")


@given(MOMENTS)
def test_what_was_written_reads_back_as_the_same_instant_to_the_millisecond(moment: datetime) -> None:
    read = instants.parse(instants.text(moment))
    assert read == instants.to_milliseconds(moment)
    assert read.tzinfo is UTC


@given(MOMENTS)
def test_any_offset_names_the_same_instant(moment: datetime) -> None:
    assert instants.parse(moment.isoformat()) == instants.to_milliseconds(moment)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2021-08-10T15:30:00Z", 0),
        ("2021-08-10T17:30:00+02:00", 0),
        ("2021-08-10T10:00:00-05:30", 0),
        ("2021-08-10T15:30Z", 0),
        ("20210810T153000Z", 0),
        ("2021-08-10T15:30:00.999999Z", 0.999),
    ],
)
def test_iso_8601_is_read_in_its_usual_spellings_and_cut_to_milliseconds(text: str, seconds: float) -> None:
    assert instants.parse(text) == datetime(2021, 8, 10, 15, 30, tzinfo=UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["2021-08-10T15:30:00", "2021-08-10 15:30", "20210810T153000.000"])
def test_a_time_without_an_offset_is_refused_not_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        instants.parse(text)


# A leap second among them: no clock here counts one, so nothing could happen at it.
NO_TIMES = ["", "tomorrow", "2021-08-10", "1628609400", "2021-02-30T00:00:00Z", "2021-08-10T15:30:00+2",
            "2016-12-31T23:59:60Z", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z",
            "2021-08-10T15:30:00+24:00"]  # fmt: skip


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an ISO 8601 .* for example 2021-08-10T15:30:00\.000Z"):
        instants.parse(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_an_instant_outside_the_years_1_to_9999_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="outside the years"):
        instants.parse(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"])
def test_the_first_and_the_last_instant_read_back_as_they_were_written(text: str) -> None:
    assert instants.text(instants.parse(text)) == text


@settings(max_examples=60)
@given(
    st.text()
    | st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})\Z")
)
def test_reading_raises_nothing_but_value_error(text: str) -> None:
    read = None
    with suppress(ValueError):
        read = instants.parse(text)
    assert read is None or read.tzinfo is UTC


@DIALECTS
@given(moment=MOMENTS)
def test_a_stored_instant_is_whole_milliseconds_since_1970_and_comes_back_as_it_was(
    dialect: Dialect, moment: datetime
) -> None:
    cut = instants.to_milliseconds(moment.astimezone(UTC))
    number = Instant().process_bind_param(cut, dialect)
    assert number is not None
    assert EPOCH + timedelta(milliseconds=number) == cut
    assert Instant().process_result_value(number, dialect) == cut


@DIALECTS
def test_no_instant_is_stored_as_null(dialect: Dialect) -> None:
    assert Instant().process_bind_param(None, dialect) is None
    assert Instant().process_result_value(None, dialect) is None


def test_an_instant_without_a_zone_cannot_be_stored() -> None:
    with pytest.raises(TypeError):
        Instant().process_bind_param(NOW.replace(tzinfo=None), sqlite.dialect())


@given(st.integers(-(10**12), 10**12))
def test_a_span_is_counted_in_whole_milliseconds(number: int) -> None:
    assert instants.milliseconds(timedelta(milliseconds=number, microseconds=999)) == number


def test_the_wall_clock_is_read_in_utc_and_cut_to_the_millisecond() -> None:
    before = datetime.now(UTC)
    now = clock.now()
    assert before - timedelta(milliseconds=1) < now <= datetime.now(UTC)
    assert (now.tzinfo, now.microsecond % 1000) == (UTC, 0)
