"""Run the command in the process of a test, where its parts can be replaced."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from click.exceptions import Exit

from tminus.cli import dispatch


@dataclass(frozen=True, slots=True)
class Result:
    exit_code: int
    stdout: str
    stderr: str


def invoke(*arguments: str) -> Result:
    """Run a command. Exceptions other than its exit code are raised."""
    code = 0
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            dispatch.call(list(arguments))
        except Exit as ended:
            code = ended.exit_code
    return Result(code, out.getvalue(), err.getvalue())
