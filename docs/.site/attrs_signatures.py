"""Gives attrs classes their signatures in the API reference: in the source, which the site reads, they have no `__init__`."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import griffe


class AttrsSignatures(griffe.Extension):
    """Adds an `__init__` with the parameters of the running class to each attrs class."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Add it to one class."""
        if not any(each.callable_path.startswith("attrs.") for each in cls.decorators):
            return
        running = getattr(import_module(cls.module.path), cls.name)
        # A class with an `__init__` of its own has the fields' parameters in `__attrs_init__`.
        signature = inspect.signature(getattr(running, "__attrs_init__", running))
        parameters = [
            griffe.Parameter(
                name,
                annotation=parameter.annotation if isinstance(parameter.annotation, str) else None,
                kind=griffe.ParameterKind[parameter.kind.name.lower()],
                default=default(parameter.default),
            )
            for name, parameter in signature.parameters.items()
            if name != "self"
        ]
        itself = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(itself, *parameters), parent=cls))


def default(value: object) -> str | None:
    """Return the default as it is written in a signature, or `None` if there is none."""
    if value is inspect.Parameter.empty:
        return None
    return "..." if repr(value) == "NOTHING" else repr(value)
