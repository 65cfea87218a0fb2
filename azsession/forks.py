"""Fork handling: reset objects that hold threads, locks or sockets in each forked child, and finish imports before a fork."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """An object with threads, locks or sockets that a forked child must not use."""

    def after_fork(self) -> None:
        """Replace them. It runs in the forked child, before any other code."""


_registered: weakref.WeakSet[Forkable] = weakref.WeakSet()

#: Held during an import at first use. A fork waits for it: a child that inherits a half-finished import of another thread
#: would wait for ever for the module's import lock.
import_lock: threading.RLock = threading.RLock()


def register(thing: Forkable) -> None:
    """Call `after_fork` of an object in each child that is forked while the object exists. The order is undefined."""
    _registered.add(thing)


def _after_fork() -> None:
    import_lock.release()
    for thing in list(_registered):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=import_lock.acquire, after_in_parent=import_lock.release, after_in_child=_after_fork)
