"""Parameters of endpoints: where a value of a request comes from, how it is validated, how the API describes it."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from starlette.datastructures import QueryParams

from tminus.api.request_context import RequestContext

Problem = dict[str, Any]
"""What is wrong with a value, as pydantic reports it."""


@dataclass(frozen=True)
class Header:
    """Marks a parameter, in its `Annotated`, as a header with this name. One without a mark is part of the path if the
    path names it, else of the query.
    """

    name: str


@dataclass(frozen=True)
class Depends:
    """Marks a parameter as what a function of the request returns; it is called before anything is validated."""

    call: Callable[[RequestContext], Awaitable[Any]]


@dataclass(frozen=True)
class Parameter:
    """A part of a path, a query parameter or a header, as an endpoint declares it."""

    argument: str
    """The endpoint's own name for it."""
    name: str
    """Its name in a request."""
    place: Literal["path", "query", "header"]
    default: Any
    """What the endpoint gets where the request has no value; `Parameter.required` if there must be one."""
    adapter: TypeAdapter[Any]
    description: str | None
    repeated: bool
    """Whether a query may have it several times."""

    required = inspect.Parameter.empty

    def read(self, value: Any, arguments: dict[str, Any]) -> Sequence[Problem]:
        """Validate a value and put it among the endpoint's arguments; return what is wrong with it."""
        try:
            arguments[self.argument] = self.adapter.validate_python(value)
        except ValidationError as error:
            return located(error, (self.place, self.name))
        return ()

    @property
    def missing(self) -> Sequence[Problem]:
        """What is wrong where the request has no value."""
        if self.default is self.required:
            return ({"type": "missing", "loc": (self.place, self.name), "msg": "Field required"},)
        return ()

    @property
    def described_default(self) -> Any:
        """The default as JSON, None if there is none."""
        if self.default is self.required:
            return None
        if isinstance(self.default, list):
            return [one.value if isinstance(one, Enum) else one for one in self.default]
        return self.default


@dataclass(frozen=True)
class Body:
    """The JSON body of a request, as an endpoint declares it."""

    argument: str
    model: type[BaseModel]
    adapter: TypeAdapter[Any]


@dataclass(frozen=True)
class Signature:
    """What an endpoint takes, by where it comes from."""

    context: str | None
    """The argument that gets the request itself, if there is one."""
    depends: Sequence[tuple[str, Callable[[RequestContext], Awaitable[Any]]]]
    path: Sequence[Parameter]
    query: Sequence[Parameter]
    headers: Sequence[tuple[Parameter, bytes]]
    """With the header's name in lower case."""
    body: Body | None


def signature(endpoint: Callable[..., Any], in_path: Sequence[str]) -> Signature:
    """Read what an endpoint takes from its annotations. `in_path`: the parameters of its path."""
    hints = get_type_hints(endpoint, include_extras=True)
    context: str | None = None
    depends, path, query, headers = [], [], [], []
    body: Body | None = None
    for argument, declared in inspect.signature(endpoint).parameters.items():
        hint = hints[argument]
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        depended = next((mark for mark in marks if isinstance(mark, Depends)), None)
        header = next((mark for mark in marks if isinstance(mark, Header)), None)
        if hint is RequestContext:
            context = argument
        elif depended is not None:
            depends.append((argument, depended.call))
        elif isinstance(hint, type) and issubclass(hint, BaseModel):
            body = Body(argument, hint, TypeAdapter(hint))
        elif header is not None:
            headers.append((_parameter(argument, header.name, "header", hint, declared), header.name.lower().encode()))
        elif argument in in_path:
            path.append(_parameter(argument, argument, "path", hint, declared))
        else:
            query.append(_parameter(argument, argument, "query", hint, declared))
    return Signature(context, depends, path, query, headers, body)


def query_problems(
    parameters: Sequence[Parameter], query_string: bytes, arguments: dict[str, Any]
) -> Sequence[Problem]:
    """Validate a query and put its values among the endpoint's arguments; return what is wrong with it."""
    problems: list[Problem] = []
    sent = QueryParams(query_string) if query_string else _NOTHING
    for parameter in parameters:
        if parameter.name in sent:
            value = sent.getlist(parameter.name) if parameter.repeated else sent[parameter.name]
            problems += parameter.read(value, arguments)
        else:
            problems += parameter.missing
    return problems


_NOTHING = QueryParams()


def located(error: ValidationError, place: tuple[str, ...]) -> list[Problem]:
    """Return what pydantic has found, with the place that it has not seen."""
    return [{**one, "loc": (*place, *one["loc"])} for one in error.errors(include_url=False)]


def defaults(parameters: Sequence[Parameter]) -> Mapping[str, Any]:
    """Return what an endpoint gets for the parameters that a request does not have."""
    return {one.argument: one.default for one in parameters if one.default is not Parameter.required}


def _parameter(
    argument: str, name: str, place: Literal["path", "query", "header"], hint: Any, declared: inspect.Parameter
) -> Parameter:
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    description = next((mark.description for mark in marks if isinstance(mark, FieldInfo) and mark.description), None)
    return Parameter(argument, name, place, declared.default, TypeAdapter(hint), description, _is_list(hint))


def _is_list(hint: Any) -> bool:
    """Whether a type is a list, or a list or None."""
    if get_origin(hint) is Annotated:
        return _is_list(get_args(hint)[0])
    if get_origin(hint) in {Union, UnionType}:
        return any(_is_list(one) for one in get_args(hint) if one is not NoneType)
    return get_origin(hint) is list
