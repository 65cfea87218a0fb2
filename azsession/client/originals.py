"""Whether methods of libraries are still the libraries' own.

Other programs replace such methods: mocks in tests, and instrumentation that counts or traces requests. The short ways of
this package around a method are taken only if nobody has replaced it.
"""

from __future__ import annotations

from pathlib import PurePath
from types import FunctionType


class Methods:
    """Methods of libraries.

    Args:
        methods: The classes that define them, and their names.
    """

    def __init__(self, *methods: tuple[type, str]) -> None:
        self._methods = methods
        self._checked: tuple[list[object], bool] = [], True

    def are_original(self) -> bool:
        """Return whether nobody has replaced one of the methods. It is cheap enough for each request."""
        found = [getattr(owner, name) for owner, name in self._methods]
        functions, result = self._checked
        if found != functions:
            result = all(_is_own(owner, function) for (owner, _), function in zip(self._methods, found, strict=True))
            self._checked = found, result
        return result


def _is_own(owner: type, function: object) -> bool:
    """Return whether the code of a method is in the module of its class.

    The attributes of a function tell less: a function that replaces another one usually takes them over.
    """
    if type(function) is not FunctionType:  # A mock, or an object that wraps the function.
        return False
    module = owner.__module__.split(".")[-2:]
    return list(PurePath(function.__code__.co_filename).with_suffix("").parts[-len(module) :]) == module
