"""Changes to the agents in a configuration file are atomic and change nothing else."""

import os
import stat
import tomllib
from pathlib import Path

import pytest

from tminus.config import editing
from tminus.config.editing import CannotEdit, replace, with_agent, with_token, without_tokens

OLD, NEW = "0" * 64, "a" * 64
NOBODY = 65534

TOKENS = f'token_sha256 = ["{OLD}"]'

FILES = {
    "one line": ("[[agents]]", "id = 7", 'name = "A"', 'roles = ["agent"]', TOKENS, ""),
    "many lines": (
        "# top", "[[agents]]", "id = 7 # anna", "roles = [", '  "agent", # all', "]", "token_sha256 = [",
        "  # laptop", f'  "{OLD}", # old', "]", "", "# end", "",
    ),
    "no comma at the end": (
        "[[agents]]", "id = 7", "token_sha256 = [", f'    "{OLD}"', "]", "expires = 2030-01-01T00:00:00Z", "",
    ),
    "after others": (
        "[log]", 'level = "info"', "", "[[agents]]", "id = 8", "", "[[agents]]", "id = 7", TOKENS, "# between",
        "[limits]", "connections = 3", "",
    ),
    "out of order": (
        "[[agents]]", "id = 8", "", "[log]", 'level = "info"', "", "[[agents]]", "id = 7", TOKENS, "", "[server]",
        "# none", "", "[[agents]]", "id = 9", "",
    ),
    "Windows": ("# top\r", "[[agents]]\r", "id = 7\r", f"{TOKENS}\r", "[log]\r", 'level = "info"\r', ""),
    "without a line end": ("[[agents]]", "id = 7", TOKENS),
    "inline": (f'agents = [{{id = 7, token_sha256 = ["{OLD}"]}}, {{id = 8}}] # two', "[log]", 'level = "info"', ""),
    "quoted": ('[["agents"]]', '"id" = 0x7', f"'token_sha256' = ['{OLD}'] # [[agents]]", ""),
}  # fmt: skip
"""Lines of files that have an agent 7 with one token."""


@pytest.mark.parametrize("name", FILES)
def test_adding_a_token_changes_no_other_line(name: str) -> None:
    text = "\n".join(FILES[name])
    changed = with_token(text, 7, NEW)
    [agent] = [one for one in tomllib.loads(changed)["agents"] if one["id"] == 7]
    assert agent["token_sha256"] == [OLD, NEW]
    lines = changed.split("\n")
    kept = [line for line in text.split("\n") if OLD not in line and line.strip() != "]"]
    assert [line for line in lines if line in kept] == kept
    assert changed.count("\r\n") == changed.count("\n") if "\r" in text else "\r" not in changed


@pytest.mark.parametrize("name", FILES)
def test_revoking_an_added_token_restores_the_original_file(name: str) -> None:
    text = "\n".join(FILES[name])
    back = without_tokens(with_token(text, 7, NEW), 7, frozenset({NEW}))
    assert tomllib.loads(back) == tomllib.loads(text)
    assert [line.rstrip(",\r") for line in back.split("\n")] == [line.rstrip(",\r") for line in text.split("\n")]
    [agent] = [one for one in tomllib.loads(without_tokens(text, 7, frozenset({OLD})))["agents"] if one["id"] == 7]
    assert agent["token_sha256"] == []


def test_an_agent_without_tokens_gets_its_first() -> None:
    text = '[[agents]]\nid = 7\nname = "A" # anna\n\n# the log\n[log]\nlevel = "info"\n'
    changed = with_token(text, 7, NEW)
    assert tomllib.loads(changed)["agents"] == [{"id": 7, "name": "A", "token_sha256": [NEW]}]
    assert changed == text.replace("id = 7\n", f'id = 7\ntoken_sha256 = ["{NEW}"]\n')
    assert tomllib.loads(with_token("[[agents]]\nid = 7", 7, NEW))["agents"][0]["token_sha256"] == [NEW]


@pytest.mark.parametrize("text", ["", "# top", "# top\n", '[log]\nlevel = "info"\n\n', "# top\r\n"])
def test_a_new_agent_is_added_at_the_end(text: str) -> None:
    agent = {"id": 7, "name": 'N "x" \x7f', "roles": ["agent"], "token_sha256": [NEW]}
    changed = with_agent(text, agent)
    assert changed.startswith(text)
    assert tomllib.loads(changed)["agents"] == [agent]
    assert ("\r\n[[agents]]\r\n" in changed) is ("\r" in text)


@pytest.mark.parametrize("text", ["agents = [{id = 8}]\n", "agents = []\n"])
def test_a_layout_that_cannot_be_preserved_is_refused(text: str) -> None:
    with pytest.raises(CannotEdit):
        with_agent(text, {"id": 7})


def test_a_change_to_a_removed_agent_is_refused() -> None:
    with pytest.raises(CannotEdit):
        with_token("[[agents]]\nid = 8\n", 7, NEW)


def _append(text: str) -> str:
    return text + "# more\n"


def test_owner_and_mode_are_preserved_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b"\xef\xbb\xbf# a\n")
    file.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(file, 12345, 23456)
    before = file.stat()
    replace(file, _append, lambda _: None, None)
    after = file.stat()
    assert file.read_bytes() == b"\xef\xbb\xbf# a\n# more\n"
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert after.st_ino != before.st_ino
    assert [one.name for one in tmp_path.iterdir()] == ["a.toml"]


def test_a_new_file_can_be_read_by_those_who_read_the_main_one(tmp_path: Path) -> None:
    main, new = tmp_path / "t.toml", tmp_path / "new.toml"
    main.touch()
    main.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(main, 0, 23456)
    replace(new, _append, lambda _: None, main)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    assert new.stat().st_gid == main.stat().st_gid


def test_a_change_that_the_check_refuses_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("# a\n")

    def refuse(content: bytes) -> None:
        assert content == b"# a\n# more\n"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replace(file, _append, refuse, None)
    assert file.read_text() == "# a\n"
    assert [one.name for one in tmp_path.iterdir()] == ["a.toml"]


def test_a_symbolic_link_is_followed_and_preserved(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "link.toml"
    real.write_text("# a\n")
    link.symlink_to(real)
    replace(link, _append, lambda _: None, None)
    assert link.is_symlink()
    assert real.read_text() == "# a\n# more\n"


def test_only_plain_files_are_changed(tmp_path: Path) -> None:
    file, second = tmp_path / "a.toml", tmp_path / "b.toml"
    file.write_text("# a\n")
    second.hardlink_to(file)
    os.mkfifo(tmp_path / "c.toml")
    for name in ("a.toml", "c.toml"):
        with pytest.raises(OSError, match="not a regular file, or has more than one hard link"):
            replace(tmp_path / name, _append, lambda _: None, None)


def test_a_change_waits_for_a_concurrent_change_up_to_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editing, "LOCK_SECONDS", 0.05)
    file = tmp_path / "a.toml"

    def meanwhile(_: bytes) -> None:
        with pytest.raises(OSError, match="another process has locked"):
            replace(tmp_path / "b.toml", _append, lambda _: None, None)

    replace(file, _append, meanwhile, None)
    assert file.read_text() == "# more\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can drop its privileges")
def test_root_does_not_follow_a_link_of_another_user(tmp_path: Path) -> None:
    for folder in tmp_path.parents[:3]:
        folder.chmod(0o755)
    tmp_path.chmod(0o755)
    secret, theirs = tmp_path / "secret", tmp_path / "theirs"
    secret.write_text("# secret\n")
    secret.chmod(0o600)
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    (theirs / "a.toml").symlink_to(secret)
    (theirs / "b.toml").symlink_to(tmp_path / "new")
    for name in ("a.toml", "b.toml"):
        with pytest.raises(PermissionError):
            replace(theirs / name, _append, lambda _: None, None)
    assert secret.read_text() == "# secret\n"
    assert not (tmp_path / "new").exists()
    replace(theirs / "c.toml", _append, lambda _: None, secret)
    assert (theirs / "c.toml").stat().st_uid == NOBODY
    assert os.geteuid() == 0
