"""The paths of the configuration, the state directory and the database."""

from pathlib import Path

import pytest

from tminus.config import ConfigError, Settings, command_state_directory, database, find, paths, state_directory


@pytest.fixture
def system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "etc" / "tminus.toml"
    monkeypatch.chdir(tmp_path)  # in the checkout, its own configuration would take precedence
    monkeypatch.setattr(paths, "SYSTEM_FILE", path)
    return path


def _write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_the_option_goes_before_the_variable_and_that_before_the_system_file(system_file: Path, tmp_path: Path) -> None:
    option, variable = _write(tmp_path / "option.toml"), _write(tmp_path / "variable.toml")
    environ = {"TMINUS_CONFIG": str(variable)}
    assert find(None, {}) is None
    _write(system_file)
    assert find(None, {}) == system_file
    assert find(None, {"TMINUS_CONFIG": ""}) == system_file
    assert find(None, environ) == variable
    assert find(option, environ) == option


def test_a_named_file_must_exist(system_file: Path, tmp_path: Path) -> None:
    _write(system_file)
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError, match=rf"^--config: there is no file {missing}$"):
        find(missing, {})
    with pytest.raises(ConfigError, match=rf"^environment TMINUS_CONFIG: there is no file {missing}$"):
        find(None, {"TMINUS_CONFIG": str(missing)})


def test_a_system_file_in_a_forbidden_directory_is_not_ignored(
    system_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "stat", refuse)
    assert find(None, {}) == system_file


def test_the_state_directory_is_the_first_that_systemd_names_or_var(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_directory({}) == tmp_path / "var"
    assert state_directory({"STATE_DIRECTORY": ""}) == tmp_path / "var"
    assert state_directory({"STATE_DIRECTORY": "/var/lib/tminus:/var/lib/other"}) == Path("/var/lib/tminus")


def test_the_socket_is_in_the_state_directory_unless_its_path_is_absolute_or_empty() -> None:
    state = Path("/state")

    def socket(text: str) -> Path | None:
        return Settings.model_validate({"server": {"socket": text}}).server.socket_path(state)

    assert socket("tminus.sock") == Path("/state/tminus.sock")
    assert socket("/run/tminus.sock") == Path("/run/tminus.sock")
    assert socket("") is None


def _storage(**keys: str) -> Settings:
    return Settings.model_validate({"storage": keys})


POSTGRESQL = "postgresql+psycopg://u@h/n"


def test_an_sqlite_file_is_in_the_state_directory_unless_its_path_is_absolute() -> None:
    state = Path("/state")
    assert database(Settings(), state, {}).url == Path("/state/tminus.db")
    assert database(_storage(url="sqlite:////data/a.db"), state, {}).url == Path("/data/a.db")
    assert database(_storage(url="sqlite:////x/50% ?#/a%20b.db"), state, {}).url == Path("/x/50% ?#/a%20b.db")


def test_postgresql_gets_its_password_from_a_file_or_a_credential(tmp_path: Path) -> None:
    _write(tmp_path / "password", "hunter2 \n")
    from_file = database(_storage(url=POSTGRESQL, password_file="password"), tmp_path, {})
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    from_credential = database(_storage(url=POSTGRESQL, password_credential="password"), Path("/state"), environ)
    assert from_file.url == from_credential.url == POSTGRESQL
    assert from_file.password == from_credential.password == "hunter2 "
    assert "hunter2" not in repr(from_file)
    assert database(_storage(url=POSTGRESQL), tmp_path, {}).password is None


@pytest.mark.parametrize(("content", "problem"), [(None, "No such file"), (b"\n", "empty"), (b"\xff", "not UTF-8")])
def test_an_unreadable_password_is_a_problem_that_does_not_repeat_the_path(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / "hunter2").write_bytes(content)
    with pytest.raises(ConfigError, match=f"^storage.password_file names a secret .*{problem}") as caught:
        database(_storage(url=POSTGRESQL, password_file="hunter2"), tmp_path, {})
    assert "hunter2" not in str(caught.value)


def test_a_credential_needs_systemd() -> None:
    with pytest.raises(ConfigError, match="CREDENTIALS_DIRECTORY is not set"):
        database(_storage(url=POSTGRESQL, password_credential="password"), Path("/state"), {})


def test_a_command_uses_the_local_state_directory_or_else_that_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "SERVICE_STATE", tmp_path / "service")
    own = tmp_path / "var"
    assert command_state_directory(None, {}) == own, "there is no service"
    (tmp_path / "service").mkdir()
    assert command_state_directory(None, {}) == tmp_path / "service"
    assert (
        command_state_directory(Path("a.toml"), {}) == command_state_directory(None, {"TMINUS_CONFIG": "a.toml"}) == own
    )
    assert command_state_directory(None, {"STATE_DIRECTORY": "state"}) == tmp_path / "state"
    own.mkdir()
    assert command_state_directory(None, {}) == own
    monkeypatch.chdir("/")
    assert command_state_directory(None, {}) == tmp_path / "service", "/var is not a state directory"


@pytest.mark.parametrize("written", [b"\xef\xbb\xbfsecret", b"secret\r\n", b"secret\n"])
def test_a_byte_order_mark_and_line_end_are_not_part_of_a_secret(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "pw").write_bytes(written)
    settings = _storage(url=POSTGRESQL, password_file="pw")
    assert database(settings, tmp_path, {}).password == "secret"


def test_a_secret_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes("secret".encode("utf-16"))
    with pytest.raises(ConfigError, match="it is UTF-16 text: save it as UTF-8"):
        database(_storage(url=POSTGRESQL, password_file="pw"), tmp_path, {})
