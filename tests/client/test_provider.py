"""`ServiceBusProvider`: how it is made, and how it is closed."""

from __future__ import annotations

import pytest

from azsession import Message, QueueError, ServiceBusProvider
from azsession.testing import AzsessionServer

KEYED = "SharedAccessKeyName=reader;SharedAccessKey=c2Vj+cmV0/w=="


def test_a_closed_provider_refuses_every_call(azsession_server: AzsessionServer) -> None:
    provider = azsession_server.provider()
    session = provider.create_session_client("orders", "s1")
    session.receive_message(timeout=0)
    provider.close()
    provider.close()
    assert session.closed
    with pytest.raises(QueueError, match="closed"):
        provider.send_message("orders", Message(b"x", session_id="s"))
    with pytest.raises(QueueError, match="closed"):
        provider.create_session_client("orders", "s1")


def test_a_provider_can_be_created_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", f"Endpoint=https://h/;{KEYED}")
    with ServiceBusProvider.from_env(retry_attempts=1) as provider:
        assert (provider.config.namespace_url, provider.config.retry_attempts) == ("https://h", 1)


def test_a_connection_string_in_place_of_a_configuration_is_refused() -> None:
    with pytest.raises(QueueError, match="from_connection_string"):
        ServiceBusProvider(f"Endpoint=https://h/;{KEYED}")  # type: ignore[arg-type]
