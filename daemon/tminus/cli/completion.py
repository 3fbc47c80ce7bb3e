"""What a shell asks for when somebody presses Tab, and the scripts that make it ask."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tminus.cli import catalogue, output
from tminus.cli.connection import REFUSED, USAGE, fail
from tminus.cli.dispatch import find, load
from tminus.cli.parsing import Option, Parameter, UsageError, parameters

# The words so far are the arguments, the last one the word that is being written; an answer is a line each.
SCRIPTS = {
    "bash": """\
_tminus() {
    local IFS=$'\\n'
    COMPREPLY=($(_TMINUS_COMPLETE=bash "${COMP_WORDS[0]}" "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _tminus tminus
""",
    "zsh": """\
#compdef tminus
_tminus() {
    local -a found
    found=("${(@f)$(_TMINUS_COMPLETE=zsh "${words[1]}" "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then _describe tminus found; else _files; fi
}
compdef _tminus tminus
""",
    "fish": """\
function __tminus
    set -l words (commandline -opc) (commandline -ct)
    _TMINUS_COMPLETE=fish $words[1] $words[2..] 2>/dev/null
end
complete -c tminus -a '(__tminus)'
""",
}

_STARTS = {
    "bash": (".bashrc", "source {script}"),
    "zsh": (".zshrc", "autoload -Uz compinit && compinit && source {script}"),
}
"""The file that the shell reads at its start, and the line there; fish looks into a folder."""


def shell(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """The shell that is named, else the one that is the user's."""
    name = arguments[0] if arguments else Path(environ.get("SHELL", "")).name
    if name not in SCRIPTS:
        raise fail(f"name your shell: {', '.join(SCRIPTS)}", USAGE)
    return name


def show(name: str) -> None:
    """Print the script for this shell."""
    output.put_text(SCRIPTS[name].replace("\t", "    "))


def install(name: str) -> None:
    """Write the script where the shell finds it."""
    home = Path(os.environ.get("HOME") or "~").expanduser()
    try:
        if name == "fish":
            script = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish/completions/tminus.fish"
        else:
            script = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / f"tminus/completion.{name}"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(SCRIPTS[name], encoding="utf-8")
        if name in _STARTS:
            file, line = _STARTS[name]
            _append(home / file, line.format(script=f"'{script}'"))
    except OSError as error:
        raise fail(f"cannot write {error.filename}: {error.strerror}", REFUSED) from None
    output.put(f"{script} is written; start a new shell")


def _append(path: Path, line: str) -> None:
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    if line not in text.splitlines():
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n" if text and not text.endswith("\n") else f"{line}\n")


def complete(words: list[str], name: str) -> None:
    """Print what may stand in place of the last word."""
    *before, current = words or [""]
    for value, description in _candidates(before):
        if not value.startswith(current):
            continue
        if name == "zsh":
            sys.stdout.write(f"{value.replace(':', chr(92) + ':')}:{description}\n")
        elif name == "fish":
            output.put_fields([value, description] if description else [value])
        else:
            output.put(value)


def _candidates(before: list[str]) -> Iterator[tuple[str, str]]:
    """What may follow these words, each with its description."""
    first, rest = catalogue.split(before)
    if not rest:
        if first and first[-1] in catalogue.VALUES and len(first) == len(before) and before[-1:] == first[-1:]:
            return  # the value of an option: a file, or a URL
        yield from ((name.split(" ")[0], help_) for name, help_ in catalogue.OPTIONS)
        yield from ((command, entry.summary) for command, entry in catalogue.COMMANDS.items())
        yield from ((group, entry.summary) for group, entry in catalogue.GROUPS.items())
        return
    if rest[0] in catalogue.GROUPS and len(rest) == 1:
        yield from ((command, entry.summary) for command, entry in catalogue.GROUPS[rest[0]].commands.items())
        return
    try:
        _, entry, arguments = find(rest)
    except UsageError:
        return
    yield from _of_command(parameters(load(entry)), arguments)


def _of_command(wanted: Sequence[Parameter], arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    options = {name: one for one in wanted if isinstance(one.written, Option) for name in one.names}
    last = options.get(arguments[-1]) if arguments else None
    if last is not None and not last.is_flag:
        yield from ((choice, "") for choice in last.choices)
        return
    for name, one in options.items():
        if name.startswith("--") and (one.repeated or name not in arguments):
            yield name, one.written.help
    yield "--help", "Print the help."
