"""Reading the secrets of webhooks, and the problems of their files."""

from base64 import b64encode
from pathlib import Path

import pytest
from tests.support.receivers import OTHER_SECRET, SECRET

from tminus.config import ConfigError, Settings, Webhook, secrets
from tminus.delivery import read_secrets


def webhook(**keys: object) -> Webhook:
    return Webhook.model_validate({"name": "desk", "url": "https://desk.example.com/hook", **keys})


def whsec(length: int) -> str:
    return "whsec_" + b64encode(b"hunter2!" * length)[: (length + 2) // 3 * 4].decode()


def test_secrets_are_read_in_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "new").write_text(f"{OTHER_SECRET}\r\n")
    (tmp_path / "old").write_text(SECRET)
    desk = webhook(secret_file=["new", "old"], secret_credential="old")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert secrets(desk, tmp_path, environ) == (OTHER_SECRET, SECRET, SECRET)
    assert secrets(webhook(secret_file=str(tmp_path / "old")), Path("/elsewhere"), {}) == (SECRET,)


@pytest.mark.parametrize("length", [24, 33, 63])
def test_a_secret_of_24_to_64_bytes_is_taken(tmp_path: Path, length: int) -> None:
    (tmp_path / "s").write_text(whsec(length))
    assert secrets(webhook(secret_file="s"), tmp_path, {}) == (whsec(length),)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        (b"whsec_\xff", "it is not UTF-8 text"),
        (SECRET.removeprefix("whsec_"), "not a `whsec_…` of 24 to 64 bytes"),
        (whsec(21), "not a `whsec_…` of 24 to 64 bytes"),
        (whsec(66), "not a `whsec_…` of 24 to 64 bytes"),
        (f"{whsec(24)}!", "not a `whsec_…` of 24 to 64 bytes"),
        (f"{whsec(24)}\n{whsec(24)}", "not a `whsec_…` of 24 to 64 bytes"),
        (f" {whsec(24)}", "not a `whsec_…` of 24 to 64 bytes"),
        (f"{whsec(24)}ü", "not a `whsec_…` of 24 to 64 bytes"),
        ("whsec_", "not a `whsec_…` of 24 to 64 bytes"),
    ],
)
def test_an_invalid_secret_is_a_problem_that_repeats_neither_it_nor_its_path(
    tmp_path: Path, content: str | bytes | None, problem: str
) -> None:
    name = "hunter2"  # a secret that somebody wrote where the name of its file belongs
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for desk, key in (
        (webhook(secret_file=name), "secret_file"),
        (webhook(secret_credential=name), "secret_credential"),
    ):
        with pytest.raises(ConfigError) as caught:
            secrets(desk, tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        message = str(caught.value)
        assert message.startswith(f"webhooks[desk].{key} names a secret that cannot be read: ")
        assert problem in message
        assert not [part for part in (name, whsec(24)[6:20], SECRET[6:20]) if part in message]


def test_a_credential_needs_systemd(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CREDENTIALS_DIRECTORY is not set"):
        secrets(webhook(secret_credential="s"), tmp_path, {})


def test_the_problems_of_all_webhooks_files_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "short").write_text(whsec(3))
    (tmp_path / "s").write_text(SECRET)
    settings = Settings(
        webhooks=(
            webhook(secret_file=["missing", "s", "short"], secret_credential="c", ca_file="missing.pem"),
            webhook(name="crm", secret_file="s", ca_file="s"),
            webhook(name="good", secret_file="s"),
        )
    )
    with pytest.raises(ConfigError) as caught:
        read_secrets(settings, tmp_path, {})
    assert [(problem.key, problem.message.partition(":")[0]) for problem in caught.value.problems] == [
        ("webhooks[desk].secret_file", "names a secret that cannot be read"),
        ("webhooks[desk].secret_file", "names a secret that cannot be read"),
        ("webhooks[desk].secret_credential", "names a secret that cannot be read"),
        ("webhooks[desk].ca_file", "does not name a file of certificates"),
        ("webhooks[crm].ca_file", "does not name a file of certificates"),
    ]
    assert read_secrets(Settings(webhooks=settings.webhooks[2:]), tmp_path, {}) == {"good": (SECRET,)}
