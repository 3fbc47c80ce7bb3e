"""`[signin.oidc]`: what is refused, and how its secret is read."""

import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from tminus.config import ConfigError, load
from tminus.config.settings import Agent, OidcRoles
from tminus.domain.types import FIRST_UNCONFIGURED_ID, Role
from tminus.oidc import settings as oidc

COMPLETE = 'issuer = "https://login.example.com/realms/desk"\nclient_id = "tminus"\nclient_secret_file = "secret"\n'


def _write(folder: Path, text: str) -> Path:
    path = folder / "tminus.toml"
    path.write_text(f"[signin.oidc]\n{text}")
    return path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('issuer = "http://login.example.com"', "must begin with https"),
        ('issuer = "http://127.0.0.1.example.com"', "must begin with https"),
        ('issuer = "login.example.com"', "must be a URL"),
        ('issuer = "https://user@login.example.com"', "must be a URL"),
        ('issuer = "https://login.example.com?tenant=1"', "must be a URL"),
        ('issuer = "https://login.example.com#x"', "must be a URL"),
        ('issuer = "file:///etc/passwd"', "must be a URL"),
        ("issuer = 7", "must be a URL"),
        ('issuer = "https://lögin.example.com"', "ASCII"),
        ('hosts = ["https://oauth2.example.com"]', 'must contain hosts such as "oauth2.example.com"'),
        ('hosts = ["a@b"]', "must contain hosts"),
        ('hosts = ["a/b"]', "must contain hosts"),
        ('scopes = ["two words"]', "must contain scopes"),
        ('client_secret_file = "a"\nclient_secret_credential = "b"', "cannot be set together"),
        ('issuer = "https://login.example.com"', "client_id is missing"),
        ('issuer = "https://login.example.com"\nclient_id = "x"', "client_secret_file is missing"),
        ('[signin.oidc.roles]\nadmin = ["x"]', "signin.oidc.roles.admin is not a key"),
        ('[signin.oidc.roles]\nagent = "x"', "signin.oidc.roles.agent"),
    ],
)
def test_what_is_wrong_is_reported_with_its_key(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(_write(tmp_path, text), {})
    assert any(problem in f"{one.key} {one.message}" for one in caught.value.problems), caught.value.problems


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:8080", "http://[::1]:8080/x", "http://localhost", "https://a/b/"])
def test_an_issuer_is_kept_as_it_is_written(tmp_path: Path, issuer: str) -> None:
    text = COMPLETE.replace("https://login.example.com/realms/desk", issuer)
    assert load(_write(tmp_path, text), {}).settings.signin.oidc.issuer == issuer


def _read(folder: Path, text: str = COMPLETE, **environ: str) -> Any:
    return oidc.read(load(_write(folder, text), {}).settings, folder, environ)


def test_no_local_socket_is_needed_if_people_sign_in(tmp_path: Path) -> None:
    path = _write(tmp_path, COMPLETE + '[server]\nsocket = ""\n')
    assert load(path, {}).settings.server.socket == ""


def test_the_secret_is_read_from_a_file_or_a_credential_and_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    access = _read(tmp_path)
    assert access.client_secret == "hunter2"
    assert "hunter2" not in repr(access)
    credential = COMPLETE.replace("client_secret_file", "client_secret_credential")
    assert _read(tmp_path, credential, CREDENTIALS_DIRECTORY=str(tmp_path)).client_secret == "hunter2"
    assert _read(tmp_path, "") is None


def test_a_missing_or_empty_secret_and_a_wrong_ca_file_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"signin\.oidc\.client_secret_file names a secret that cannot be read"):
        _read(tmp_path)
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(ConfigError, match="it is empty"):
        _read(tmp_path)
    (tmp_path / "secret").write_text("s")
    for content in ("", "no certificate"):
        (tmp_path / "ca.pem").write_text(content)
        with pytest.raises(ConfigError, match=r"signin\.oidc\.ca_file does not name a file of certificates"):
            _read(tmp_path, f'{COMPLETE}ca_file = "ca.pem"\n')
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert _read(tmp_path, f'{COMPLETE}ca_file = "ca.pem"\n').trust is not None


def test_a_reload_makes_a_tls_context_only_if_certificates_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The TLS context for the issuer is kept until `ca_file`, its content, or the system's authorities change."""
    (tmp_path / "secret").write_text("s")
    first, other, system = (trustme.CA().cert_pem for _ in range(3))
    system.write_to_path(str(tmp_path / "system.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    first.write_to_path(str(tmp_path / "ca.pem"))

    def same_at_a_reload(text: str) -> ssl.SSLContext:
        before, after = (_read(tmp_path, text).trust for _ in range(2))
        assert after is before
        assert isinstance(before, ssl.SSLContext)
        return before

    private = COMPLETE + 'ca_file = "ca.pem"\n'
    before = same_at_a_reload(private)
    other.write_to_path(str(tmp_path / "ca.pem"))
    assert same_at_a_reload(private).get_ca_certs() != before.get_ca_certs()

    public = same_at_a_reload(COMPLETE)
    os.utime(tmp_path / "system.pem", ns=(1, 1))
    assert same_at_a_reload(COMPLETE) is not public


def test_groups_give_roles_and_a_star_gives_one_to_everybody() -> None:
    roles = OidcRoles(agent=("support", "on-call"), supervisor=("leads",), api=("*",))
    assert roles.of(["support", "other"]) == {Role.AGENT, Role.API}
    assert roles.of(["leads", "on-call"]) == {Role.AGENT, Role.SUPERVISOR, Role.API}
    assert roles.of([]) == {Role.API}
    assert OidcRoles().of(["support", "*"]) == frozenset()


def test_the_configuration_cannot_use_the_ids_of_agents_who_sign_in_through_an_issuer() -> None:
    fields: dict[str, Any] = {"name": "Ada", "roles": ["agent"]}
    assert Agent(id=FIRST_UNCONFIGURED_ID - 1, **fields).id == FIRST_UNCONFIGURED_ID - 1
    with pytest.raises(ValueError, match="less than 2000000000"):
        Agent(id=FIRST_UNCONFIGURED_ID, **fields)
