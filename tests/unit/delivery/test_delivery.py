"""Webhooks: signatures, delays between attempts, and forbidden addresses."""

import asyncio
import hashlib
import hmac
import re
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError
from tests.support.clocks import NOW
from tests.support.receivers import OTHER_SECRET, SECRET

from tminus import clock
from tminus.delivery import resolver, signing, tls
from tminus.delivery.backoff import MAX_DELAY, delay, retry_after
from tminus.delivery.tls import Trust

BODY = '[{"label": "Grüße 🚀\\n"}]'.encode()
DAY = timedelta(days=1)


# --- signatures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secrets", [(SECRET,), (SECRET, OTHER_SECRET)])
def test_only_a_receiver_with_one_of_the_secrets_accepts_the_request(
    secrets: tuple[str, ...],
) -> None:
    sent = signing.headers(secrets, "msg_1", clock.now(), BODY)
    for secret in secrets:
        assert Webhook(secret).verify(BODY, sent) == [{"label": "Grüße 🚀\n"}]
    for other in {SECRET, OTHER_SECRET, "whsec_" + "A" * 32} - {*secrets}:
        with pytest.raises(WebhookVerificationError):
            Webhook(other).verify(BODY, sent)
    assert not any(secret.removeprefix("whsec_") in str(sent) for secret in secrets)


def test_a_request_that_was_changed_in_transit_is_not_accepted() -> None:
    sent = signing.headers((SECRET,), "msg_1", clock.now(), BODY)
    for body, changed in (
        (BODY + b" ", {}),
        (BODY, {"webhook-id": "msg_2"}),
        (BODY, {"webhook-timestamp": str(int(sent["webhook-timestamp"]) + 1)}),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(body, {**sent, **changed})


def test_the_timestamp_of_a_request_is_in_whole_seconds() -> None:
    sent = signing.headers((SECRET,), "msg_1", datetime(2030, 1, 7, 9, 0, 0, 999_999, UTC), BODY)
    assert sent["webhook-timestamp"] == "1894006800"


def test_the_plain_signature_signs_the_body_with_the_first_secret_as_text() -> None:
    sent = signing.headers((OTHER_SECRET, SECRET), "msg_1", NOW, BODY)
    key, block = OTHER_SECRET.encode().ljust(64, b"\0"), hashlib.sha256  # RFC 2104, by hand
    inner = block(bytes(byte ^ 0x36 for byte in key) + BODY).digest()
    assert sent["X-Hub-Signature-256"] == "sha256=" + block(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()
    assert hmac.new(SECRET.encode(), BODY, "sha256").hexdigest() not in sent["X-Hub-Signature-256"]


@given(st.lists(st.integers(min_value=1), min_size=1), st.lists(st.integers(min_value=1), min_size=1))
def test_equal_requests_have_equal_ids_and_others_have_different_ids(one: list[int], other: list[int]) -> None:
    assert re.fullmatch("msg_[0-9a-f]{32}", signing.batch_id("db", one))
    assert signing.batch_id("db", one) == signing.batch_id("db", tuple(one))
    assert (signing.batch_id("db", one) == signing.batch_id("db", other)) is (one == other)
    assert signing.batch_id("db", one) != signing.batch_id("db2", one)


def test_ids_differ_if_the_digits_of_two_numbers_are_split_differently() -> None:
    assert len({signing.batch_id("db", seqs) for seqs in ([1, 2], [12], [1, 2, 3], [1, 23], [12, 3], [2, 1])}) == 6


# --- delays between attempts ------------------------------------------------------------------------------------------

failures = st.integers(min_value=1, max_value=10**6)


@given(failures, st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(hours=2)))
def test_a_delay_doubles_with_each_failure_up_to_an_hour_and_is_reduced_by_at_most_half(
    failed: int, first: timedelta
) -> None:
    whole = first
    for _ in range(min(failed, 60) - 1):
        whole *= 2
        if whole >= MAX_DELAY:
            break
    whole = min(whole, timedelta(hours=1))
    assert whole / 2 <= delay(failed, first=first) <= whole


def test_the_first_delays_are_some_seconds_and_differ() -> None:
    for failed, longest in enumerate((5, 10, 20, 40, 80), start=1):
        drawn = {delay(failed).total_seconds() for _ in range(200)}
        assert longest / 2 <= min(drawn) < max(drawn) <= longest
        assert max(drawn) - min(drawn) > longest / 4, "requests that failed together must not be retried together"


@given(failures, st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=10**6)))
def test_retry_after_is_the_minimum_delay_up_to_a_day(failed: int, requested: timedelta) -> None:
    found = delay(failed, requested)
    assert found >= min(requested, DAY)
    assert found <= max(min(requested, DAY), MAX_DELAY)
    if requested > MAX_DELAY:
        assert found == min(requested, DAY)


@pytest.mark.parametrize(
    ("header", "requested"),
    [
        (None, None),
        ("0", timedelta(0)),
        ("120", timedelta(minutes=2)),
        (" 120 ", timedelta(minutes=2)),
        ("0000000000000120", timedelta(minutes=2)),
        ("86401", DAY),
        ("9" * 5000, DAY),
        (format_datetime(NOW + timedelta(minutes=2), usegmt=True), timedelta(minutes=2)),
        ("Monday, 07-Jan-30 09:02:00 GMT", timedelta(minutes=2)),
        ("Mon Jan  7 09:02:00 2030", timedelta(minutes=2)),
        ("Mon, 07 Jan 2030 10:02:00 +0100", timedelta(minutes=2)),
        (format_datetime(NOW - timedelta(minutes=2), usegmt=True), timedelta(0)),
        ("", None),
        (" ", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e3", None),
        ("5 minutes", None),
        ("soon", None),
        ("٣", None),
        ("²", None),
        ("Mon, 32 Jan 2030 09:02:00 GMT", None),
        ("Mon, 07 Jan 99999999999999999999 09:02:00 GMT", None),
        ("Mon, 07 Jan 2030 09:02:00 +99999999999999", None),
    ],
    ids=lambda value: str(value)[:50],
)
def test_retry_after_is_seconds_or_a_date_or_ignored(header: str | None, requested: timedelta | None) -> None:
    assert retry_after(header, NOW) == requested


@given(
    st.text(max_size=40)
    | st.from_regex(r"[A-Z][a-z]{2}, [0-9]+ (Jan|Feb) [0-9]{1,30} [0-9]+:[0-9]+:[0-9]+ ([A-Z]{3}|[+-][0-9]+)")
)
def test_there_is_a_delay_for_every_value_of_retry_after(header: str) -> None:
    requested = retry_after(header, NOW)
    assert requested is None or requested >= timedelta(0)
    assert delay(1, requested) <= DAY


# 169.254.169.254 in every notation, and other forbidden addresses: link-local, metadata, multicast, unspecified.
FORBIDDEN = (
    "169.254.169.254", "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376", "169.254.43518",
    "169.16689662", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "0:0:0:0:0:ffff:a9fe:a9fe", "::169.254.169.254",
    "64:ff9b::169.254.169.254", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1",
    "2001:0:808:808:0:0:5601:5601", "169.254.0.1", "fe80::1", "fe80::1%lo", "febf::1",
    "fd00:ec2::254", "FD00:0EC2:0:0:0:0:0:254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192",
    "fd00:ec2::23", "fd00:ec2::123", "::ffff:0:169.254.169.254", "::ffff:0:a9fe:a9fe", "fd00:c1::a9fe:a9fe",
    "fd00:42::42", "fd00:100::100:200", "fd00:a9fe:a9fe::1", "fd12:3456:789a::a9fe:a9fe", "fec0::1",
    "fe80::5efe:a9fe:a9fe", "2001:db8::5efe:a9fe:a9fe", "2001:db8::200:5efe:a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:0:a9:fea9:fe00:0",
    "::ffff:100.100.100.200", "64:ff9b::168.63.129.16", "2002:c000:00c0::1", "::ffff:0:192.0.0.192",
    "0.1.2.3", "255.255.255.255", "0.0.0.0", "0", "::",
    "::ffff:0.0.0.0", "224.0.0.1", "239.255.255.250", "ff02::1", "::ffff:224.0.0.1",
)  # fmt: skip


@pytest.mark.parametrize("host", FORBIDDEN)
def test_a_link_local_or_metadata_address_is_forbidden_in_every_notation(host: str) -> None:
    with pytest.raises(OSError, match="link-local or metadata address, and allow_link_local is not set"):
        asyncio.run(resolver.allowed(resolver.Resolver(), host, 80, link_local=False))


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("10.0.0.7", "10.0.0.7"), ("fd00::7", "fd00::7"),
     ("2130706433", "127.0.0.1"), ("2001:db8::a9fe:a9fe", "2001:db8::a9fe:a9fe"),
     ("64:ff9b:1::a00:7", "64:ff9b:1::a00:7"),
     ("fd00:ec3::23", "fd00:ec3::23"), ("64:ff9b::a00:7", "64:ff9b::a00:7"), ("100.100.100.201", "100.100.100.201")],
)  # fmt: skip
def test_private_addresses_are_allowed(host: str, address: str) -> None:
    assert asyncio.run(resolver.allowed(resolver.Resolver(), host, 80, link_local=False))[0].address == address


def test_a_link_local_address_is_allowed_if_the_configuration_allows_it() -> None:
    assert (
        asyncio.run(resolver.allowed(resolver.Resolver(), "0xa9fea9fe", 80, link_local=True))[0].address
        == "169.254.169.254"
    )


def test_a_url_with_an_address_needs_no_resolver_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "Thread", None)
    for host, address in (("127.0.0.1", "127.0.0.1"), ("2130706433", "127.0.0.1"), ("fd00::7", "fd00::7")):
        assert asyncio.run(resolver.Resolver().targets(host, 80))[0].address == address


def test_the_environment_does_not_change_the_trusted_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    trusted = sorted(map(str, Trust.of(None).context().get_ca_certs()))  # OpenSSL's order varies
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.setenv(name, "/nonexistent/file")
    tls._context.cache_clear()
    context = Trust.of(None).context()
    assert sorted(map(str, context.get_ca_certs())) == trusted
    assert context.keylog_filename is None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_a_silent_name_server_does_not_prevent_a_process_from_ending() -> None:
    """The process ends after the time-out, although its resolver thread still waits for a response."""
    subprocess.run([sys.executable, "-c", SILENT_NAME_SERVER_SCRIPT], check=True, timeout=40)


SILENT_NAME_SERVER_SCRIPT = """
import asyncio, socket, tempfile, time
from pathlib import Path

from tminus import clock
from tminus.config import Settings, Webhook
from tminus.delivery import Webhooks
from tminus.storage import Store

found = socket.getaddrinfo

def getaddrinfo(host, *args, flags=0, **more):
    return time.sleep(60) if host == "silent" and not flags else found(host, *args, flags=flags, **more)

socket.getaddrinfo = getaddrinfo
with tempfile.TemporaryDirectory() as folder:
    store = Store(f"sqlite:///{folder}/db", clock.now)
    webhooks = Webhooks(store, Path(folder))
    webhooks.start()
    one = Webhook.model_validate({"name": "desk", "url": "http://silent/", "secret_file": "s", "timeout": "50ms"})
    webhooks.apply(Settings(webhooks=(one,)), {"desk": ("whsec_" + "A" * 32,)})
    assert "no answer within" in asyncio.run(webhooks.ping("desk")).error
    webhooks.stop()
    store.close()
"""


def test_endpoints_with_the_same_authorities_share_a_tls_context(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    authorities = [trustme.CA() for _ in range(2)]
    file.write_bytes(authorities[0].cert_pem.bytes())
    assert Trust.of(None).context() is Trust.of(None).context()
    first = Trust.of(file)
    assert first.context() is not Trust.of(None).context()
    assert Trust.of(file).context() is first.context()
    file.write_bytes(authorities[1].cert_pem.bytes())
    assert Trust.of(file) != first, "the content of the file has changed"
    assert Trust.of(file).context() is not first.context()
