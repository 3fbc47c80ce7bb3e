"""`[[webhooks]]`: valid values, and the problems of invalid ones."""

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tminus.config import Change, ConfigError, Configuration, Settings, Webhook, changes, effective, load
from tminus.domain.types import EVENT_PATTERNS, EventType, SessionType

DESK = '[[webhooks]]\nname = "desk"\nurl = "https://desk.example.com/hook"\nsecret_file = "s"\n'

UNSIGNED = "is missing: every request is signed. `tminus webhooks secret` makes a secret for a file"
NO_URL = 'must be a URL such as "https://desk.example.com/hooks/tminus"'
NO_MEDIA_TYPE = "must be a media type"
TYPES = '"support", "cobrowse", "live" or "replay"'


def read(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> Configuration:
    path = directory / "tminus.toml"
    path.write_text(text)
    return load(path, environ or {})


def problems(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return all problems, without the directory."""
    with pytest.raises(ConfigError) as caught:
        read(directory, text, environ)
    return str(caught.value).replace(f"{directory}/", "").splitlines()


def webhook(**keys: object) -> Webhook:
    return Webhook.model_validate({"name": "desk", "url": "https://desk.example.com/hook", **keys})


# --- valid values -----------------------------------------------------------------------------------------------------


def test_a_webhook_needs_a_name_a_url_and_a_secret_and_the_rest_has_defaults(tmp_path: Path) -> None:
    configuration = read(tmp_path, DESK)
    [desk] = configuration.settings.webhooks
    assert desk.model_dump(by_alias=True) == {
        "name": "desk",
        "url": "https://desk.example.com/hook",
        "secret_file": ("s",),
        "secret_credential": (),
        "events": ("*",),
        "session_types": (),
        "content_type": "application/json",
        "timeout": "10s",
        "batch": 100,
        "give_up_after": "3d",
        "from": "now",
        "ca_file": "",
        "allow_link_local": False,
    }
    assert desk.subscribed_types == set(EventType)
    assert configuration.origins["webhooks[desk].secret_file"] == f"{tmp_path}/tminus.toml:4"
    assert configuration.origins["webhooks[desk].from"] == "default"


def test_every_value_is_read_into_its_type(tmp_path: Path) -> None:
    more = """
    events = ["session.closed", "participant.*"]
    session_types = ["live", "support"]
    content_type = "application/cloudevents-batch+json; charset=UTF-8"
    timeout = "5m"
    batch = 1000
    give_up_after = "1h"
    from = "beginning"
    ca_file = "ca.pem"
    """
    [desk] = read(tmp_path, DESK + more).settings.webhooks
    assert desk.subscribed_types == {EventType.CLOSED} | {one for one in EventType if one.startswith("participant.")}
    assert desk.session_types == (SessionType.LIVE, SessionType.SUPPORT)
    assert (desk.timeout, desk.batch, desk.give_up_after) == (timedelta(minutes=5), 1000, timedelta(hours=1))
    assert (desk.from_, desk.ca_file) == ("beginning", "ca.pem")


def test_a_pattern_selects_all_events_of_its_kind() -> None:
    assert webhook(events=["session.*"]).subscribed_types == {
        one for one in EventType if one.value.startswith("session.")
    }
    assert webhook(events=["*", "session.closed"]).subscribed_types == set(EventType)


def test_a_secret_may_be_text_or_a_list(tmp_path: Path) -> None:
    text = DESK.replace('"s"', '["new", "old"]') + 'secret_credential = "desk.secret"\n'
    [desk] = read(tmp_path, text).settings.webhooks
    assert (desk.secret_file, desk.secret_credential) == (("new", "old"), ("desk.secret",))
    [desk] = read(tmp_path, DESK.replace('"s"', '""') + 'secret_credential = ["a", "b"]\n').settings.webhooks
    assert (desk.secret_file, desk.secret_credential) == ((), ("a", "b"))


@pytest.mark.parametrize(
    "url", ["http://localhost:9/", "https://desk.example.com", "https://[::1]:8443/hook?key=hunter2&a=b@c"]
)
def test_a_url_is_taken_as_it_is_written(url: str) -> None:
    assert webhook(url=url).url == url


@pytest.mark.parametrize("name", ["a", "7", "desk-2", "a" * 63])
def test_a_name_is_short_and_in_lower_case(name: str) -> None:
    assert webhook(name=name).name == name


def test_files_are_joined_and_the_environment_replaces_them(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10.toml").write_text(DESK.replace("desk", "crm"))
    assert [one.name for one in read(tmp_path, DESK).settings.webhooks] == ["desk", "crm"]
    environ = {"TMINUS_WEBHOOKS": '[{name = "bot", url = "http://localhost", secret_file = ["s"], from = "beginning"}]'}
    configuration = read(tmp_path, DESK, environ)
    assert [(one.name, one.from_) for one in configuration.settings.webhooks] == [("bot", "beginning")]
    assert configuration.origins["webhooks[bot].from"] == "environment TMINUS_WEBHOOKS"
    assert read(tmp_path, DESK, {"TMINUS_WEBHOOKS": "[]"}).settings.webhooks == ()
    assert problems(tmp_path, DESK, {"TMINUS_WEBHOOKS": '[{name = "bot"}]'}) == [
        "environment TMINUS_WEBHOOKS: webhooks[bot].url is missing",
        f"environment TMINUS_WEBHOOKS: webhooks[bot].secret_file {UNSIGNED}",
    ]


# --- invalid values ---------------------------------------------------------------------------------------------------


def test_all_problems_are_reported_at_once_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10.toml").write_text("\n" + DESK)
    text = f"""{DESK}
[[webhooks]]
name = "Help Desk"
url = "https://me:hunter2@desk.example.com"
events = ["*", "session.close"]
session_types = ["live", "cobrwse"]
content_type = "json"
timeout = "6m"
batch = 0
give_up_after = "0"
from = "start"
secret = "hunter2"
[[webhooks]]
batch = 1001
"""
    expected = [
        ("conf.d/10.toml:3", "[desk].name", "is also the name of another webhook (tminus.toml:2): each needs its own"),
        ("tminus.toml:6", "[Help Desk].secret_file", UNSIGNED),
        (
            "tminus.toml:7",
            "[Help Desk].name",
            "must be 1 to 63 characters of a-z, 0-9 and -, and must not begin with -",
        ),
        ("tminus.toml:8", "[Help Desk].url", f"{NO_URL}, without a user or password"),
        ("tminus.toml:9", "[Help Desk].events", f'must contain only {", ".join(EVENT_PATTERNS)}, not "session.close"'),
        ("tminus.toml:10", "[Help Desk].session_types", f'must be {TYPES}, not "cobrwse"; did you mean "cobrowse"?'),
        ("tminus.toml:11", "[Help Desk].content_type", f'{NO_MEDIA_TYPE} such as "application/json" or "text/plain"'),
        ("tminus.toml:12", "[Help Desk].timeout", 'must be at most "5m", not "6m"'),
        ("tminus.toml:13", "[Help Desk].batch", "must be at least 1"),
        ("tminus.toml:14", "[Help Desk].give_up_after", "must be longer than 0"),
        ("tminus.toml:15", "[Help Desk].from", 'must be "now" or "beginning", not "start"'),
        ("tminus.toml:16", "[Help Desk].secret", "is not a key; did you mean webhooks.secret_file?"),
        ("tminus.toml:17", "[#3].name", "is missing"),
        ("tminus.toml:17", "[#3].url", "is missing"),
        ("tminus.toml:17", "[#3].secret_file", UNSIGNED),
        ("tminus.toml:18", "[#3].batch", "must be at most 1000"),
    ]
    assert problems(tmp_path, text) == [f"{where}: webhooks{key} {problem}" for where, key, problem in expected]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("from_ = 'now'", "webhooks[desk].from_ is not a key; did you mean webhooks.from?"),
        ("event = ['*']", "webhooks[desk].event is not a key; did you mean webhooks.events?"),
        ("events = '*'", "webhooks[desk].events must be a list, not text"),
        ("events = []", "webhooks[desk].events must not be empty"),
        ("events = [5]", "not a number"),
        ("events = [[]]", "not a list"),
        ("events = [{}]", "not a table"),
        ("secret_credential = [[]]", "webhooks[desk].secret_credential must be text in quotes, not a list"),
        ("session_types = 'live'", "webhooks[desk].session_types must be a list, not text"),
        ("timeout = 10", "webhooks[desk].timeout must be a duration"),
        ("timeout = '0'", "webhooks[desk].timeout must be longer than 0"),
        ("batch = '5'", "webhooks[desk].batch must be a whole number, not text"),
        ("batch = true", "webhooks[desk].batch must be a whole number, not true or false"),
        ("from = 5", 'webhooks[desk].from must be "now" or "beginning", not a number'),
        ("content_type = 'text/plain\\r\\nX: y'", f"webhooks[desk].content_type {NO_MEDIA_TYPE}"),
        ('content_type = "text/plain\\n"', f"webhooks[desk].content_type {NO_MEDIA_TYPE}"),
        ("secret_credential = '../s'", "webhooks[desk].secret_credential must be the name of a systemd credential"),
        ("secret_credential = ['a', '']", "webhooks[desk].secret_credential must not be empty"),
        ("secret_credential = 5", "webhooks[desk].secret_credential must be a list, not a number"),
        ("ca_file = []", "webhooks[desk].ca_file must be text in quotes, not a list"),
    ],
)  # fmt: skip
def test_a_problem_names_the_webhook_and_the_fix(tmp_path: Path, more: str, problem: str) -> None:
    [found] = problems(tmp_path, f"{DESK}{more}")
    assert found.startswith("tminus.toml:5: ")
    assert problem in found


@pytest.mark.slow
@given(
    st.sampled_from([field.alias or name for name, field in Webhook.model_fields.items()]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(),
        lambda values: st.lists(values) | st.dictionaries(st.text(), values),
        max_leaves=5,
    ),
)
def test_any_value_is_accepted_or_a_problem(key: str, value: object) -> None:
    with suppress(ValidationError):
        webhook(**{key: value})


@pytest.mark.parametrize("name", ["", "-desk", "a" * 64, "désk", "a_b", "a.b", "a\n", "a/b", 5, None, ["a"]])
def test_any_other_name_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="must be 1 to 63 characters"):
        webhook(name=name)


@pytest.mark.parametrize(
    "url",
    ["", "desk.example.com", "ftp://desk", "https://", "https:///hunter2", "https://me:hunter2@desk", "https://me@desk",
     "https://desk/#hunter2", "https://desk:hunter2", "https://desk:99999", "https://desk/\nhunter2",
     "https://desk/ hunter2", "http://[::1", 5, None, []],
)  # fmt: skip
def test_any_other_url_is_refused_and_not_repeated(url: object) -> None:
    with pytest.raises(ValueError, match='must be a URL such as "https://desk') as caught:
        webhook(url=url)
    assert "hunter2" not in str(caught.value.args)
    assert "hunter2" not in str([error["msg"] for error in getattr(caught.value, "errors", list)()])


@pytest.mark.parametrize("more", ["", "secret_file = ''", "secret_file = []", "secret_credential = ''"])
def test_without_any_secret_it_is_refused(tmp_path: Path, more: str) -> None:
    [found] = problems(tmp_path, DESK.replace('secret_file = "s"\n', more))
    assert "webhooks[desk].secret_file is missing: every request is signed" in found


def test_webhooks_that_are_not_a_list_of_tables_are_a_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, "[webhooks]\nname = 'desk'") == [
        "tminus.toml:1: webhooks must be a list of tables, each headed [[webhooks]], not a table"
    ]
    assert problems(tmp_path, "webhooks = [1]") == ["tminus.toml:1: webhooks[#1] must be a table, not a number"]
    assert "must be a list" in problems(tmp_path, "", {"TMINUS_WEBHOOKS": "desk"})[0]


# --- the effective configuration, and changes -------------------------------------------------------------------------


def test_the_effective_configuration_has_every_key_with_its_origin_and_no_query(tmp_path: Path) -> None:
    configuration = read(tmp_path, DESK.replace("/hook", "/hook?key=hunter2") + 'from = "beginning"\n')
    text = effective(configuration)
    assert "hunter2" not in text
    [found] = tomllib.loads(text)["webhooks"]
    assert list(found) == [field.alias or name for name, field in Webhook.model_fields.items()]
    assert (found["url"], found["secret_file"]) == ("https://desk.example.com/hook?…", ["s"])
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert f'from = "beginning" # {tmp_path}/tminus.toml:5' in lines
    assert "batch = 100 # default" in lines
    assert "[[webhooks]]" in lines
    assert lines[0] == "agents = [] # default"


def test_empty_lists_are_at_the_top(tmp_path: Path) -> None:
    lines = [" ".join(line.split()) for line in effective(load(None, {})).splitlines()]
    assert lines[:5] == ["agents = [] # default", "webhooks = [] # default", "series = [] # default", "", "[server]"]
    emptied = effective(read(tmp_path, DESK, {"TMINUS_WEBHOOKS": "[]"}))
    assert "webhooks = []" in emptied
    assert "# environment TMINUS_WEBHOOKS" in emptied
    assert tomllib.loads(emptied)["webhooks"] == []


def test_the_effective_configuration_can_be_loaded(tmp_path: Path) -> None:
    configuration = read(tmp_path, DESK + 'session_types = ["live"]\ntimeout = "1500ms"\n')
    assert read(tmp_path, effective(configuration)).settings.webhooks == configuration.settings.webhooks


def test_changes_are_listed_by_name_and_key_without_queries() -> None:
    def settings(*webhooks: Webhook) -> Settings:
        return Settings(webhooks=webhooks)

    old = settings(
        webhook(secret_file="s", url="https://desk/hook?key=hunter2"), webhook(name="crm", batch=5), webhook(name="old")
    )
    new = settings(
        webhook(name="new"),
        webhook(name="crm", batch=6, **{"from": "beginning"}, timeout="90s"),
        webhook(secret_file=["t", "s"], url="https://desk/hook?key=hunter3"),
    )
    assert changes(old, new) == (
        Change("webhooks[crm].timeout", "10s", "1m30s"),
        Change("webhooks[crm].batch", "5", "6"),
        Change("webhooks[crm].from", "now", "beginning"),
        Change("webhooks[desk].url", "https://desk/hook?…", "https://desk/hook?…"),
        Change("webhooks[desk].secret_file", '["s"]', '["t", "s"]'),
        Change("webhooks[new]", "", "new"),
        Change("webhooks[old]", "old", ""),
    )
    assert changes(old, settings(*reversed(old.webhooks))) == ()
