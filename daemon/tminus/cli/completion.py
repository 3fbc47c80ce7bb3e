"""Shell completion: print completions when the user presses Tab, and install the script that requests them."""

import os
from pathlib import Path

from click.shell_completion import ShellComplete, get_completion_class

from tminus.cli import output
from tminus.cli.connection import REFUSED, USAGE, fail
from tminus.cli.dispatch import application, context_settings

SHELLS = ("bash", "zsh", "fish")

VARIABLE = "_TMINUS_COMPLETE"

_START_FILES = {
    "bash": (".bashrc", "source {script}"),
    "zsh": (".zshrc", "autoload -Uz compinit && compinit && source {script}"),
}
"""The file in the home directory that the shell reads at its start, and the line to add there. fish loads the script
from its own directory.
"""


def answer(instruction: str) -> int:
    """Print the completions of the last word, or the script; return the exit code.

    `instruction` is the value of `VARIABLE`: a shell and an action, such as `bash_complete` or `bash_source`.
    """
    shell, _, action = instruction.partition("_")
    if shell not in SHELLS or action not in ("complete", "source"):
        return USAGE
    completer = _completer(shell)
    if action == "source":
        output.put_text(completer.source())
    elif found := completer.complete():
        output.draw(f"{found}\n")  # not escaped, since it contains tabs; the values are escaped already
    return 0


def show(name: str) -> None:
    """Print the script for the named shell, or else for the user's shell."""
    output.put_text(_completer(_shell(name)).source())


def install(name: str) -> None:
    """Write the script to a file, and make the shell load it at its start."""
    shell = _shell(name)
    home = Path(os.environ.get("HOME") or "~").expanduser()
    try:
        if shell == "fish":
            script = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish/completions/tminus.fish"
        else:
            script = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / f"tminus/completion.{shell}"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(_completer(shell).source(), encoding="utf-8")
        if shell in _START_FILES:
            file, line = _START_FILES[shell]
            _append_once(home / file, line.format(script=f"'{script}'"))
    except OSError as error:
        raise fail(f"cannot write {error.filename}: {error.strerror}", REFUSED) from None
    output.put(f"wrote {script}; start a new shell")


def _shell(name: str) -> str:
    shell = name or Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise fail(f"name your shell: {', '.join(SHELLS)}", USAGE)
    return shell


def _completer(shell: str) -> ShellComplete:
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(application(), context_settings(), "tminus", VARIABLE)


def _append_once(path: Path, line: str) -> None:
    """Append a line to a file that does not contain it yet."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    if line not in text.splitlines():
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n" if text and not text.endswith("\n") else f"{line}\n")
