"""Shell completion: print completions when the user presses Tab, and install the script that requests them."""

import os
from pathlib import Path

from click.shell_completion import ShellComplete, get_completion_class

from tminus.cli import output
from tminus.cli.connection import REFUSED, USAGE, fail
from tminus.cli.dispatch import application, settings

SHELLS = ("bash", "zsh", "fish")

VARIABLE = "_TMINUS_COMPLETE"

_STARTS = {
    "bash": (".bashrc", "source {script}"),
    "zsh": (".zshrc", "autoload -Uz compinit && compinit && source {script}"),
}
"""The file that the shell reads at its start, and the line to add there. fish reads a directory instead."""


def answer(instruction: str) -> int:
    """Print the completions of the last word, or the script; return the exit code.

    `instruction` is a shell and an action, such as `bash_complete` or `bash_source`.
    """
    shell, _, what = instruction.partition("_")
    if shell not in SHELLS or what not in ("complete", "source"):
        return USAGE
    complete = _of(shell)
    if what == "source":
        output.put_text(complete.source())
    elif found := complete.complete():
        output.draw(f"{found}\n")  # not escaped, since it contains tabs; the values are escaped already
    return 0


def show(name: str) -> None:
    """Print the script for the named shell, or else for the user's shell."""
    output.put_text(_of(_shell(name)).source())


def install(name: str) -> None:
    """Write the script to the directory from which the shell loads it."""
    shell = _shell(name)
    home = Path(os.environ.get("HOME") or "~").expanduser()
    try:
        if shell == "fish":
            script = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish/completions/tminus.fish"
        else:
            script = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / f"tminus/completion.{shell}"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(_of(shell).source(), encoding="utf-8")
        if shell in _STARTS:
            file, line = _STARTS[shell]
            _append(home / file, line.format(script=f"'{script}'"))
    except OSError as error:
        raise fail(f"cannot write {error.filename}: {error.strerror}", REFUSED) from None
    output.put(f"wrote {script}; start a new shell")


def _shell(name: str) -> str:
    shell = name or Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise fail(f"name your shell: {', '.join(SHELLS)}", USAGE)
    return shell


def _of(shell: str) -> ShellComplete:
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(application(), settings(), "tminus", VARIABLE)


def _append(path: Path, line: str) -> None:
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    if line not in text.splitlines():
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n" if text and not text.endswith("\n") else f"{line}\n")
