"""Comparison of two configurations, and the changes that can be applied at once."""

from typing import Any

from tminus.config import Change, Settings, apply_live, changes
from tminus.config.keys import KEYS
from tminus.config.reload import NEEDS_RESTART

HASH = "a" * 64


def settings(**sections: Any) -> Settings:
    return Settings.model_validate(sections)


def agent(number: int, **keys: Any) -> dict[str, Any]:
    return {"id": number, "name": f"Agent {number}", "roles": ["agent"], **keys}


def test_equal_settings_differ_in_nothing() -> None:
    one = settings(agents=[agent(7)], server={"public_url": "https://a"})
    assert changes(one, settings(agents=[agent(7)], server={"public_url": "https://a"})) == ()


def test_a_change_has_both_values_as_they_are_written() -> None:
    old = settings(lifecycle={"lead": "90m"}, limits={"pin_lookups": "5/second"})
    new = settings(
        server={"listen": "127.0.0.1:1", "max_body": "1MiB", "cors_origins": ["*"], "public_url": "https://a/"},
        policy={"live": {"audio": "never"}},
    )
    assert changes(old, new) == (
        Change("server.listen", "127.0.0.1:8710", "127.0.0.1:1", needs_restart=True),
        Change("server.public_url", "", "https://a"),
        Change("server.cors_origins", "[]", '["*"]'),
        Change("server.max_body", "64KiB", "1MiB"),
        Change("lifecycle.lead", "1h30m", "10m"),
        Change("policy.live.audio", "", "never"),
        Change("limits.pin_lookups", "5/second", "20/minute"),
    )


def test_agents_are_compared_by_their_ids_not_by_their_order() -> None:
    old = settings(agents=[agent(7), agent(3), agent(1)])
    new = settings(agents=[agent(1), agent(7, roles=["agent", "api"]), agent(9)])
    assert changes(old, new) == (
        Change("agents[3]", "Agent 3", ""),
        Change("agents[7].roles", '["agent"]', '["agent", "api"]', agent_name="Agent 7"),
        Change("agents[9]", "", "Agent 9"),
    )


def test_masked_token_hashes_are_compared_unmasked() -> None:
    old = settings(agents=[agent(7, token_sha256=["a" * 63 + "b"])])
    new = settings(agents=[agent(7, token_sha256=["a" * 63 + "c"], expires="2027-01-01T00:00:00Z")])
    assert changes(old, new) == (
        Change("agents[7].token_sha256", '["aaaaaaaaaaaa…"]', '["aaaaaaaaaaaa…"]', agent_name="Agent 7"),
        Change("agents[7].expires", "", "2027-01-01T00:00:00.000Z", agent_name="Agent 7"),
    )


def test_keys_that_need_a_restart_keep_their_values() -> None:
    new = settings(
        server={"listen": "127.0.0.1:1", "socket": "x", "max_body": "1MiB"},
        storage={"url": "postgresql+psycopg://u@h/n", "password_file": "x", "retention": "1d"},
        log={"format": "json", "level": "debug"},
        limits={"connections": 5, "sessions_per_agent": 5},
        agents=[agent(7)],
        policy={"live": {"audio": "never"}},
    )
    applied = apply_live(Settings(), new)
    assert {change.key for change in changes(applied, new)} == set(NEEDS_RESTART) - {"storage.password_credential"}
    assert all(change.needs_restart for change in changes(applied, new))
    assert not any(change.needs_restart for change in changes(Settings(), applied))
    assert applied.policy == new.policy
    assert applied.server.urls() == Settings().server.urls()


def test_every_key_that_needs_a_restart_is_a_key() -> None:
    assert set(NEEDS_RESTART) <= {".".join(key) for key in KEYS}


def test_changes_of_a_series_show_no_personal_data() -> None:
    one = {"name": "weekly", "agent": 7, "rrule": "FREQ=WEEKLY", "dtstart": "2030-01-08T09:00", "timezone": "UTC"}
    guest = {"email": "guest@example.com"}
    old = settings(series=[{**one, "session": {"type": "live", "label": "Old", "invitees": [guest]}}])
    new = settings(series=[{**one, "horizon": "60d", "session": {"type": "live", "label": "New"}}])
    assert changes(old, new) == (
        Change("series[weekly].horizon", "30d", "60d"),
        Change("series[weekly].session.label", "Old", "New"),
        Change("series[weekly].session.invitees", "…", ""),
    )
