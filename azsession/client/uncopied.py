"""Refuses copies of objects that hold a connection or a lock. A copy would share them, and closing it would end them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

T = TypeVar("T")


def refuse_copies(advice: str) -> Callable[[type[T]], type[T]]:
    """Return a class decorator: `copy.copy`, `copy.deepcopy` and `pickle` of an instance raise `TypeError`.

    Args:
        advice: How the caller reaches the goal instead. The error message ends with it.
    """

    def refuse(self: object, protocol: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: {advice}")

    def decorate(cls: type[T]) -> type[T]:
        # copy and pickle call this method before all others.
        cls.__reduce_ex__ = refuse  # type: ignore[method-assign]
        return cls

    return decorate
