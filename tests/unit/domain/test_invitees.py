"""Addresses are checked, and invitees are read back as they were stored."""

import pytest

from tminus.domain.invitees import Invitee, as_json, check_address, from_json, mailbox_key
from tminus.domain.types import ParticipantRole


@pytest.mark.parametrize(
    "address",
    [
        "joe@example.com",
        "o'brien+tag=x@example.co.uk",
        "müller@example.com",
        "joe@straße.test",
        "用户@例え.テスト",
        "x@localhost",
        f"{'a' * 64}@example.com",
    ],
)
def test_valid_addresses_are_accepted(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("joe", "mail address such as"),
        ("@example.com", "mail address such as"),
        ("joe@", "mail address such as"),
        ("joe@example.com\r\nBcc: all", "name of a mail domain"),
        ("joe@example.com\r\nBcc: all@example.com", "no blanks"),
        ("joe smith@example.com", "no blanks"),
        ('"joe"@example.com', "no blanks, quotes"),
        ("a@b@example.com", "no blanks"),
        ("<joe@example.com", "no blanks"),
        ("joe\u202e@example.com", "invisible"),
        ("joe\0@example.com", "invisible"),
        ("\ud800@example.com", "invisible"),
        (".joe@example.com", "dot"),
        ("joe.@example.com", "dot"),
        ("joe..x@example.com", "dot"),
        ("joe@[192.0.2.1]", "must have a host"),
        ("joe@192.0.2.1", "name of a mail domain"),
        ("joe@example.com.", "name of a mail domain"),
        ("joe@a..com", "must have a host"),
        ("joe@2001:db8::1", "name of a mail domain"),
        ("joe@example.com,bob@example.com", "no blanks"),
        ("joe@exa mple.com", "must have a host"),
        (f"{'a' * 65}@example.com", "at most 254 bytes"),
        (f"joe@{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 60}.example.com", "at most 254 bytes"),
    ],
)
def test_invalid_addresses_are_refused_with_the_reason(address: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_address(address)


def test_spellings_of_one_address_are_the_same() -> None:
    assert mailbox_key("Joe@Example.COM") == mailbox_key("joe@example.com")
    assert mailbox_key("joe@straße.test") == mailbox_key("joe@xn--strae-oqa.test")
    assert mailbox_key("mu\u0308ller@example.com") == mailbox_key("müller@example.com")
    assert mailbox_key("joe@example.com") != mailbox_key("joe@example.org")


def test_invitees_are_read_as_they_were_stored() -> None:
    invited = (Invitee("joe@example.com", "“Joe” <x>"), Invitee("anna@example.com", "", ParticipantRole.HOST))

    assert from_json(as_json(invited)) == invited
    assert as_json(()) is None
    assert from_json(None) == ()
