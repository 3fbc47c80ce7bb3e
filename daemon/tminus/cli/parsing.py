"""The command line: from a function's signature to its options, its arguments and its help.

A parameter is `Annotated[type, Option(...)]` or `Annotated[type, Argument(...)]`; the one called `connection` gets what
was said before the command's name. Types are `str`, `int`, `bool` (a flag), `Path`, an enumeration of text, a list of
these (the option may be repeated), and any of them or None.

Parsers that do more load more: each of those that were tried took longer than a command's request. What this one prints
is plain text: nothing is read as markup.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints


class UsageError(Exception):
    """The command line is wrong; `str` says how."""


class HelpWanted(Exception):
    """Somebody asks with `--help`."""


class Exit(Exception):
    """Ends the command with this exit code; what there is to say was said."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(code)
        self.code = code


class Option:
    """How an option is written. Without a name it is called as its parameter."""

    def __init__(
        self,
        *names: str,
        help: str = "",
        metavar: str = "",
        env: str = "",
        least: int | None = None,
        most: int | None = None,
    ) -> None:
        self.names = names
        self.help = help
        self.metavar = metavar
        self.env = env
        self.least = least
        self.most = most


class Argument:
    """How an argument is called in the help."""

    def __init__(self, metavar: str, *, help: str = "") -> None:
        self.metavar = metavar
        self.help = help


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a command's function, as the command line has it."""

    name: str
    kind: Any
    """The type of one value: `str`, `int`, `bool`, `Path`, or an enumeration."""
    repeated: bool
    written: Option | Argument
    default: Any
    required: bool

    @property
    def names(self) -> tuple[str, ...]:
        assert isinstance(self.written, Option)
        return self.written.names or (f"--{self.name.replace('_', '-')}",)

    @property
    def is_flag(self) -> bool:
        return self.kind is bool

    @property
    def choices(self) -> list[str]:
        """The values that there are; empty: any."""
        return [str(one.value) for one in self.kind] if issubclass(self.kind, Enum) else []

    @property
    def metavar(self) -> str:
        """What its value is called in the help."""
        if self.is_flag:
            return ""
        if self.written.metavar:
            return self.written.metavar
        if self.choices:
            return f"[{'|'.join(self.choices)}]" if sum(map(len, self.choices)) < 40 else self.name.upper()
        return {int: "NUMBER", Path: "FILE"}.get(self.kind, "TEXT")

    def convert(self, text: str) -> Any:
        """The value that stands for the text. Raises `UsageError`."""
        called = self.names[0] if isinstance(self.written, Option) else self.written.metavar
        if self.choices:
            if text not in self.choices:
                raise UsageError(f"{called}: {text!r} is none of {', '.join(self.choices)}")
            return self.kind(text)
        if self.kind is int:
            return self._number(called, text)
        return self.kind(text)

    def _number(self, called: str, text: str) -> int:
        assert isinstance(self.written, Option)
        least, most = self.written.least, self.written.most
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
            raise UsageError(f"{called}: {text!r} is no whole number")
        number = int(text)
        if (least is not None and number < least) or (most is not None and number > most):
            bounds = f"at least {least}" if most is None else f"at most {most}" if least is None else ""
            raise UsageError(f"{called}: {number} is not {bounds or f'from {least} to {most}'}")
        return number


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """What the command line gives to a function."""
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    by_name = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    hints = get_type_hints(function, include_extras=True)
    return [_parameter(name, hints[name], by_name) for name in names if get_origin(hints[name]) is Annotated]


def _parameter(name: str, hint: Any, defaults: Mapping[str, Any]) -> Parameter:
    kind, written = get_args(hint)[:2]
    if get_origin(kind) is UnionType or type(None) in get_args(kind):
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    repeated = get_origin(kind) is list
    if repeated:
        (kind,) = get_args(kind)
    return Parameter(name, kind, repeated, written, defaults.get(name), name not in defaults)


def parse(wanted: Sequence[Parameter], arguments: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """The values of all parameters. Raises `UsageError`."""
    options = {name: one for one in wanted if isinstance(one.written, Option) for name in one.names}
    places = [one for one in wanted if isinstance(one.written, Argument)]
    found: dict[str, Any] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            for text in rest:
                _place(places, found, text)
        elif argument.startswith("-") and argument != "-":
            _option(options, found, argument, rest)
        else:
            _place(places, found, argument)
    for one in wanted:
        if one.name in found:
            continue
        variable = one.written.env if isinstance(one.written, Option) else ""
        if variable and environ.get(variable):
            found[one.name] = one.convert(environ[variable])
        elif one.required:
            raise UsageError(f"{one.names[0] if isinstance(one.written, Option) else one.written.metavar} is missing")
        else:
            found[one.name] = one.default
    return found


def _option(options: Mapping[str, Parameter], found: dict[str, Any], argument: str, rest: Iterator[str]) -> None:
    name, given, text = argument.partition("=")
    if name == "--help":
        raise HelpWanted
    if name not in options:
        raise UsageError(f"there is no option {name!r}{suggestion(name, options)}")
    one = options[name]
    if one.is_flag:
        if given:
            raise UsageError(f"{name} takes no value")
        found[one.name] = True
        return
    if not given:
        following = next(rest, None)
        if following is None:
            raise UsageError(f"{name} needs a value")
        text = following
    value = one.convert(text)
    if one.repeated:
        found[one.name] = [*(found.get(one.name) or ()), value]
    else:
        found[one.name] = value


def _place(places: Sequence[Parameter], found: dict[str, Any], text: str) -> None:
    for one in places:
        if one.name not in found:
            found[one.name] = one.convert(text)
            return
    raise UsageError(f"there is no place for the argument {text!r}")


def suggestion(name: str, known: Mapping[str, Any]) -> str:
    """What may be meant, as the end of an error; or nothing."""
    from difflib import get_close_matches  # noqa: PLC0415 - needed only to say what is wrong

    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def help_of(usage: str, function: Callable[..., Any], columns: int) -> str:
    """What `--help` prints for a command."""
    wanted = parameters(function)
    places = [one for one in wanted if isinstance(one.written, Argument)]
    options = [one for one in wanted if isinstance(one.written, Option)]
    shown = [one.metavar if one.required or one.metavar.startswith("[") else f"[{one.metavar}]" for one in places]
    parts = [" ".join([f"Usage: {usage}", "[OPTIONS]", *shown]), ""]
    parts += [*folded(" ".join((function.__doc__ or "").split()), columns), ""]
    rows = [(one.metavar, one.written.help) for one in places]
    if any(help_ for _, help_ in rows):
        parts += ["Arguments:", *listed(rows, columns), ""]
    rows = [(f"{', '.join(sorted(one.names, key=len))} {one.metavar}".rstrip(), _said(one)) for one in options]
    parts += ["Options:", *listed([*rows, ("--help", "Print this.")], columns)]
    return "\n".join(parts)


def _said(one: Parameter) -> str:
    assert isinstance(one.written, Option)
    notes = ["required"] if one.required else []
    if one.default not in (None, False, ""):
        notes.append(f"default: {one.default}")
    if one.written.env:
        notes.append(f"env: {one.written.env}")
    return f"{one.written.help} [{'; '.join(notes)}]".strip() if notes else one.written.help


def listed(rows: Sequence[tuple[str, str]], columns: int) -> list[str]:
    """Names, each with its description beside it; below it where the name is long."""
    width = min(max(len(name) for name, _ in rows), 28)
    parts = []
    for name, said in rows:
        lines = folded(said, max(20, columns - width - 4))
        if len(name) > width:
            parts.append(f"  {name}")
            name = ""  # noqa: PLW2901 - it stands in a line of its own
        parts += [f"  {name if number == 0 else '':<{width}}  {line}".rstrip() for number, line in enumerate(lines)]
    return parts


def folded(sentence: str, columns: int) -> list[str]:
    """ASCII text in lines of at most so many columns."""
    lines, line = [], ""
    for word in sentence.split():
        if line and len(line) + 1 + len(word) > columns:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
