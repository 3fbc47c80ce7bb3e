"""Tokens are looked up by their digest and never compared, so that timing reveals no correct prefix."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tminus
from tminus.domain.model import AgentSession

ROOMS = Path(tminus.__file__).parent
SECRETS = {"token", "session_token", "secret", "credentials"}
"""What a token is called wherever the daemon holds one as it was sent."""

LOOKS = {"startswith", "endswith", "find", "index", "count", "match", "fullmatch", "search", "get", "compare_digest"}
"""Calls whose time may depend on how much of a text is like another."""


def named(node: ast.AST) -> set[str]:
    """Return the names in an expression, except those that are hashed first."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_digest":
        return set()
    own = {node.id} if isinstance(node, ast.Name) else {node.attr} if isinstance(node, ast.Attribute) else set()
    return own.union(*(named(child) for child in ast.iter_child_nodes(node)))


def compared(source: str) -> Iterator[tuple[int, str]]:
    """Return the places where a token in clear text is compared, is a key, or is the subject of a `match`."""
    for node in ast.walk(ast.parse(source)):
        looked_at: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            looked_at = [node]
        elif isinstance(node, ast.Subscript):
            looked_at = [node.slice]
        elif isinstance(node, ast.Match):
            looked_at = [node.subject]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOOKS:
            looked_at = [node.func.value, *node.args]
        for part in looked_at:
            yield from ((part.lineno, name) for name in named(part) & SECRETS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("file", sorted((ROOMS / "api").glob("*.py")), ids=lambda file: file.name)
def test_the_api_compares_no_token(file: Path) -> None:
    assert list(compared(file.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "token == known",
        "known != body.session_token",
        "token in tokens",
        "agents[token]",
        "agents.get(token)",
        "token.startswith(known)",
        "hmac.compare_digest(secret, known)",
        "token[:8] == known[:8]",
        "_digest(known) == token",
    ],
)
def test_the_search_finds_a_comparison_of_a_token(line: str) -> None:
    assert list(compared(line))


@pytest.mark.parametrize("line", ["agents.get(_digest(token))", "_digest(token) == known", "if not token: pass"])
def test_a_digest_may_be_compared(line: str) -> None:
    assert list(compared(line)) == []


def test_only_digests_of_an_agent_sessions_secrets_are_stored() -> None:
    kept = {name for name in AgentSession.model_fields if "secret" in name or "token" in name}
    assert kept == {"secret_sha256", "token_sha256"}
