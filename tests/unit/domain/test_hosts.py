"""Hosts are stored in one form, and ambiguous hosts are refused."""

import pytest

from tminus.client import InvalidRequest, ScreenMeet
from tminus.config import Settings
from tminus.config.addresses import parse_base_url, parse_endpoint, parse_origin
from tminus.domain.hosts import ascii_host

ONE_FORM = {
    "localhost": "localhost",
    "straße.test": "xn--strae-oqa.test",  # not strasse.test, which is another domain
    "STRAẞE.Test": "xn--strae-oqa.test",
    "strasse.test": "strasse.test",
    "βόλος.test": "xn--nxasmm1c.test",
    "Łódź.test": "xn--d-uga0v4h.test",
    "日本。test": "xn--wgv71a.test",
    "بيت.test": "xn--ngbe9g.test",
    "раypal.test": "xn--ypal-43d9g.test",  # Cyrillic and Latin: allowed, because the ASCII form is visibly different
    "ﬁ.test": "fi.test",
    "XN--STRAE-OQA.test": "xn--strae-oqa.test",
    "xn--i-7iq.test": "xn--i-7iq.test",  # an emoji in its ASCII form, which is unambiguous
    "desk.example.com.": "desk.example.com.",
    "my_service": "my_service",
    "a-b.c--d.test": "a-b.c--d.test",
    "127.0.0.1": "127.0.0.1",
    "１２７.0.0.1": "127.0.0.1",
    "10.0.0.1.test": "10.0.0.1.test",
    "::1": "::1",
    "2001:DB8:0:0::7": "2001:db8::7",
    "fe80::1%25eth0": "fe80::1%eth0",
}  # fmt: skip

REFUSED = {
    "i❤.test": "IDNA 2008",
    "stra_ße.test": "IDNA 2008",
    "x\u202ey.test": "IDNA 2008",
    "a\u200cb.test": "IDNA 2008",
    "٣.test": "IDNA 2008",
    "ß" * 60 + ".test": "IDNA 2008",
    "127.1": "IPv4",
    "0x7f.0.0.1": "IPv4",
    "0177.0.0.1": "IPv4",
    "2130706433": "IPv4",
    "0xa9fea9fe": "IPv4",
    "1.2.3.256": "IPv4",
    "1.2.3.4.": "IPv4",
    "1.2.3.4.5": "IPv4",
    "desk.0x1f": "IPv4",
    "ex%61mple.test": "letters",
    "stra%C3%9Fe.test": "letters",
    "a..b": "letters",
    ".": "letters",
    "-a.test": "letters",
    "a-.test": "letters",
    "a b": "letters",
    "a\\b": "letters",
    "a" * 64 + ".test": "letters",
    "a." * 127 + "test": "letters",
    "1::2::3": "IPv6",
    "fe80::1%": "IPv6",
}  # fmt: skip


@pytest.mark.parametrize(("host", "form"), ONE_FORM.items())
def test_every_spelling_of_a_host_gives_its_normal_form(host: str, form: str) -> None:
    assert ascii_host(host) == form
    assert ascii_host(form) == form


@pytest.mark.parametrize(("host", "reason"), REFUSED.items(), ids=map(ascii, REFUSED))
def test_a_host_that_resolvers_read_differently_is_refused(host: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^must have .*{reason}"):
        ascii_host(host)


def test_every_url_of_the_configuration_is_normalized() -> None:
    assert parse_endpoint("https://STRAẞE.test:8443/Straße?q=ß") == "https://xn--strae-oqa.test:8443/Straße?q=ß"
    assert parse_endpoint("http://[2001:DB8::7]:/x") == "http://[2001:db8::7]/x"
    assert parse_base_url("https://straße.test/support/") == "https://xn--strae-oqa.test/support"
    assert parse_origin("https://Straße.test:444") == "https://xn--strae-oqa.test:444"
    server = Settings.model_validate({"server": {"public_url": "https://straße.test/tm"}}).server
    assert str(server.public_url) == "https://xn--strae-oqa.test/tm"
    for read in (parse_endpoint, parse_base_url):
        with pytest.raises(ValueError, match="IPv4"):
            read("https://127.1/")
        with pytest.raises(ValueError, match="port"):
            read("https://desk.test:0/")


def test_the_clients_url_is_normalized() -> None:
    with ScreenMeet("http://Straße.test:8710/v3/") as client:
        assert client.url == "http://xn--strae-oqa.test:8710"
    with pytest.raises(InvalidRequest, match="IDNA 2008"):
        ScreenMeet("http://i❤.test")
