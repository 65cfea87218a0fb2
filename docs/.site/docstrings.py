"""Adapts the package for the API reference, which reads the source.

In the source, attrs classes have no `__init__`. In docstrings, an example begins with "Example:", and names of the public API
are in backticks.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

import griffe

import azsession

#: A name in backticks, for example `SessionClient.messages`, but not code in double backticks.
_NAME = re.compile(r"(?<![`\[])`(?:azsession\.)?([A-Za-z]\w*)((?:\.\w+)?)`(?![`\]])")


class PublicDocstrings(griffe.Extension):
    """Adds signatures of attrs classes, the heading of examples and links between public names."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Add an `__init__` with the parameters of the running class to an attrs class."""
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

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Adapt a docstring."""
        if obj.docstring is not None:
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = "\n".join(linked(line) for line in text.split("\n"))


def linked(line: str) -> str:
    """Return a line of a docstring with links to the public names in it. Code is returned as it is."""
    if line.lstrip().startswith((">>>", "...")):
        return line

    def link(found: re.Match[str]) -> str:
        name, member = found[1], found[2]
        if name not in azsession.__all__ or (member and not hasattr(getattr(azsession, name), member[1:])):
            return found[0]
        target = f"azsession.{name}"
        is_method = bool(member) and callable(getattr(getattr(azsession, name), member[1:]))
        return f"[`{name}{member}`][{target}{member if is_method else ''}]"

    return _NAME.sub(link, line)


def default(value: object) -> str | None:
    """Return the default as a signature shows it. `None`: the parameter has no default."""
    if value is inspect.Parameter.empty:
        return None
    return "..." if repr(value) == "NOTHING" else repr(value)
