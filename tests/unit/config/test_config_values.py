"""Parsing and formatting of the values of settings."""

from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tminus.config import addresses, values
from tminus.config.addresses import Address
from tminus.config.values import Rate
from tminus.domain import durations


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("10m", timedelta(minutes=10)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("3d", timedelta(days=3)),
        ("90s", timedelta(seconds=90)),
        ("1m5ms", timedelta(minutes=1, milliseconds=5)),
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
    ],
)
def test_a_duration_is_numbers_with_units(text: str, span: timedelta) -> None:
    assert durations.parse_duration(text) == span


@pytest.mark.parametrize("value", ["", "10", "10 m", "30m1h", "-1h", "1.5h", "1w", "h", "٣m", 10, True, None, [], {}])
def test_other_text_is_refused_as_a_duration(value: object) -> None:
    with pytest.raises(ValueError, match="must be a duration such as"):
        durations.parse_duration(value)


@pytest.mark.parametrize("text", ["36501d", "99999999999999999999d", "9" * 5000 + "d"])
def test_a_duration_beyond_a_century_is_refused_however_long(text: str) -> None:
    with pytest.raises(ValueError, match="at most"):
        values.duration()(text)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36500)))
def test_a_duration_reads_back_as_it_was_written_to_the_millisecond(span: timedelta) -> None:
    assert durations.parse_duration(durations.duration_text(span)) == span // timedelta(milliseconds=1) * timedelta(
        milliseconds=1
    )


@given(st.text() | st.integers() | st.floats())
def test_a_parser_raises_only_value_error(value: object) -> None:
    for read in (
        values.duration(),
        values.duration_or_never("0"),
        values.parse_size,
        values.parse_rate,
        values.parse_expiry,
        addresses.parse_address,
        addresses.parse_base_url,
        addresses.parse_database_url,
        addresses.parse_origin,
        addresses.parse_receiver,
        addresses.parse_network,
    ):
        with suppress(ValueError):
            read(value)


def test_zero_means_never_only_where_documented() -> None:
    assert values.duration_or_never("0")("0") is None
    assert values.duration_or_never("0")("0s") is None
    assert values.duration_or_never("")("") is None
    with pytest.raises(ValueError, match='longer than 0; "" means never'):
        values.duration_or_never("")("0")
    with pytest.raises(ValueError, match='"0" means never'):
        values.duration_or_never("0")("")


@given(st.integers(min_value=0, max_value=2**40))
def test_a_size_reads_back_as_it_was_written(size: int) -> None:
    assert values.parse_size(values.size_text(size)) == size


@pytest.mark.parametrize(("text", "size"), [("64KiB", 65536), ("64 KB", 64000), ("1MiB", 2**20), ("2GB", 2 * 10**9)])
def test_a_size_counts_in_thousands_or_in_1024s(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize("value", ["64", "64kib", "64K", "-1B", "1.5MiB", "", 64, None])
def test_other_text_is_refused_as_a_size(value: object) -> None:
    with pytest.raises(ValueError, match="must be a size such as"):
        values.parse_size(value)


@given(st.integers(min_value=1, max_value=10**9 - 1), st.sampled_from([1, 60, 3600]))
def test_a_rate_reads_back_as_it_was_written(count: int, seconds: int) -> None:
    assert values.parse_rate(str(Rate(count, seconds))) == Rate(count, seconds)


@pytest.mark.parametrize("value", ["30", "0/minute", "30/day", "30 / minute", "-1/second", 30])
def test_other_text_is_refused_as_a_rate(value: object) -> None:
    with pytest.raises(ValueError, match="must be a rate such as"):
        values.parse_rate(value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8710", Address("127.0.0.1", 8710)),
        ("[::1]:8710", Address("::1", 8710)),
        ("localhost:0", Address("localhost", 0)),
    ],
)
def test_an_address_reads_back_as_it_was_written(text: str, address: Address) -> None:
    assert addresses.parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize("value", ["8710", ":8710", "::1:8710", "[1::2::3]:1", "a:65536", "a:-1", "a b:1", "a:", 8710])
def test_other_text_is_refused_as_an_address(value: object) -> None:
    with pytest.raises(ValueError, match="must be host:port"):
        addresses.parse_address(value)


def test_a_base_url_loses_the_slash_at_its_end() -> None:
    assert addresses.parse_base_url("https://a.example/meet/") == "https://a.example/meet"


@pytest.mark.parametrize(
    "value",
    ["a.example", "ftp://a.example", "https://", "https://u:hunter2@a", "https://a?hunter2", "https://a#hunter2",
     "https://a:hunter2", "https://a\nb", "http://[::1", 5],
)  # fmt: skip
def test_a_base_url_is_http_without_user_query_or_fragment_and_a_wrong_one_is_not_repeated(value: object) -> None:
    with pytest.raises(ValueError, match="must be a URL") as caught:
        addresses.parse_base_url(value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["*", "https://Desk.example.com", "http://[::1]:3000", "app://localhost"])
def test_an_origin_is_a_scheme_and_a_host_in_lower_case(text: str) -> None:
    assert addresses.parse_origin(text) == text.lower()


@pytest.mark.parametrize("value", ["desk.example.com", "https://a/", "https://a/b", "https://a:99999", "https://*", 5])
def test_other_text_is_refused_as_an_origin(value: object) -> None:
    with pytest.raises(ValueError, match="must contain"):
        addresses.parse_origin(value)


@pytest.mark.parametrize(
    ("text", "receiver"),
    [
        ("https://desk.example.com/cb.html", "https://desk.example.com/cb.html"),
        ("https://Desk.Example.com", "https://desk.example.com/"),
        ("https://desk.example.com:443/a/", "https://desk.example.com/a/"),
        ("https://desk.example.com:8443/a%20b", "https://desk.example.com:8443/a%20b"),
        ("https://straße.test/cb", "https://xn--strae-oqa.test/cb"),
        ("http://localhost:3000/cb", "http://localhost:3000/cb"),
        ("http://127.0.0.1:80/cb", "http://127.0.0.1/cb"),
        ("http://[::1]:3000/cb", "http://[::1]:3000/cb"),
    ],
)
def test_a_receiver_is_a_url_in_the_form_in_which_browsers_send_it(text: str, receiver: str) -> None:
    assert addresses.parse_receiver(text) == receiver
    assert addresses.parse_receiver(receiver) == receiver


@pytest.mark.parametrize(
    "value",
    ["desk.example.com/cb", "http://desk.example.com/cb", "http://localhost.example.com/cb", "https://u:hunter2@a/cb",
     "https://a/cb?hunter2", "https://a/cb#hunter2", "https://a/cb?", "https://a/b/../c", "https://a/%2e%2E/c",
     "https://a//c", "https://a\\b/c", "https://a/b\\c", "https://a/ä", "https://a/b c", "https://a:0/cb",
     "https://a:99999/cb", "javascript:alert(1)", "ftp://a/cb", "*", "https://*.example.com/cb", "", None, 5],
)  # fmt: skip
def test_other_text_is_refused_as_a_receiver_and_not_repeated(value: object) -> None:
    with pytest.raises(ValueError, match="must ") as caught:
        addresses.parse_receiver(value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["10.0.0.7", "10.0.0.0/8", "::1", "fd00::/8"])
def test_a_network_reads_back_as_it_was_written(text: str) -> None:
    assert addresses.network_text(addresses.parse_network(text)) == text
    assert addresses.parse_network(text) == ip_network(text)


@pytest.mark.parametrize("value", ["localhost", "10.0.0.7/8", "10.0.0.0/33", 10])
def test_other_text_is_refused_as_a_network(value: object) -> None:
    with pytest.raises(ValueError, match=r"must contain|beyond its mask"):
        addresses.parse_network(value)


@pytest.mark.parametrize(
    "text", ["sqlite:///a.db", "sqlite:////var/a.db", "postgresql+psycopg://u@h:5432/n?sslmode=require",
             "postgresql+psycopg:///n?host=/run/postgresql"]
)  # fmt: skip
def test_a_database_is_an_sqlite_file_or_postgresql(text: str) -> None:
    assert addresses.parse_database_url(text) == text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("mysql://u@h/n", "must begin with"),
        ("postgresql://u@h/n", r'must begin with .* "postgresql\+psycopg://"'),
        ("tminus.db", "must begin with"),
        (5, "must begin with"),
        ("sqlite://", "must name a file"),
        ("sqlite:///", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("postgresql+psycopg://u:hunter2@h/n", "must not contain a password"),
        ("postgresql+psycopg://u:12/hunter2@h/n", "must not contain a password"),
        ("postgresql+psycopg://u@h/n?password=hunter2", "must not contain a password"),
        ("postgresql+psycopg://u:hunter2/x@h/n", "without a password"),
    ],
)
def test_any_other_database_is_refused_and_a_password_in_it_not_repeated(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        addresses.parse_database_url(value)
    assert "hunter2" not in str(caught.value)
