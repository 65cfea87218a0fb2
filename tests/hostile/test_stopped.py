"""A client that is stopped for longer than its lock lasts, and continues: by SIGSTOP, a debugger, or a migrated machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from azsession import Message, ServiceBusProvider

from .processes import QUEUE, client_process, gateway_process, take_over

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not stop processes by a signal")


@pytest.fixture(scope="module")
def connection_string(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gateway_process(tmp_path_factory.mktemp("stopped"), lock_duration=3, steps=False) as (_, connection_string):
        yield connection_string


def test_a_client_that_was_stopped_past_its_lock_finds_the_loss_before_it_acts(connection_string: str) -> None:
    with (
        ServiceBusProvider.from_connection_string(connection_string) as provider,
        client_process(connection_string, "stopped") as client,
    ):
        client.ask("send", "m1", "m2", "m3")
        client.ask("open", True)
        assert client.ask("receive", 5, 10) == "m1"
        client.stop()
        assert take_over(provider, "stopped") == ["m1", "m2", "m3"]
        provider.send_message(QUEUE, Message("m4", session_id="stopped"))
        client.go_on()
        # Prefetched messages are not returned, and the received message cannot be settled.
        assert client.fail("receive", 0, 10)["error"] == "SessionNotFoundError"
        assert client.fail("complete", "m1")["error"] == "SessionNotFoundError"
        assert client.ask("is_lost")
        assert take_over(provider, "stopped") == ["m4"]


def test_a_receive_whose_process_was_stopped_past_its_lock_returns_nothing(connection_string: str) -> None:
    with (
        ServiceBusProvider.from_connection_string(connection_string) as provider,
        client_process(connection_string, "waiting") as client,
    ):
        client.ask("open", True)
        assert client.ask("receive", 0) is None
        client.tell("receive", 30)
        client.stop()
        # The answer with this message arrives while the client is stopped.
        provider.send_message(QUEUE, Message("m1", session_id="waiting"))
        assert take_over(provider, "waiting") == ["m1"]
        client.go_on()
        assert client.answer()["error"] == "SessionNotFoundError"


def test_a_processor_that_was_stopped_past_its_lock_handles_no_more_of_its_messages(connection_string: str) -> None:
    with (
        ServiceBusProvider.from_connection_string(connection_string) as provider,
        client_process(connection_string, "processed") as client,
    ):
        client.ask("send", "m1", "m2", "m3")
        client.tell("process", "m4")
        assert client.read() == "handling"
        client.stop()
        assert take_over(provider, "processed") == ["m1", "m2", "m3"]
        provider.send_message(QUEUE, Message("m4", session_id="processed"))
        client.go_on()
        client.write("go on")
        assert client.answer() == {"result": ["m1", "m4"]}
