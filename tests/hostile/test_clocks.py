"""Wall clocks that are set by hours, in real processes of clients and gateways, during message traffic."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from azsession import Message, QueueSettings, ServiceBusProvider, SessionLockedError
from azsession.protocol.sas import generate_sas_token

from ..conftest import eventually
from ..torture import clockshim
from .processes import KEY, QUEUE, client_process, gateway_process, take_over

HOURS = 5 * 3600.0


@pytest.fixture(autouse=True, scope="module")
def _steps() -> None:
    clockshim.needs_clock_steps()


class Machines:
    """A gateway and clients, each with its own wall clock, and a client with the real clock.

    Attributes:
        client: Its session's lock lasts longer than these tests.
        short: A client of a queue whose locks end soon, on the same clock.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.gateway, self.connection_string = stack.enter_context(gateway_process(folder, lock_duration=120))
        clock = folder / "client-clock"
        self.client = stack.enter_context(client_process(self.connection_string, "s1", clock))
        self.short = stack.enter_context(client_process(self.connection_string, "s1", clock, "short"))
        self.other = stack.enter_context(ServiceBusProvider.from_connection_string(self.connection_string, retry_attempts=1))
        self.other.create_queue("short", QueueSettings(lock_duration=3))

    def step(self, *, gateway: float, clients: float) -> None:
        self.gateway.step(gateway)
        self.client.step(clients)


@pytest.fixture(scope="module")
def _machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with ExitStack() as stack:
        yield Machines(tmp_path_factory.mktemp("clocks"), stack)


@pytest.fixture
def machines(_machines: Machines) -> Iterator[Machines]:
    """Machines with correct clocks."""
    _machines.step(gateway=0, clients=0)
    yield _machines
    _machines.step(gateway=0, clients=0)


def test_setting_clocks_loses_repeats_and_reorders_no_message_and_expires_no_lock(machines: Machines) -> None:
    client, steps = (
        machines.client,
        [(0.0, HOURS), (0.0, -HOURS), (HOURS, HOURS), (-HOURS, -HOURS), (-HOURS, 0.0), (0.0, 0.0)],
    )
    client.ask("open", True)
    client.ask("send", *(f"m{n}" for n in range(len(steps) + 1)))
    assert client.ask("receive", 5) == "m0"
    for n, (of_gateway, of_clients) in enumerate(steps):
        machines.step(gateway=of_gateway, clients=of_clients)
        assert not client.ask("is_lost")
        if n == 2:
            client.ask("renew")
        client.ask("complete", f"m{n}")
        assert client.ask("receive", 5) == f"m{n + 1}"
        machines.gateway.step(0)  # `other` has the real clock, so that its tokens need a right one here.
        with (
            machines.other.create_session_client(QUEUE, "s1", auto_renew=False) as session,
            pytest.raises(SessionLockedError),
        ):
            session.receive_message(timeout=0)
    client.ask("complete", f"m{len(steps)}")
    # Setting a clock neither ends nor prolongs a waiting receive, and the receive gets the next message.
    client.tell("receive", 30)
    for step in (HOURS, -HOURS, 0):
        machines.step(gateway=step, clients=step)
    machines.other.send_message(QUEUE, Message("late", session_id="s1"))
    assert client.answer() == {"result": "late"}
    client.ask("complete", "late")
    assert client.ask("receive", 0.1) is None


@pytest.mark.parametrize("step", [-HOURS, HOURS])
def test_a_lock_expires_on_time_although_a_wall_clock_was_set(step: float, machines: Machines) -> None:
    client, body = machines.short, f"held{step}"
    client.ask("open", False)
    client.ask("send", body)
    assert client.ask("receive", 5) == body
    machines.step(gateway=step, clients=step)
    eventually(lambda: client.ask("is_lost"))
    assert client.fail("complete", body)["error"] == "SessionNotFoundError"
    machines.gateway.step(0)
    assert take_over(machines.other, "s1", "short") == [body]


def test_the_error_of_a_client_whose_clock_is_behind_says_so_until_the_clock_is_corrected(machines: Machines) -> None:
    client = machines.client
    client.ask("sessions")
    machines.step(gateway=0, clients=-HOURS)
    # The client's token is still valid by the gateway's clock.
    client.ask("sessions")
    # By this clock the token is expired, and so is the new token.
    machines.step(gateway=2 * HOURS, clients=-HOURS)
    assert client.fail("sessions")["error"] == "AuthenticationFailedError"
    # The server computes its header Date once a second.
    wanted = "this machine's clock is 1[45]:..:.. behind the server's"
    eventually(lambda: re.search(wanted, client.fail("sessions")["text"]))
    machines.step(gateway=2 * HOURS, clients=2 * HOURS)
    client.ask("sessions")
    # Its token is valid for hours longer by the gateway's clock, which does no harm.
    machines.step(gateway=0, clients=2 * HOURS)
    client.ask("sessions")
    machines.step(gateway=0, clients=0)
    client.ask("sessions")


def test_a_broker_restarted_after_its_clock_was_set_back_keeps_its_messages_in_order(tmp_path: Path) -> None:
    clockshim.set_offset(tmp_path / "gateway-clock", HOURS)
    with gateway_process(tmp_path, lock_duration=30) as (gateway, connection_string):
        gateway.step(0)  # Only tokens are checked by this clock. The broker continues with the clock at its start.
        with ServiceBusProvider.from_connection_string(connection_string) as provider:
            send(provider, "m1", "m2")
            assert receive(provider, 1) == ["m1"]
    with (
        gateway_process(tmp_path, lock_duration=30) as (gateway, connection_string),
        ServiceBusProvider.from_connection_string(connection_string) as provider,
    ):
        send(provider, "m3")
        assert receive(provider, 2) == ["m2", "m3"]
        assert provider.list_sessions(QUEUE) == []


def send(provider: ServiceBusProvider, *bodies: str) -> None:
    provider.send_messages(QUEUE, [Message(body, session_id="s1") for body in bodies])


def receive(provider: ServiceBusProvider, count: int) -> list[str]:
    """Receive and complete so many messages."""
    with provider.create_session_client(QUEUE, "s1", auto_renew=False) as session:
        messages = session.receive_messages(count, timeout=5)
        session.complete_messages(messages)
    return [message.text() for message in messages]


def test_scheduled_and_expiring_messages_follow_the_wall_clock_when_it_is_set(tmp_path: Path) -> None:
    in_an_hour = datetime.now(timezone.utc) + timedelta(hours=1)
    with gateway_process(tmp_path, lock_duration=30) as (gateway, connection_string):
        # A token that is valid by each clock of this test.
        signature = generate_sas_token(url_of(connection_string), "root", KEY, int(time.time() + 4 * HOURS))
        signed = f"Endpoint={url_of(connection_string)}/;SharedAccessSignature={signature}"
        with ServiceBusProvider.from_connection_string(signed) as provider:
            scheduled = Message("scheduled", session_id="s1", scheduled_enqueue_time=in_an_hour)
            provider.send_messages(QUEUE, [scheduled, Message("mortal", session_id="s1", time_to_live=3600)])
            gateway.step(-HOURS)
            send(provider, "now")
            assert shown(provider) == {"scheduled": "Scheduled", "mortal": "Active", "now": "Active"}
            gateway.step(HOURS)
            eventually(lambda: shown(provider) == {"scheduled": "Active", "now": "Active"})


def url_of(connection_string: str) -> str:
    return connection_string.partition(";")[0].removeprefix("Endpoint=").rstrip("/")


def shown(provider: ServiceBusProvider) -> dict[str, str]:
    """Return the state of each message by its body."""
    return {message.text(): message.state for message in provider.peek_messages(QUEUE, "s1")}
