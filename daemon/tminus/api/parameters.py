"""Read the parameters of endpoints from annotations: the source of each value, its validation and description."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from starlette.datastructures import QueryParams

from tminus.api.request_context import RequestContext

Problem = dict[str, Any]
"""An error of validation, as pydantic reports it."""


class Header(NamedTuple):
    """Mark a parameter, in its `Annotated`, as the header with this name.

    A parameter without a mark belongs to the path if the path names it, else to the query.
    """

    name: str


class Depends(NamedTuple):
    """Mark a parameter as the result of a function of the request, which is called before validation."""

    call: Callable[[RequestContext], Awaitable[Any]]


@dataclass(frozen=True)
class Parameter:
    """A path parameter, query parameter or header that an endpoint declares."""

    argument: str
    """The name of the endpoint's argument."""
    name: str
    """The name in the request."""
    place: Literal["path", "query", "header"]
    default: Any
    """The value if the request has none; `Parameter.required` if the request must have one."""
    adapter: TypeAdapter[Any]
    description: str | None
    repeated: bool
    """Whether a query may repeat the parameter."""

    required = inspect.Parameter.empty

    def read(self, value: Any, arguments: dict[str, Any]) -> Sequence[Problem]:
        """Validate a value and store it in `arguments`; return the errors."""
        try:
            arguments[self.argument] = self.adapter.validate_python(value)
        except ValidationError as error:
            return located(error, (self.place, self.name))
        return ()

    @property
    def missing(self) -> Sequence[Problem]:
        """The error if the request has no value; empty if the parameter is optional."""
        if self.default is self.required:
            return ({"type": "missing", "loc": (self.place, self.name), "msg": "Field required"},)
        return ()

    @property
    def described_default(self) -> Any:
        """The default as JSON; None if there is none."""
        if self.default is self.required:
            return None
        if isinstance(self.default, list):
            return [one.value if isinstance(one, Enum) else one for one in self.default]
        return self.default


class Body(NamedTuple):
    """The JSON body that an endpoint declares."""

    argument: str
    model: type[BaseModel]
    adapter: TypeAdapter[Any]


class Signature(NamedTuple):
    """The arguments of an endpoint, by source."""

    context: str | None
    """The argument that receives the request context, if there is one."""
    depends: Sequence[tuple[str, Callable[[RequestContext], Awaitable[Any]]]]
    path: Sequence[Parameter]
    query: Sequence[Parameter]
    headers: Sequence[tuple[Parameter, bytes]]
    """Each with the name of its header in lower case."""
    body: Body | None


def signature(endpoint: Callable[..., Any], in_path: Sequence[str]) -> Signature:
    """Return the signature of an endpoint from its annotations. `in_path` lists the parameters of its path."""
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
    """Validate a query and store its values in `arguments`; return the errors."""
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
    """Return pydantic's errors, with the place of the value in the request prepended to their locations."""
    return [{**one, "loc": (*place, *one["loc"])} for one in error.errors(include_url=False)]


def defaults(parameters: Sequence[Parameter]) -> Mapping[str, Any]:
    """Return the defaults of optional parameters, by argument."""
    return {one.argument: one.default for one in parameters if one.default is not Parameter.required}


def _parameter(
    argument: str, name: str, place: Literal["path", "query", "header"], hint: Any, declared: inspect.Parameter
) -> Parameter:
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    description = next((mark.description for mark in marks if isinstance(mark, FieldInfo) and mark.description), None)
    return Parameter(argument, name, place, declared.default, TypeAdapter(hint), description, _is_list(hint))


def _is_list(hint: Any) -> bool:
    """Return whether a type is a list or an optional list."""
    if get_origin(hint) is Annotated:
        return _is_list(get_args(hint)[0])
    if get_origin(hint) in {Union, UnionType}:
        return any(_is_list(one) for one in get_args(hint) if one is not NoneType)
    return get_origin(hint) is list
