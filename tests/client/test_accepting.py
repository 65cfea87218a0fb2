"""Taking the next session: a grant that no client got is given back. `tests/interrupts` interrupts it."""

from __future__ import annotations

import pytest

from azsession import ConnectionFailedError, Message, NoSessionAvailableError, ServiceBusProvider
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..hostile.servers import FaultyProxy, raw


def test_a_session_whose_grant_was_lost_is_free(azsession_server: AzsessionServer) -> None:
    with (
        FaultyProxy(int(azsession_server.url.rpartition(":")[2]), azsession_server.connection_string) as proxy,
        ServiceBusProvider.from_connection_string(proxy.connection_string, retry_attempts=0) as provider,
    ):
        provider.send_message("q", Message("1", session_id="s"))
        proxy.script(raw(b"", forwards=True))
        with pytest.raises(ConnectionFailedError) as caught:
            provider.create_session_client("q", accept_timeout=10)
        assert caught.value.maybe_delivered
        eventually(lambda: provider.list_sessions("q")[0].locked_until is None)


def test_no_session_is_taken_in_the_background_if_there_was_none(azsession_server: AzsessionServer) -> None:
    with azsession_server.provider() as provider:
        with pytest.raises(NoSessionAvailableError):
            provider.create_session_client("q", accept_timeout=0)
        provider.send_message("q", Message("1", session_id="s"))
        with provider.create_session_client("q", accept_timeout=0) as session:
            assert session.session_id == "s"
