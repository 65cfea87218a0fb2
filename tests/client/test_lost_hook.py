"""The hook for a lost lock: it is called with its client, and does not keep the client alive."""

from __future__ import annotations

import gc

import pytest

from azsession import SessionNotFoundError, ValidationError
from azsession.client.lost_hook import hook_without_reference


class Client:
    pass


def test_the_hook_is_called_with_its_client_until_the_client_is_gone() -> None:
    client, lost = Client(), SessionNotFoundError("the lock is lost", code="SessionLockLost")
    calls: list[tuple[bool, SessionNotFoundError]] = []
    on_lost = hook_without_reference(client, lambda living, error: calls.append((isinstance(living, Client), error)))
    assert on_lost is not None
    on_lost(lost)
    del client
    gc.collect()
    on_lost(lost)
    assert calls == [(True, lost)]


def test_no_hook_is_no_hook_and_something_else_is_refused() -> None:
    assert hook_without_reference(Client(), None) is None
    with pytest.raises(ValidationError):
        hook_without_reference(Client(), "no function")  # type: ignore[arg-type]
