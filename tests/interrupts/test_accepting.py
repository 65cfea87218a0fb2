"""An interrupt between the grant of the next session and the return of its client leaves no session locked."""

from __future__ import annotations

import gc

import pytest

from azsession import Message, ServiceBusProvider

from ..api.conftest import Arrangement
from .conftest import InterruptError, interrupted_in


@pytest.mark.parametrize("name", ["_exchange", "read_accepted", "make_client", "accepted", "take_over", "refresh", "watch"])
def test_a_session_whose_accept_was_interrupted_is_free(
    arrangement: Arrangement, provider: ServiceBusProvider, queue: str, name: str
) -> None:
    provider.send_message(queue, Message("1", session_id="s"))
    with interrupted_in(name) as entered, pytest.raises(InterruptError):
        provider.create_session_client(queue, accept_timeout=10)
    assert entered
    # The lock would last for a minute. The same provider, or another one, gets the session at once.
    with provider.create_session_client(queue, accept_timeout=10) as session:
        message = session.receive_message(timeout=10)
        assert message is not None
        session.complete_message(message)
    gc.collect()


@pytest.mark.parametrize("name", ["read_accepted", "watch"])
def test_closing_the_provider_releases_a_session_whose_accept_was_interrupted(
    arrangement: Arrangement, provider: ServiceBusProvider, queue: str, name: str
) -> None:
    provider.send_message(queue, Message("1", session_id="s"))
    with interrupted_in(name), pytest.raises(InterruptError):
        provider.create_session_client(queue, accept_timeout=10)
    provider.close()
    with arrangement.provider().create_session_client(queue, accept_timeout=10) as session:
        assert session.receive_message(timeout=10) is not None
