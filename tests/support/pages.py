"""Read the code blocks and tables of documentation pages."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def shell_of(name: str) -> list[tuple[str, str]]:
    """Return the shell blocks of a page in order, each with the heading above it."""
    found: list[tuple[str, str]] = []
    heading = ""
    for part in re.finditer(
        r"^#+ ([^\n]+)$|^```sh\n(.*?)^```|^```.*?^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE
    ):
        title, block = part.groups()
        heading = title or heading
        if block:
            found.append((heading, block))
    return found


def blocks(name: str, heading: str) -> list[str]:
    """Return the blocks below one heading."""
    return [block for title, block in shell_of(name) if title == heading]
