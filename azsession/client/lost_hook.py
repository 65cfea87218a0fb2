"""`hook_without_reference`: lets a holder call its client's hook for a lost lock without keeping the client alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TypeVar

from ..errors import SessionNotFoundError
from ..validation import check_function

ClientT = TypeVar("ClientT")


def hook_without_reference(
    client: ClientT, hook: Callable[[ClientT, SessionNotFoundError], object] | None
) -> Callable[[SessionNotFoundError], object] | None:
    """Return a function for `Holder` that calls `hook` with `client`, unless `client` was garbage-collected.

    Args:
        client: The client. The function does not keep it alive.
        hook: The caller's `on_lock_lost`. `None`: the result is `None`, too.

    Raises:
        ValidationError: `hook` cannot be called.
    """
    check_function(hook, "on_lock_lost")
    if hook is None:
        return None
    known = weakref.ref(client)

    def on_lost(error: SessionNotFoundError) -> None:
        living = known()
        if living is not None:
            hook(living, error)

    return on_lost
