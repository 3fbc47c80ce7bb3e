"""The configuration file that is shipped, and its reference."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

from tminus.config import Settings, load
from tminus.config.keys import ENTRY_KEYS, KEYS, LISTS

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "config" / "tminus.toml"
REFERENCE = ROOT / "docs" / "config.md"


def test_the_shipped_file_is_exactly_the_defaults(tmp_path: Path) -> None:
    alone = tmp_path / SHIPPED.name  # whoever has followed the README's tour has another file in config/conf.d
    alone.write_bytes(SHIPPED.read_bytes())
    assert load(alone, {}).settings == Settings()


def test_the_shipped_file_has_every_key() -> None:
    # Uncomment the settings (`# key = …`, `# [[agents]]`), but not the prose.
    table = tomllib.loads(re.sub(r"(?m)^# (?=[a-z0-9_]+ = |\[\[)", "", SHIPPED.read_text()))
    for key in KEYS:
        found = table
        for part in key:
            assert part in found, f"config/tminus.toml lacks the setting {'.'.join(key)}"
            found = found[part]
    for (name,), keys in ENTRY_KEYS.items():
        assert set(table[name][0]) == set(keys)


def test_the_commented_out_parts_of_the_shipped_file_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "tminus.toml"
    path.write_text(re.sub(r"(?m)^# (?=[a-z0-9_]+ = |\[\[)", "", SHIPPED.read_text()))
    assert load(path, {}).settings.agents[0].id == 7


def test_every_key_of_the_shipped_file_is_explained_above_it() -> None:
    lines = SHIPPED.read_text().splitlines()
    for above, line in pairwise(lines):
        if re.match(r"(# )?[a-z0-9_]+ = ", line) and not re.match(r"# (recording|start|knock|audio)", line):
            assert above.startswith(("# ", "# # ")), line


def test_the_reference_has_every_key_with_its_default_in_its_section() -> None:
    text = REFERENCE.read_text()
    sections = {match[1]: match[2] for match in re.finditer(r"(?ms)^## `\[+([a-z]+)\]+`$(.*?)(?=^## |\Z)", text)}
    for key in KEYS:
        if key[0] == "policy" and len(key) == 3:
            assert f"[policy.{key[1]}]" in sections["policy"]
        elif key not in LISTS:
            section, *tables, name = key
            row = re.search(rf"(?m)^\| `{name}` \| `(.+?)` \|", sections[section])
            assert row, f"docs/config.md: the table of [{section}] lacks {name}"
            [(_, default)] = tomllib.loads(f"{name} = {row[1]}").items()
            values = {name: default}
            for table in reversed(tables):
                values = {table: values}
            assert Settings.model_validate({section: values}) == Settings(), key
    for (section,), keys in ENTRY_KEYS.items():
        for name in keys:
            assert f"| `{name}` |" in sections[section]
