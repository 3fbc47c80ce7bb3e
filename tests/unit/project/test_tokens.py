"""Tokens are looked up by their digest and never compared, so that timing reveals no correct prefix."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tminus
from tminus.domain.model import AgentSession

PACKAGE = Path(tminus.__file__).parent
SECRETS = {"token", "session_token", "secret", "credentials"}
"""The names of variables and fields that hold a token in clear text."""

METHODS = {"startswith", "endswith", "find", "index", "count", "match", "fullmatch", "search", "get", "compare_digest"}
"""Methods whose running time may depend on how much of two texts is equal."""


def names_in(node: ast.AST) -> set[str]:
    """Return the names in an expression, except those that are hashed first."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_digest":
        return set()
    own = {node.id} if isinstance(node, ast.Name) else {node.attr} if isinstance(node, ast.Attribute) else set()
    return own.union(*(names_in(child) for child in ast.iter_child_nodes(node)))


def comparisons(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of each token in clear text that is compared, is a key, or is the subject of a `match`."""
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            parts = [node]
        elif isinstance(node, ast.Subscript):
            parts = [node.slice]
        elif isinstance(node, ast.Match):
            parts = [node.subject]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            parts = [node.func.value, *node.args]
        for part in parts:
            yield from ((part.lineno, name) for name in names_in(part) & SECRETS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("file", sorted((PACKAGE / "api").glob("*.py")), ids=lambda file: file.name)
def test_the_api_compares_no_token(file: Path) -> None:
    assert list(comparisons(file.read_text())) == []


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
    assert list(comparisons(line))


@pytest.mark.parametrize("line", ["agents.get(_digest(token))", "_digest(token) == known", "if not token: pass"])
def test_a_digest_may_be_compared(line: str) -> None:
    assert list(comparisons(line)) == []


def test_only_digests_of_an_agent_sessions_secrets_are_stored() -> None:
    stored = {name for name in AgentSession.model_fields if "secret" in name or "token" in name}
    assert stored == {"secret_sha256", "token_sha256"}
