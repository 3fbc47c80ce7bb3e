"""Loading of the configuration: settings, or all problems at once."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tminus.cli import discovery
from tminus.config import Address, ConfigError, ConfigProblem, Configuration, Rate, Settings, load
from tminus.config.load import MAX_ENTRIES
from tminus.domain.types import Mode, Role, SessionType, Setting, Timeouts

HASH = "a" * 64
AGENT = '[[agents]]\nid = {id}\nname = "Anna"\nroles = ["agent"]\ntoken_sha256 = ["{hash}"]\n'


class Files:
    """The files of a configuration in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.main = directory / "tminus.toml"
        self.conf_d = directory / "conf.d"
        self.main.write_text("")

    def add(self, name: str, text: str) -> Path:
        self.conf_d.mkdir(exist_ok=True)
        path = self.conf_d / name
        path.write_text(text)
        return path

    def load(self, text: str = "", environ: Mapping[str, str] | None = None) -> Configuration:
        self.main.write_text(text)
        return load(self.main, environ or {})

    def problems(self, text: str = "", environ: Mapping[str, str] | None = None) -> tuple[ConfigProblem, ...]:
        with pytest.raises(ConfigError) as caught:
            self.load(text, environ)
        return caught.value.problems

    def problem(self, text: str = "", environ: Mapping[str, str] | None = None) -> str:
        """Return the only problem, without the directory."""
        [problem] = self.problems(text, environ)
        return str(problem).replace(f"{self.main.parent}/", "")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# --- valid values -----------------------------------------------------------------------------------------------------


def test_without_a_file_and_an_environment_all_settings_have_their_defaults() -> None:
    configuration = load(None, {})
    assert configuration.settings == Settings()
    assert set(configuration.origins.values()) == {"default"}
    assert configuration.path is None


def test_the_default_settings_are_valid() -> None:
    assert Settings.model_validate(Settings().model_dump(mode="json", by_alias=True, exclude_none=True)) == Settings()


def test_every_value_is_read_into_its_type(files: Files) -> None:
    settings = files.load(
        """
        server = {listen = "[::1]:0", max_body = "1MiB", trusted_proxies = ["10.0.0.0/8"]}
        storage.retention = "0"
        lifecycle = {lead = "0", max_active = "8h"}
        limits = {pin_lookups = "5/second", failed_tokens = ""}
        [[agents]]
        id = 7
        name = "Anna"
        roles = ["api", "agent", "api"]
        expires = 2027-01-01T00:00:00+01:00
        """
    ).settings
    assert settings.server.listen == Address("::1", 0)
    assert settings.server.max_body == 2**20
    assert settings.storage.retention is None
    assert settings.lifecycle.timeouts == Timeouts(lead=timedelta(0), max_active=timedelta(hours=8))
    assert settings.limits.pin_lookups == Rate(5, 1)
    assert settings.limits.failed_tokens is None
    [agent] = settings.agents
    assert agent.roles == {Role.AGENT, Role.API}
    assert agent.expires == datetime(2026, 12, 31, 23, tzinfo=UTC)
    assert agent.token_sha256 == ()


def test_a_date_may_be_text_and_empty_text_is_no_date(files: Files) -> None:
    agent = '[[agents]]\nid = 1\nname = "a"\nroles = ["api"]\nexpires = "{}"\n'
    assert files.load(agent.format("2027-01-01T00:00:00Z")).settings.agents[0].expires == datetime(
        2027, 1, 1, tzinfo=UTC
    )
    assert files.load(agent.format("")).settings.agents[0].expires is None


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.socket = "x"  # type: ignore[misc]  # the test sets a frozen field on purpose


def test_the_policy_of_a_type_overrides_the_general_one(files: Files) -> None:
    policy = files.load('[policy]\nrecording = "always"\n[policy.live]\nrecording = "never"\n').settings.policy
    assert policy.modes(SessionType.LIVE)[Setting.RECORDING] is Mode.NEVER
    assert policy.modes(SessionType.SUPPORT)[Setting.RECORDING] is Mode.ALWAYS
    assert policy.modes(SessionType.LIVE) == {**policy.modes(SessionType.REPLAY), Setting.RECORDING: Mode.NEVER}
    assert policy.modes(SessionType.LIVE) is policy.modes(SessionType.LIVE)


def test_unset_urls_are_derived_from_those_that_are_set(files: Files) -> None:
    assert files.load().settings.server.urls().host == "http://127.0.0.1:8710"
    assert files.load('server.listen = "0.0.0.0:1"').settings.server.urls().public == "http://127.0.0.1:1"
    assert files.load('server.listen = "[::]:1"').settings.server.urls().public == "http://127.0.0.1:1"
    urls = files.load('[server]\npublic_url = "https://a/x/"\nhost_url = "https://b"').settings.server.urls()
    assert (urls.public, urls.user, urls.host) == ("https://a/x", "https://a/x", "https://b")


# --- several sources --------------------------------------------------------------------------------------------------


def test_conf_d_is_merged_in_name_order_key_by_key(files: Files) -> None:
    files.add("20.toml", 'server.socket = "20"\n')
    files.add("10.toml", '\n[server]\nsocket = "10"\ncors_origins = ["https://a"]\n[policy.live]\naudio = "never"\n')
    files.add(".15.toml", "nonsense")
    files.add("30.toml.off", "nonsense")
    configuration = files.load('[server]\nlisten = "127.0.0.1:1"\nsocket = "main"\ncors_origins = ["*", "https://b"]\n')
    server = configuration.settings.server
    assert (server.listen.port, server.socket, server.cors_origins) == (1, "20", ("https://a",))
    origins = configuration.origins
    assert origins["server.listen"] == f"{files.main}:2"
    assert origins["server.socket"] == f"{files.conf_d}/20.toml:1"
    assert origins["server.cors_origins"] == f"{files.conf_d}/10.toml:4"
    assert origins["policy.live.audio"] == f"{files.conf_d}/10.toml:6"
    assert origins["server.max_body"] == "default"


def test_lists_of_tables_are_joined(files: Files) -> None:
    files.add("10.toml", AGENT.format(id=3, hash="b" * 64))
    configuration = files.load(AGENT.format(id=7, hash=HASH))
    assert [agent.id for agent in configuration.settings.agents] == [7, 3]
    assert configuration.origins["agents[7].name"] == f"{files.main}:3"
    assert configuration.origins["agents[3].name"] == f"{files.conf_d}/10.toml:3"
    assert configuration.origins["agents[3].email"] == "default"


def test_the_environment_overrides_every_key(files: Files) -> None:
    environ = {
        "TMINUS_SERVER__LISTEN": "127.0.0.1:0",
        "TMINUS_SERVER__CORS_ORIGINS": '["https://a"]',
        "TMINUS_STORAGE__RETENTION": "0",
        "TMINUS_ORGANIZATION__NAME": "2027-01-01",
        "TMINUS_ORGANIZATION__ID": "5",
        "TMINUS_ORGANIZATION__PROVIDER": '"quoted"',
        "TMINUS_LIFECYCLE__MAX_ACTIVE": "",
        "TMINUS_POLICY__LIVE__AUDIO": "never",
        "TMINUS_LOG__LEVEL": "debug",
    }
    configuration = files.load('[lifecycle]\nmax_active = "1h"\n[log]\nlevel = "error"', environ)
    settings = configuration.settings
    assert settings.server.listen == Address("127.0.0.1", 0)
    assert settings.server.cors_origins == ("https://a",)
    assert settings.storage.retention is None
    assert settings.organization.model_dump() == {"id": 5, "name": "2027-01-01", "provider": "quoted"}
    assert settings.lifecycle.max_active is None
    assert settings.policy.modes(SessionType.LIVE)[Setting.AUDIO] is Mode.NEVER
    assert settings.log.level == "debug"
    assert configuration.origins["policy.live.audio"] == "environment TMINUS_POLICY__LIVE__AUDIO"
    assert configuration.origins["log.level"] == "environment TMINUS_LOG__LEVEL"


def test_agents_in_the_environment_replace_those_in_files(files: Files) -> None:
    environ = {"TMINUS_AGENTS": '[{id = 9, name = "Bot", roles = ["api"]}]'}
    configuration = files.load(AGENT.format(id=7, hash=HASH), environ)
    assert [agent.id for agent in configuration.settings.agents] == [9]
    assert configuration.origins["agents[9].id"] == "environment TMINUS_AGENTS"


def test_a_variable_without_double_underscore_is_no_key() -> None:
    environ = {"TMINUS_CONFIG": "x", "TMINUS_TOKEN": "x", "TMINUS_URL": "x", "OTHER__KEY": "x"}
    assert load(None, environ).settings == Settings()


def test_a_value_with_more_lines_is_one_text() -> None:
    environ = {"TMINUS_SERVER__SOCKET": '"a"\nother = 1'}
    assert load(None, environ).settings.server.socket == '"a"\nother = 1'


# --- invalid values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[server]\nlsten = "x"', "tminus.toml:2: server.lsten is not a key; did you mean server.listen?"),
        ("[serv]\nx = 1", "tminus.toml:1: serv is not a section; did you mean server?"),
        ('listen = "x"', "tminus.toml:1: listen is not a key; did you mean server.listen?"),
        ("[log]\nretention = 1", "tminus.toml:2: log.retention is not a key; did you mean storage.retention?"),
        ("[log]\nxyz = 1", "tminus.toml:2: log.xyz is not a key; the keys are level, format, heartbeat"),
        ("[policy.live]\naudoi = 1", "tminus.toml:2: policy.live.audoi is not a key; did you mean policy.live.audio?"),
        ("server = 5", "tminus.toml:1: server must be a table, not a number"),
        ("[agents]\nid = 1", "tminus.toml:1: agents must be a list of tables, each headed [[agents]], not a table"),
        ("agents = [1]", "tminus.toml:1: agents[#1] must be a table, not a number"),
        ("\n[organization]\nname = 5", "tminus.toml:3: organization.name must be text in quotes, not a number"),
        ('organization.name = ""', "tminus.toml:1: organization.name must not be empty"),
        (f'organization.name = "{"x" * 256}"', "tminus.toml:1: organization.name must be at most 255 characters long"),
        (f'server.socket = "{"x" * 4097}"', "tminus.toml:1: server.socket must be at most 4096 characters long"),
        (f'storage.url = "sqlite:///{"x" * 4097}"', "tminus.toml:1: storage.url must be at most 4096 characters long"),
        (
            f"server.cors_origins = {['*'] * 1001}",
            "tminus.toml:1: server.cors_origins must have at most 1000 entries",
        ),
        ('organization.id = "1"', "tminus.toml:1: organization.id must be a whole number, not text"),
        ("organization.id = true", "tminus.toml:1: organization.id must be a whole number, not true or false"),
        ("organization.id = 0", "tminus.toml:1: organization.id must be at least 1"),
        ("limits.connections = 2147483648", "tminus.toml:1: limits.connections must be at most 2147483647"),
        ("limits.sessions_per_agent = -1", "tminus.toml:1: limits.sessions_per_agent must be at least 0"),
        ('server.cors_origins = "*"', "tminus.toml:1: server.cors_origins must be a list, not text"),
        (
            'log.format = "syslog"',
            'tminus.toml:1: log.format must be "auto", "json", "console" or "journal", not "syslog"',
        ),
        (
            'policy.audio = "alway"',
            'tminus.toml:1: policy.audio must be "always", "never" or "agent", not "alway"; did you mean "always"?',
        ),
        ('lifecycle.new_timeout = "49h"', 'tminus.toml:1: lifecycle.new_timeout must be at most "48h", not "49h"'),
        ('lifecycle.new_timeout = "0"', "tminus.toml:1: lifecycle.new_timeout must be longer than 0"),
        (
            'server.socket = ""',
            "tminus.toml:1: server.socket must not be empty: no agent has a token, and nobody can sign in",
        ),
        (
            'storage.retention = "23h59m"',
            'tminus.toml:1: storage.retention must be at least "24h", not "23h59m"; "0" means never',
        ),
        ('server.max_body = "1B"', 'tminus.toml:1: server.max_body must be from "1KiB" to "64MiB", not "1B"'),
        ("server.socket = 1979-05-27", "tminus.toml:1: server.socket must be text in quotes, not a date or time"),
        ("x = \n", "tminus.toml:1: this is not TOML: Invalid value (at line 1, column 5)"),
        ("\na = [", "tminus.toml:2: this is not TOML: Invalid value (at end of document)"),
    ],
)
def test_a_problem_has_its_location_the_error_and_the_fix(files: Files, text: str, message: str) -> None:
    assert files.problem(text) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", "agents[#1].id is missing"),
        ("id = 0", "agents[0].id must be at least 1"),
        ("id = 7\nemial = ''", "agents[7].emial is not a key; did you mean agents.email?"),
        ("id = 7\nexpires = 2027-01-01T00:00:00", "agents[7].expires has no time zone: end it with Z or an offset"),
        ("id = 7\nexpires = 2027-01-01", "agents[7].expires must be a date and time with an offset"),
        (f'id = 7\nemail = "{"x" * 255}"', "agents[7].email must be at most 254 characters long"),
        (f'id = 7\nexternal_id = "{"x" * 256}"', "agents[7].external_id must be at most 255 characters long"),
        (
            f"id = 7\ntoken_sha256 = {[f'{n:064x}' for n in range(101)]}",
            "agents[7].token_sha256 must have at most 100 entries",
        ),
        ("id = 7\nemail = 5", "agents[7].email must be text in quotes"),
    ],
)
def test_a_problem_of_an_agent_names_its_id(files: Files, change: str, message: str) -> None:
    assert message in files.problem(f'[[agents]]\nname = "a"\nroles = ["api"]\n{change}')


@pytest.mark.parametrize("section", ["agents", "webhooks"])
def test_the_numbers_of_agents_and_webhooks_are_limited(files: Files, section: str) -> None:
    most = MAX_ENTRIES[section]
    assert f"{section} must have at most {most} entries" in files.problem(f"{section} = [{'1,' * (most + 1)}]")


def test_unknown_roles_and_empty_lists_of_roles_are_refused(files: Files) -> None:
    text = '[[agents]]\nid = 7\nname = "a"\nroles = {}'
    assert "agents[7].roles must not be empty" in files.problem(text.format("[]"))
    assert 'not "agnt"; did you mean "agent"?' in files.problem(text.format('["api", "agnt"]'))
    assert 'not "agnt"; did you mean "agent"?' in files.problem(text.format('["agnt"]'))


def test_all_problems_of_all_sources_are_reported_at_once_in_order(files: Files) -> None:
    files.add("10.toml", "\n[log]\nlevel = 5\n")
    files.add("20.toml", "= broken")
    problems = files.problems(
        '[server]\nlsten = 1\nmax_body = 5\n[lifecycle]\nlead = "soon"\n[[agents]]\nname = ""\n',
        {"TMINUS_LIMITS__CONNECTIONS": "many", "TMINUS_LIMITS__CONECTIONS": "5"},
    )
    main = files.main
    assert [(problem.where, problem.key) for problem in problems] == [
        (f"{files.conf_d}/10.toml:3", "log.level"),
        (f"{files.conf_d}/20.toml:1", ""),
        (f"{main}:2", "server.lsten"),
        (f"{main}:3", "server.max_body"),
        (f"{main}:5", "lifecycle.lead"),
        (f"{main}:6", "agents[#1].id"),
        (f"{main}:6", "agents[#1].roles"),
        (f"{main}:7", "agents[#1].name"),
        ("environment TMINUS_LIMITS__CONECTIONS", ""),
        ("environment TMINUS_LIMITS__CONNECTIONS", "limits.connections"),
    ]


def test_a_misspelt_variable_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {"TMINUS_SERVER__LISTN": "x", "TMINUS_server__LISTEN": "y", "TMINUS_QQ__QQ": "z"})
    assert sorted(str(caught.value).splitlines()) == [
        "environment TMINUS_QQ__QQ: there is no such setting",
        "environment TMINUS_SERVER__LISTN: there is no such setting; did you mean TMINUS_SERVER__LISTEN?",
        "environment TMINUS_server__LISTEN: there is no such setting; did you mean TMINUS_SERVER__LISTEN?",
    ]


def test_a_variable_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ConfigError, match="TMINUS_ORGANIZATION__NAME: this is not UTF-8 text"):
        load(None, {"TMINUS_ORGANIZATION__NAME": "\udcff"})


def test_ids_and_tokens_belong_to_one_agent(files: Files) -> None:
    files.add("10.toml", AGENT.format(id=7, hash=HASH))
    other, same = files.problems(AGENT.format(id=7, hash=HASH))
    assert other == ConfigProblem(
        f"{files.conf_d}/10.toml:2",
        "agents[7].id",
        f"is also the id of another agent ({files.main}:2): each needs its own",
    )
    assert (same.where, same.key) == (f"{files.conf_d}/10.toml:5", "agents[7].token_sha256")
    assert HASH not in same.message


def test_contradictions_are_reported_with_other_problems(files: Files) -> None:
    text = AGENT.format(id=7, hash=HASH) + AGENT.format(id=7, hash="b" * 64) + "[log]\nlevel = 5\n"
    assert [problem.key for problem in files.problems(text)] == ["agents[7].id", "log.level"]


def test_with_a_token_the_local_socket_may_be_disabled(files: Files) -> None:
    assert files.load('server.socket = ""\n' + AGENT.format(id=7, hash=HASH)).settings.server.socket == ""
    without = '[[agents]]\nid = 7\nname = "a"\nroles = ["api"]\n'
    assert "nobody can sign in" in files.problem('server.socket = ""\n' + without)


def test_a_lead_is_shorter_than_the_horizon(files: Files) -> None:
    message = 'makes scheduling impossible: lead ("{}") must be shorter than horizon ("{}")'
    for text, key, spans in (
        ('lead = "731d"', "lead", ("731d", "730d")),
        ('horizon = "10m"', "horizon", ("10m", "10m")),
        ('horizon = "1h"\nlead = "2h"', "lead", ("2h", "1h")),
    ):
        (problem,) = files.problems(f"[lifecycle]\n{text}")
        line = 2 + text.count("\n")
        assert problem == ConfigProblem(f"{files.main}:{line}", f"lifecycle.{key}", message.format(*spans))


def test_an_invalid_lead_causes_no_second_problem_with_the_horizon(files: Files) -> None:
    assert "must be a duration" in files.problem('[lifecycle]\nlead = "soon"\nhorizon = "1m"')


def test_the_minimum_retention_is_a_day(files: Files) -> None:
    assert files.load('storage.retention = "24h"').settings.storage.retention == timedelta(days=1)


def test_a_password_is_for_postgresql_only_and_comes_from_one_place(files: Files) -> None:
    both = '[storage]\npassword_file = "a"\npassword_credential = "b"\n'
    assert [problem.key for problem in files.problems(both)] == [
        "storage.password_file",
        "storage.password_credential",
        "storage.password_credential",
    ]
    assert "cannot be set together" in files.problem(both + 'url = "postgresql+psycopg://u@h/n"')
    assert files.load('[storage]\npassword_file = "a"\nurl = "postgresql+psycopg://u@h/n"')


@pytest.mark.parametrize(
    "text",
    [
        AGENT.format(id=7, hash="hunter2"),
        '[[agents]]\nid = 7\nname = "a"\nroles = ["api"]\ntoken_sha256 = "hunter2"',
        '[[agents]]\nid = 7\nname = "a"\nroles = ["api"]\ntoken = "hunter2"',
        'storage.url = "postgresql+psycopg://u:hunter2@h/n"',
        'storage.password = "hunter2"',
        '[storage]\npassword_credential = "../hunter2"\nurl = "postgresql+psycopg://u@h/n"',
        'server.public_url = "https://u:hunter2@h"',
        'server.cors_origins = ["https://u:hunter2@h"]',
        '[storage]\npassword_file = "hunter2"',
    ],
)
def test_a_secret_is_never_repeated(files: Files, text: str) -> None:
    problem = files.problem(text)
    assert "hunter2" not in problem
    assert "tminus.toml:" in problem


def test_an_unreadable_file_is_a_problem(files: Files, tmp_path: Path) -> None:
    files.add("10.toml", "").write_bytes(b'a = "\xff"')
    (files.conf_d / "20.toml").mkdir()
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "missing.toml", {})
    assert [(Path(problem.where).name, problem.message) for problem in caught.value.problems] == [
        ("10.toml:1", "this is not UTF-8 text"),
        ("20.toml", "cannot be read: Is a directory"),
        ("missing.toml", "cannot be read: No such file or directory"),
    ]


def test_values_beyond_pythons_limits_are_problems(files: Files) -> None:
    assert "this is not TOML" in files.problem(f"a = {'1' * 5000}")
    assert "this is not TOML" in files.problem(f"a = {'[' * 5000}{']' * 5000}")
    assert "must be a list" in files.problem("", {"TMINUS_SERVER__CORS_ORIGINS": "[" * 4000})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[organization]\nname = "{}"', "organization.name"),
        ('[organization]\nprovider = "{}"', "organization.provider"),
        ('[[agents]]\nid = 8\nroles = ["agent"]\nname = "{}"', "agents[8].name"),
        ('[[agents]]\nid = 8\nroles = ["agent"]\nname = "B"\nemail = "{}"', "agents[8].email"),
        ('[[agents]]\nid = 8\nroles = ["agent"]\nname = "B"\nexternal_id = "{}"', "agents[8].external_id"),
        ('[mail]\nusername = "{}"', "mail.username"),
        ('[signin.oidc]\nclient_id = "{}"', "signin.oidc.client_id"),
        ('[signin.oidc]\nagent_claim = "{}"', "signin.oidc.agent_claim"),
        ('[signin.oidc]\ngroups_claim = "{}"', "signin.oidc.groups_claim"),
        ('[signin.oidc.roles]\nagent = ["{}"]', "signin.oidc.roles.agent"),
        (
            '[[series]]\nname = "s"\nagent = 8\ntimezone = "UTC"\nsession = {{type = "live", label = "{}"}}',
            "series[s].session.label",
        ),
    ],
)
@pytest.mark.parametrize("control", [r"\u0000", r"\u001b[2J", r"\n", r"\u0085"])
def test_text_with_control_characters_is_refused(files: Files, text: str, key: str, control: str) -> None:
    problems = map(str, files.problems(text.format(f"Be{control}n")))
    assert any(f"{key} must not contain control characters" in problem for problem in problems)


@pytest.mark.parametrize("text", ["{} = 1", "[{}]", "[[{}]]", "[server]\n{} = 1", "server = {{{} = 1}}"])
@pytest.mark.parametrize("levels", [201, 5000])
def test_a_key_that_is_nested_too_deeply_is_one_problem(files: Files, text: str, levels: int) -> None:
    problem = files.problem(text.format(".".join(["a"] * levels)))
    assert problem.startswith("tminus.toml: ")
    assert problem.endswith("a.a.a… is nested more than 200 levels deep")


def test_a_variable_that_is_nested_too_deeply_is_not_read_as_a_list(files: Files) -> None:
    nested = f"[{{{'.'.join(['a'] * 5000)} = 1}}]"
    assert "environment TMINUS_AGENTS: agents" in files.problem("", {"TMINUS_AGENTS": nested})


def test_reading_takes_time_in_proportion_to_the_number_of_entries(tmp_path: Path) -> None:
    def seconds(number: int) -> float:
        folder = tmp_path / str(number)
        (folder / "conf.d").mkdir(parents=True)
        (folder / "tminus.toml").touch()
        for start in range(0, number, 10):
            (folder / "conf.d" / f"{start:05}.toml").write_text(
                "".join(f'[[agents]]\nid = {start + one + 1}\nname = "A"\nroles = ["agent"]\n' for one in range(10))
            )
        took = []
        for _ in range(2):
            begun = time.process_time()
            assert len(load(folder / "tminus.toml", {}).settings.agents) == number
            took.append(time.process_time() - begun)
        return min(took)

    assert seconds(1600) / seconds(200) < 24, "linear time gives 8; comparing each entry with all others gives 64"


def test_ten_times_as_many_agents_and_webhooks_need_ten_times_as_many_calls(tmp_path: Path) -> None:
    """Reading 2,000 agents and 300 webhooks in 200 files calls functions ten times as often as reading a tenth."""

    def calls(files: int) -> int:
        folder = tmp_path / str(files)
        (folder / "conf.d").mkdir(parents=True)
        (folder / "tminus.toml").touch()
        for file in range(files):
            agents = "".join(AGENT.format(id=10 * file + one + 1, hash=f"{10 * file + one:064x}") for one in range(10))
            webhooks = "".join(
                f'[[webhooks]]\nname = "e{number}"\nurl = "https://example.com/{number}"\nsecret_file = "s"\n'
                for number in range(file * 3 // 2, (file + 1) * 3 // 2)
            )
            (folder / "conf.d" / f"{file:03}.toml").write_text(agents + webhooks)
        number = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal number
            number += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            read = load(folder / "tminus.toml", {})
        finally:
            sys.setprofile(None)
        assert (len(read.settings.agents), len(read.settings.webhooks)) == (10 * files, 3 * files // 2)
        return number

    load(None, {})  # what only the first call does is not counted
    few, many = calls(20), calls(200)
    assert many < 10.5 * few, f"{few} and {many} calls"


@pytest.mark.parametrize(
    "content",
    [b'\xef\xbb\xbf[organization]\nname = "A"\n', b'[organization]\r\nname = "A"\r\n', b'[organization]\nname = "A"'],
)
def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tminus.toml"
    file.write_bytes(content)
    read = load(file, {})
    assert (read.settings.organization.name, read.origins["organization.name"]) == ("A", f"{file}:2")


@pytest.mark.parametrize(
    ("content", "line", "text"),
    [
        ("[log]\n".encode("utf-16"), 1, "this is UTF-16 text: save it as UTF-8"),
        ("[log]\n".encode("utf-32"), 1, "this is UTF-32 text: save it as UTF-8"),
        (
            "[log]\n".encode("utf-16-le"),
            1,
            "this is not UTF-8 text but UTF-16, or not text at all: it contains NUL bytes",
        ),
        ('[organization]\nname = "Müller"\n'.encode("latin-1"), 2, "this is not UTF-8 text"),
        (b"[log]\r\nlevel = \x80\r\n", 2, "this is not UTF-8 text"),
    ],
)
def test_a_file_in_another_encoding_is_one_clear_problem(tmp_path: Path, content: bytes, line: int, text: str) -> None:
    file = tmp_path / "tminus.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load(file, {})
    assert refused.value.problems == (ConfigProblem(f"{file}:{line}", "", text),)


@pytest.mark.parametrize("create", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_pipe_or_device_is_not_read(tmp_path: Path, create: Callable[[Path], None]) -> None:
    main = tmp_path / "t.toml"
    main.touch()
    (tmp_path / "conf.d").mkdir()
    create(tmp_path / "conf.d/x.toml")
    with pytest.raises(ConfigError, match=r"conf\.d/x\.toml: is not a regular file"):
        load(main, {})
    with pytest.raises(ConfigError, match="is not a regular file"):
        discovery.candidates(main, {})


def test_a_pipe_as_the_main_file_is_refused_at_once(tmp_path: Path) -> None:
    """A reload would read the defaults from it, and refuse every token."""
    pipe = tmp_path / "t.toml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError) as refused:
        load(pipe, {})
    problem = "is a pipe, which can be read only once: save the configuration as a regular file"
    assert refused.value.problems == (ConfigProblem(str(pipe), "", problem),)


def test_an_empty_device_as_the_main_file_means_the_defaults() -> None:
    assert load(Path("/dev/null"), {}).settings == load(None, {}).settings


# --- series -----------------------------------------------------------------------------------------------------------

SERIES = """[[series]]
name = "weekly"
agent = 7
dtstart = 2026-12-01T09:00:00
timezone = "Europe/Berlin"
"""


def test_an_entry_of_a_series_has_the_names_and_the_checks_of_the_api(files: Files) -> None:
    text = AGENT.format(id=7, hash=HASH) + SERIES + 'rrule = "FREQ=DAILY"\nexdates = [2026-12-24]\n[series.session]\n'
    [one] = files.load(text + 'type = "live"\nlabel = "x"\nagentPrefs = { record = true }\n').settings.series
    command = one.create_series()
    assert (command.recurrence.excluded, command.session.preferences["record"]) == (frozenset({"2026-12-24"}), True)
    assert command.sent == {"type": "live", "label": "x", "agentPrefs": {"record": True}}


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ('rrule = "FREQ=HOURLY"', "6: series[weekly].rrule must have one of FREQ=YEARLY"),
        ('timezone = "Mars/X"', "5: series[weekly].timezone must be a time zone"),
        ("dtstart = 2026-12-01T09:00:00Z", "4: series[weekly].dtstart must be a local time without an offset"),
        ("agent = 8", "3: series[weekly].agent must be the id of an agent in [[agents]]; there is no agent 8"),
        ("rule = 1", "6: series[weekly].rule is not a key; did you mean series.rrule?"),
        ('horizon = "366d"\nrrule = "FREQ=DAILY;BYHOUR=1,2,3"', "1: series[weekly] must have at most 1000 sessions"),
        ("session = { type = 'live' }", "6: series[weekly].session.label is missing"),
        ("session = { lable = 'x', type = 'live', label = 'x' }", "6: series[weekly].session.lable is not a key"),
        ("session = { agentPrefs = { recrod = true }, type = 'live', label = 'x' }", "6: series[weekly].session.agent"),
        ("session = { invitees = [{ email = 'x' }], type = 'live', label = 'x' }", "6: series[weekly].session.invitee"),
    ],
)  # fmt: skip
def test_a_wrong_entry_of_a_series_is_reported_with_its_place(files: Files, more: str, problem: str) -> None:
    keys = {line.partition(" = ")[0] for line in more.splitlines()}
    kept = [line for line in SERIES.splitlines() if line.partition(" = ")[0] not in keys]
    missing = "" if "session" in keys else "\nsession = { type = 'live', label = 'x' }"
    position = {"timezone": 4, "dtstart": 3, "agent": 2}
    lines = kept + more.splitlines()
    if (first := more.partition(" = ")[0]) in position:
        lines = [*kept[: position[first]], *more.splitlines(), *kept[position[first] :]]
    files.add("10-agents.toml", AGENT.format(id=7, hash=HASH))
    assert f"tminus.toml:{problem}" in files.problem("\n".join(lines) + missing)


def test_the_agent_of_a_series_may_create_sessions_and_a_name_is_used_once(files: Files) -> None:
    series = SERIES + "session = { type = 'live', label = 'x' }\n"
    agent = AGENT.format(id=7, hash=HASH).replace('["agent"]', '["monitor"]')
    assert "agent 7 lacks the role agent" in files.problem(agent + series)
    assert "is also the name of another series (" in files.problem(AGENT.format(id=7, hash=HASH) + series + series)
