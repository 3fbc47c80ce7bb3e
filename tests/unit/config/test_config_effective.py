"""The configuration in force, written as TOML."""

import re
import tomllib
from pathlib import Path

from tminus.config import effective, load
from tminus.config.keys import KEYS
from tminus.config.settings import Agent

HASH = "0123456789" * 6 + "abcd"
TEXT = rf"""
[server]
public_url = "https://a.example"
socket = "a\u007f\n# b"
[lifecycle]
new_timeout = "90m"
[policy]
recording = "never"
[policy.live]
recording = "always"
[[agents]]
id = 7
name = "A \"quoted\" # name"
roles = ["api", "agent"]
token_sha256 = ["{HASH}"]
"""


def test_the_output_is_toml_with_every_key_in_force(tmp_path: Path) -> None:
    path = tmp_path / "tminus.toml"
    path.write_text(TEXT)
    found = tomllib.loads(effective(load(path, {"TMINUS_SERVER__MAX_BODY": "65536B"})))
    for key in KEYS:
        table = found
        for part in key:
            assert part in table, key
            table = table[part]
    assert set(found["agents"][0]) == set(Agent.model_fields)
    assert found["server"]["max_body"] == "64KiB"
    assert found["server"]["user_url"] == "https://a.example"
    assert found["lifecycle"]["new_timeout"] == "1h30m"
    assert found["policy"]["live"]["recording"] == "always"
    assert found["policy"]["support"]["recording"] == "never"
    assert found["limits"]["pin_lookups"] == "20/minute"
    assert found["agents"][0]["name"] == 'A "quoted" # name'
    assert found["server"]["socket"] == "a\x7f\n# b"
    assert found["agents"][0]["roles"] == ["agent", "api"]


def test_every_line_has_the_origin_of_its_value(tmp_path: Path) -> None:
    path = tmp_path / "tminus.toml"
    path.write_text(TEXT)
    text = effective(load(path, {"TMINUS_SERVER__MAX_BODY": "1KiB"}))
    lines = [re.sub("  +", "  ", line) for line in text.splitlines() if " = " in line]
    assert all("  # " in line for line in lines)
    assert f'new_timeout = "1h30m"  # {path}:6' in lines
    assert 'max_body = "1KiB"  # environment TMINUS_SERVER__MAX_BODY' in lines
    assert 'lead = "10m"  # default' in lines
    assert 'user_url = "https://a.example"  # default, from server.public_url' in lines
    assert 'recording = "never"  # default, from policy.recording' in lines
    assert f"id = 7  # {path}:12" in lines


def test_token_hashes_are_masked(tmp_path: Path) -> None:
    path = tmp_path / "tminus.toml"
    path.write_text(TEXT)
    configuration = load(path, {})
    assert HASH not in effective(configuration)
    assert '"012345678901…"' in effective(configuration)
    assert HASH not in repr(configuration)


def test_the_output_is_toml_without_agents_too() -> None:
    assert tomllib.loads(effective(load(None, {})))["agents"] == []


def test_a_series_has_its_session_as_an_inline_table(tmp_path: Path) -> None:
    path = tmp_path / "tminus.toml"
    path.write_text(
        '[[agents]]\nid = 7\nname = "A"\nroles = ["agent"]\n[[series]]\nname = "w"\nagent = 7\n'
        'dtstart = 2026-12-01T09:00:00\ntimezone = "UTC"\n[series.session]\ntype = "live"\nlabel = "x"\n'
        'metaData = { "a b" = [1, true], c = "d" }\n[[series.session.invitees]]\nemail = "a@example.com"\n'
    )
    text = effective(load(path, {}))
    path.write_text(text)
    [one] = tomllib.loads(text)["series"]
    assert one["session"]["metaData"] == {"a b": [1, True], "c": "d"}
    assert "rrule" not in one, "TOML has no null: a key that is not set is left out"
    assert load(path, {}).settings.series[0].create_series().sent == one["session"]
