"""Fork handling: objects that hold threads, locks or sockets register here and are reset in each forked child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """An object with threads, locks or sockets that a forked child must not use."""

    def after_fork(self) -> None:
        """Replace them. It runs in the forked child, before any other code."""


_registered: weakref.WeakSet[Forkable] = weakref.WeakSet()


def register(thing: Forkable) -> None:
    """Call `after_fork` of an object in each child that is forked while the object exists. The order is undefined."""
    _registered.add(thing)


def _after_fork() -> None:
    for thing in list(_registered):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
