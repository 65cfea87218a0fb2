"""Tells whether a thread is inside certain methods of an object already, because a signal handler interrupted one of them.

`GroupCommit` and `SharedSends` use it: a handler must not wait for a thread that needs a lock of the interrupted method. The
stack tells this at every instant, but searching a deep stack takes longer than most methods. So the methods also mark their
thread before they take the lock. Without a mark, the thread is not inside. An interrupt can leave a mark: the stack decides.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Container
from types import CodeType, FrameType


class Reentry:
    """The marks of the threads that are inside one of the functions. Operations of a set are atomic, so it has no lock."""

    def __init__(self) -> None:
        self._threads: set[int] = set()

    def mark(self) -> bool:
        """Mark this thread. Return `False` if it has a mark already: of an outer call, or left by an interrupt.

        If the result is `True`, the caller removes the mark before it returns.
        """
        thread = get_ident()
        if thread in self._threads:
            return False
        self._threads.add(thread)
        return True

    def unmark(self) -> None:
        """Remove the mark of this thread."""
        self._threads.discard(get_ident())


def is_method_in(frame: FrameType | None, owner: object, codes: Container[CodeType]) -> bool:
    """Return whether a method of `owner` with one of the codes is in the stack that begins with `frame`, its last call."""
    while frame is not None:
        if frame.f_code in codes and frame.f_locals.get("self") is owner:
            return True
        frame = frame.f_back
    return False
