"""What a forked child must set right: `after_fork` of each living object, in no particular order."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something that holds threads, locks or sockets, which a forked child must not use."""

    def after_fork(self) -> None:
        """Let go of them; called in the child, before anything else runs there."""


_living: weakref.WeakSet[Forkable] = weakref.WeakSet()


def register(thing: Forkable) -> None:
    """Have `thing` told in every child that is forked while it lives."""
    _living.add(thing)


def _after_fork() -> None:
    for thing in list(_living):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
