"""`hook_without_reference`: the hook for a lost lock, for a holder that its client's hook must not keep alive."""

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
    """Return an `on_lost` that calls `hook` with `client`. It does not keep the client alive, as a holder must not."""
    check_function(hook, "on_lock_lost")
    if hook is None:
        return None
    known = weakref.ref(client)

    def on_lost(error: SessionNotFoundError) -> None:
        living = known()
        if living is not None:
            hook(living, error)

    return on_lost
