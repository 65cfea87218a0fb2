"""Values of Python classes from JSON: what `PeekedMessage.json` does with a model.

pydantic validates its own models. The others are built here: a value must have the JSON type of its annotation, and an object
must have the fields without defaults. Further fields are ignored, as pydantic does, so that senders can add some. Errors name
fields and types, never values.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, Literal, TypeVar, Union, cast
from uuid import UUID

import attrs

from .errors import ValidationError

Model = TypeVar("Model")

#: The name of each JSON type by the Python type of its values.
_JSON_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
}
_LISTS = (list, Sequence, typing.Sequence)
_DICTS = (dict, Mapping, typing.Mapping)


class _MismatchError(Exception):
    """A value does not fit.

    Args:
        problem: What was expected, and what was found.
        path: Where: names of fields and positions in lists, the innermost first.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str | int] = []

    def __str__(self) -> str:
        return self.problem if not self.path else f"{_path(reversed(self.path))}: {self.problem}"


def _path(parts: typing.Iterable[str | int]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def from_json(body: bytes, model: type[Model]) -> Model:
    """Return the value of `model` that a body expresses in JSON.

    Raises:
        ValidationError: The body is not JSON, or does not fit the model. The error names the field.
        TypeError: The model has an annotation that is not supported.
    """
    name = getattr(model, "__name__", None) or str(model)
    try:
        value = body if _is_pydantic(model) else json.loads(body)
    except json.JSONDecodeError as error:
        # Not as its cause: it has the body as an attribute.
        problem = f"it is not JSON (line {error.lineno}, column {error.colno})"
    except (UnicodeDecodeError, RecursionError):
        problem = "it is not JSON in UTF-8, or too deeply nested"
    else:
        try:
            return cast("Model", _built(value, model))
        except _MismatchError as error:
            problem = str(error)
    raise ValidationError(f"the body does not fit {name}: {problem}")


def _built(value: object, wanted: Any) -> object:
    """Return `value`, which JSON expresses, as a value of the annotation `wanted`."""
    if wanted is Any or wanted is object:
        return value
    if _is_pydantic(wanted):
        # Validated as JSON: then strict models accept the text of a datetime, too.
        text = value if isinstance(value, bytes) else json.dumps(value)
        return _refusing(lambda: wanted.model_validate_json(text), "the model")
    if dataclasses.is_dataclass(wanted) or attrs.has(wanted):
        return _object(value, cast("Any", wanted))
    origin = typing.get_origin(wanted)
    if origin is not None:
        return _generic(value, wanted, origin)
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return _converted(value, wanted, wanted, (str, int, float))
    if wanted in _FROM_TEXT:
        return _converted(value, wanted, _FROM_TEXT[wanted], (str, int, float) if wanted is Decimal else (str,))
    return _scalar(value, wanted)


def _scalar(value: object, wanted: Any) -> object:
    if wanted is None or wanted is types.NoneType:
        _check(value is None, value, "null")
    elif wanted is float:
        _check(isinstance(value, int | float) and not isinstance(value, bool), value, "a number")
        return float(cast("float", value))
    elif wanted is int:
        _check(isinstance(value, int) and not isinstance(value, bool), value, "a whole number")
    elif wanted in _JSON_TYPES:
        _check(isinstance(value, wanted), value, _JSON_TYPES[wanted])
    else:
        raise TypeError(
            f"json() cannot build {wanted!r}: use str, int, float, bool, datetime, date, Decimal, UUID, an Enum, list, dict, "
            "Optional, a union, a Literal, a dataclass, an attrs class or a pydantic model"
        )
    return value


def _check(fits: bool, value: object, expected: str) -> None:
    if not fits:
        found = "null" if value is None else _JSON_TYPES[type(value)]
        raise _MismatchError(f"expected {expected}, found {found}")


def _generic(value: object, wanted: Any, origin: Any) -> object:
    arguments = typing.get_args(wanted)
    if origin in (Union, types.UnionType):
        return _union(value, arguments)
    if origin is typing.Annotated:
        return _built(value, arguments[0])
    if origin is Literal:
        if not any(value == each and type(value) is type(each) for each in arguments):
            raise _MismatchError(f"expected {' or '.join(map(repr, arguments))}")
        return value
    if origin in _LISTS:
        _check(isinstance(value, list), value, "an array")
        return [_at(place, each, arguments[0]) for place, each in enumerate(cast("list[object]", value))]
    if origin in _DICTS and arguments[0] is str:
        _check(isinstance(value, dict), value, "an object")
        return {key: _at(key, each, arguments[1]) for key, each in cast("dict[str, object]", value).items()}
    return _scalar(value, wanted)


def _union(value: object, choices: tuple[Any, ...]) -> object:
    if value is None and types.NoneType in choices:
        return None
    problems = []
    for choice in choices:
        if choice is not types.NoneType:
            try:
                return _built(value, choice)
            except _MismatchError as error:
                problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    raise _MismatchError("; or ".join(map(str, problems)))


def _at(place: str | int, value: object, wanted: Any) -> object:
    try:
        return _built(value, wanted)
    except _MismatchError as error:
        error.path.append(place)
        raise


def _object(value: object, cls: Any) -> object:
    """Return an instance of a dataclass or attrs class."""
    _check(isinstance(value, dict), value, "an object")
    found = cast("dict[str, object]", value)
    annotations = typing.get_type_hints(cls, include_extras=True)
    # By name: the argument of the constructor, and whether it is required.
    fields: dict[str, tuple[str, bool]] = {}
    if dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            if field.init:
                is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
                fields[field.name] = (field.name, is_required)
    else:
        for attribute in attrs.fields(cls):
            if attribute.init:
                fields[attribute.name] = (attribute.alias or attribute.name, attribute.default is attrs.NOTHING)
    missing = [repr(name) for name, (_, is_required) in fields.items() if is_required and name not in found]
    if missing:
        raise _MismatchError(f"there is no field {', '.join(missing)}")
    arguments = {
        argument: _at(name, found[name], annotations[name]) for name, (argument, _) in fields.items() if name in found
    }
    return _refusing(lambda: cls(**arguments), cls.__name__)


def _refusing(build: Callable[[], object], name: str) -> object:
    """Return what `build` returns. A `ValueError` or `TypeError` of it means that the value does not fit."""
    try:
        return build()
    except (ValueError, TypeError, InvalidOperation) as error:
        problem = _pydantic_problem(error) or f"{name} refuses the value ({type(error).__name__})"
    # Not raised while the error is handled: its text can have the value.
    raise _MismatchError(problem)


def _converted(value: object, wanted: type, convert: Callable[[Any], object], kinds: tuple[type, ...]) -> object:
    _check(
        isinstance(value, kinds) and not isinstance(value, bool), value, " or ".join(_JSON_TYPES[kind] for kind in kinds[:2])
    )
    return _refusing(lambda: convert(value), wanted.__name__)


def _is_pydantic(model: object) -> bool:
    return hasattr(model, "model_validate_json")


def _pydantic_problem(error: Exception) -> str | None:
    """Return what pydantic found, without values: its own text can have parts of the body."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return None
    found = errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return "it is not JSON"
    return "; ".join(f"{_path(each['loc'])}: {each['type']}" if each["loc"] else str(each["type"]) for each in found)


def _datetime(text: str) -> datetime:
    # Python 3.10 does not read "Z".
    return datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text)


_FROM_TEXT: dict[Any, Callable[[Any], object]] = {
    datetime: _datetime,
    date: date.fromisoformat,
    UUID: UUID,
    Decimal: lambda value: Decimal(str(value)),
}
