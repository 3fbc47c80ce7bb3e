"""What is wrong with a configuration: all of it at once."""

from dataclasses import dataclass

from tminus.domain.errors import TminusError


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong, and what would be right. Never holds a secret."""

    where: str
    """`path:line`, a path, or `environment TMINUS_…`; may be empty."""
    key: str
    """`server.listen`, `agents[7].roles` (7 is the agent's id); empty if it concerns a whole file."""
    message: str
    """Words that follow the key: "must be …, not …"."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, f"{self.key} {self.message}".strip()) if part)


@dataclass(eq=False)
class ConfigError(TminusError):
    """The configuration is refused as a whole; `faults` lists every reason."""

    problems: tuple[ConfigProblem, ...]

    @property
    def description(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
