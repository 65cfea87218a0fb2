"""A client that is stopped (SIGSTOP, a debugger, a machine that is moved) for longer than its lock lasts, and goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from azsession import Message, ServiceBusProvider

from .processes import QUEUE, client_process, gateway_process, take_over

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not stop processes by a signal")


@pytest.fixture(scope="module")
def connection_string(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gateway_process(tmp_path_factory.mktemp("stopped"), lock_duration=1, steps=False) as (_, connection_string):
        yield connection_string


def test_a_client_that_was_stopped_past_its_lock_knows_before_it_does_anything(connection_string: str) -> None:
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
        # What was fetched ahead is not handed out; what was received cannot be settled.
        assert client.fail("receive", 0, 10)["error"] == "SessionNotFoundError"
        assert client.fail("complete", "m1")["error"] == "SessionNotFoundError"
        assert client.ask("is_lost")
        assert take_over(provider, "stopped") == ["m4"]


def test_a_receive_whose_process_was_stopped_past_its_lock_hands_nothing_out(connection_string: str) -> None:
    with (
        ServiceBusProvider.from_connection_string(connection_string) as provider,
        client_process(connection_string, "waiting") as client,
    ):
        client.ask("open", True)
        assert client.ask("receive", 0) is None
        client.tell("receive", 30)
        client.stop()
        # The answer that brings it comes while nobody reads.
        provider.send_message(QUEUE, Message("m1", session_id="waiting"))
        assert take_over(provider, "waiting") == ["m1"]
        client.go_on()
        assert client.answer()["error"] == "SessionNotFoundError"


def test_a_processor_that_was_stopped_past_its_lock_handles_nothing_more_under_it(connection_string: str) -> None:
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
