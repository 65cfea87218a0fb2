"""Azure in this process, with a namespace that never answers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from azsession import (
    ConfigurationError,
    ConnectionFailedError,
    Message,
    QueueError,
    ServiceBusProvider,
    SessionNotFoundError,
)
from tests.conftest import eventually
from tests.support.internals import pending_calls

KEYED = "SharedAccessKeyName=k;SharedAccessKey=bm90IGEgc2VjcmV0"


@pytest.fixture
def silent() -> Iterator[str]:
    """The connection string of an emulator that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"Endpoint=sb://127.0.0.1:{server.getsockname()[1]};{KEYED};UseDevelopmentEmulator=true"


def test_closing_ends_calls_that_wait_for_a_silent_namespace(silent: str) -> None:
    errors: list[Exception] = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except QueueError as error:
            errors.append(error)

    provider = ServiceBusProvider.from_connection_string(silent)
    client = provider.create_session_client("q", "s")
    calls: list[Callable[[], object]] = [
        lambda: client.receive_message(timeout=300),
        lambda: provider.create_session_client("q", accept_timeout=300),
    ]
    threads = [threading.Thread(target=attempt, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    eventually(lambda: len(pending_calls(client)) == len(pending_calls(provider)) == 1)
    began = time.monotonic()
    provider.close()
    for thread in threads:
        thread.join(20)
    # Far less than the 30 s that an answer may take.
    assert time.monotonic() - began < 9
    assert {type(error) for error in errors} == {SessionNotFoundError, ConfigurationError}
    assert len(errors) == 2


@pytest.mark.parametrize("operation", ["send", "receive", "state"])
def test_a_call_to_a_silent_namespace_fails_after_its_timeout(silent: str, operation: str) -> None:
    with ServiceBusProvider.from_connection_string(silent, request_timeout=0.2, retry_attempts=0) as provider:
        client = provider.create_session_client("q", "s")
        calls: dict[str, Callable[[], object]] = {
            "send": lambda: provider.send_message("q", Message(b"x", session_id="s")),
            "receive": lambda: client.receive_message(timeout=0.1),
            "state": client.get_session_state,
        }
        began = time.monotonic()
        with pytest.raises(ConnectionFailedError):
            calls[operation]()
        assert time.monotonic() - began < 9
