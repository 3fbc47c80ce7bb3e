"""The error that a wrong configuration raises, with all problems at once."""

from dataclasses import dataclass
from typing import NamedTuple

from tminus.domain.errors import TminusError


class ConfigProblem(NamedTuple):
    """One problem of a configuration and how to fix it. It never contains a secret."""

    where: str
    """The origin of the value: `path:line`, a path, or `environment TMINUS_…`; may be empty."""
    key: str
    """The key, such as `server.listen` or `agents[7].roles` (7 is the agent's id); empty for a whole file."""
    message: str
    """A message that follows the key: "must be …, not …"."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, f"{self.key} {self.message}".strip()) if part)


@dataclass(eq=False)
class ConfigError(TminusError):
    """The configuration is rejected as a whole; `problems` lists all reasons."""

    problems: tuple[ConfigProblem, ...]

    @property
    def description(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
