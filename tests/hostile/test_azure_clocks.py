"""Gateways in front of Azure whose wall clocks are behind Azure's: locks are renewed in time, and not overestimated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider, SessionClient

from ..namespaces import OwnNamespace
from ..support.processes import Served
from ..torture import clockshim

#: Seconds by which the gateways' clocks are behind Azure's.
BEHIND = (6.0, 12.0, 45.0, 300.0)
#: The duration of a lock, and for how long the sessions are held. A renewal comes in the middle of a lock, also on a machine
#: that is some seconds late.
LOCK_DURATION, HELD = 10.0, 14.0


def locked_until(namespace: OwnNamespace, session_id: str) -> float:
    """Return when a lock ends, by Azure's clock."""
    found = namespace.lock_end("orders", session_id)
    assert found is not None
    return found


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[tuple[Any, dict[SessionClient, list[Exception]]]]:
    """A namespace, and for each clock a session that is held through a gateway with that clock, with its errors."""
    clockshim.needs_clock_steps()
    with ExitStack() as stack:
        namespace = stack.enter_context(OwnNamespace())
        namespace.create_queue("orders", lock_duration=LOCK_DURATION)
        held: dict[SessionClient, list[Exception]] = {}
        for behind in BEHIND:
            name, lost = f"{behind:g}", list[Exception]()
            clock, keys = tmp_path / f"clock-{name}", tmp_path / f"keys-{name}"
            clockshim.set_offset(clock, -behind)
            served = Served("--azure", namespace.connection_string, "--key-file", keys, env=clockshim.environment(clock))
            stack.enter_context(served)
            provider = stack.enter_context(ServiceBusProvider.from_connection_string(served.line))
            session = provider.create_session_client(
                "orders", name, on_lock_lost=lambda _, error, lost=lost: lost.append(error)
            )
            held[stack.enter_context(session)] = lost
            provider.send_messages("orders", [Message(text, session_id=name) for text in ("a", "b")])
        yield namespace, held


def test_locks_are_renewed_in_time_behind_gateways_with_late_clocks(
    sessions: tuple[Any, dict[SessionClient, list[Exception]]],
) -> None:
    namespace, held = sessions
    received = {session: session.receive_message(timeout=10) for session in held}
    end = time.monotonic() + HELD
    while time.monotonic() < end:
        for session in held:
            told = session.session_expires_at
            assert told is not None
            # The clock of this process is that of the namespace.
            assert told.timestamp() <= locked_until(namespace, session.session_id), session.session_id
        time.sleep(0.05)
    for session, lost in held.items():
        assert lost == []
        message = received[session]
        assert message is not None
        session.complete_message(message)
        following = session.receive_message(timeout=10)
        assert following is not None
        assert (following.text(), following.delivery_count) == ("b", 1)
        session.complete_message(following)
