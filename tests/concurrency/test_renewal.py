"""The renewer with many sessions, silent servers, outages and idle times. tests/client/test_lock_renewer.py has the rest."""

from __future__ import annotations

import gc
import sys
import threading
import warnings
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from azsession import Message, ServiceBusProvider, SessionClient, SessionNotFoundError
from azsession.client.holder import Holder
from azsession.client.session import holder_of
from azsession.testing import AzsessionServer

from ..conftest import eventually
from .servers import Relay, RenewalServer


def connect(server: RenewalServer) -> ServiceBusProvider:
    return ServiceBusProvider.from_connection_string(server.connection_string)


def opened(provider: ServiceBusProvider, session_id: str, lasts: float, **options: Any) -> SessionClient:
    client = provider.create_session_client("q", session_id, session_timeout=lasts, **options)
    assert client.receive_message(timeout=0) is None
    return client


def renewed(server: RenewalServer, client: SessionClient, times: int) -> bool:
    return server.count.get(client.session_id, 0) >= times


# Renewals in time


def test_two_hundred_locks_of_five_seconds_are_renewed_in_time_by_a_slow_server() -> None:
    lost: list[str] = []
    with RenewalServer(lasts=5, takes=0.05) as server, connect(server) as provider:
        clients = [
            opened(provider, f"s{n}", 5, on_lock_lost=lambda client, error: lost.append(client.session_id))
            for n in range(200)
        ]
        eventually(lambda: lost or server.late or all(renewed(server, client, 2) for client in clients), seconds=60)
        assert (lost, server.late) == ([], [])
        assert not any(client.is_lock_lost for client in clients)


def test_a_lock_is_renewed_as_soon_as_a_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = threading.Thread.start, []

    def start_late(thread: threading.Thread) -> None:
        if thread.name == "azsession-renewer-worker" and len(refused) < 3:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    with RenewalServer(lasts=4) as server, connect(server) as provider:
        client = opened(provider, "s", 4)
        eventually(lambda: renewed(server, client, 2), seconds=30)
        assert len(refused) == 3
        assert not client.is_lock_lost


def test_renewals_without_an_answer_do_not_delay_others() -> None:
    lost: list[str] = []
    silent = {f"silent{n}" for n in range(8)}
    names = sorted(silent | {f"s{n}" for n in range(30)})
    with RenewalServer(lasts=4) as server, connect(server) as provider:
        server.silent |= silent
        clients = [
            opened(provider, name, 4, on_lock_lost=lambda client, error: lost.append(client.session_id)) for name in names
        ]
        others = [client for client in clients if client.session_id not in silent]
        eventually(lambda: server.late or all(renewed(server, client, 2) for client in others), seconds=60)
        assert server.late == []
        assert not any(client.is_lock_lost for client in others)
        eventually(lambda: len(lost) >= len(silent))
        assert sorted(lost) == sorted(silent)
        assert silent <= server.requests.keys()


def test_a_session_that_is_received_from_needs_no_renewal() -> None:
    with RenewalServer(lasts=5) as server, connect(server) as provider:
        idle, busy = opened(provider, "idle", 5), opened(provider, "busy", 5)

        def both_locks_would_have_been_renewed() -> bool:
            assert busy.receive_message(timeout=0) is None
            return renewed(server, idle, 2)

        eventually(both_locks_would_have_been_renewed, seconds=30)
        assert "busy" not in server.requests
        assert not busy.is_lock_lost


@pytest.mark.parametrize("auto_renew", [False, True])
def test_a_lock_that_was_extended_before_its_renewal_started_is_not_renewed(auto_renew: bool) -> None:
    with RenewalServer(lasts=60) as server, connect(server) as provider:
        client = opened(provider, "s", 60, auto_renew=auto_renew, on_lock_lost=lambda client, error: None)
        holder = holder_of(client)
        assert holder.renew_in_background() == holder.renewal_due()
        assert server.requests == {}


def test_the_renewer_sleeps_while_no_lock_is_due() -> None:
    before_it = set(threading.enumerate())
    with RenewalServer(lasts=600) as server, connect(server) as provider:
        clients = [opened(provider, f"s{n}", 600) for n in range(1000)]
        (renewer,) = [one for one in threading.enumerate() if one not in before_it and one.name == "azsession-renewer"]

        def status() -> dict[str, str]:
            """Return the kernel's counters of the thread, for example its voluntary context switches: one for each sleep."""
            text = Path(f"/proc/self/task/{renewer.native_id}/status").read_text(encoding="utf-8")
            return dict(line.split(":", 1) for line in text.splitlines())

        eventually(lambda: status()["State"].split()[0] == "S" and status() == status())
        before = status()["voluntary_ctxt_switches"]
        threading.Event().wait(0.5)
        assert status()["voluntary_ctxt_switches"] == before
        assert server.requests == {}
        assert not any(client.is_lock_lost for client in clients)


# The end of the renewal


def test_a_closed_client_is_not_renewed() -> None:
    with RenewalServer(lasts=2.5) as server, connect(server) as provider:
        closed, other = opened(provider, "closed", 2.5), opened(provider, "other", 2.5)
        eventually(lambda: renewed(server, closed, 1))
        closed.close()
        so_far, seen = server.requests["closed"], server.count.get("other", 0)
        eventually(lambda: renewed(server, other, seen + 2))
        assert server.requests["closed"] == so_far


def test_a_lock_expires_after_max_renewal() -> None:
    with RenewalServer(lasts=3) as server, connect(server) as provider:
        limited, other = opened(provider, "limited", 3, max_renewal=2.4), opened(provider, "other", 3)
        eventually(lambda: limited.is_lock_lost)
        assert renewed(server, limited, 1)
        assert not other.is_lock_lost


def test_a_pending_renewal_does_not_keep_a_client_alive() -> None:
    with RenewalServer(lasts=6) as server, connect(server) as provider:
        server.silent.add("forgotten")

        def begin_a_renewal() -> tuple[weakref.ref[SessionClient], weakref.ref[Holder]]:
            client = opened(provider, "forgotten", 3)
            eventually(lambda: server.requests.get(client.session_id))
            return weakref.ref(client), weakref.ref(holder_of(client))

        warned: list[type[Warning]] = []
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            # A recorded warning would keep the client alive.
            warnings.showwarning = lambda message, category, *rest: warned.append(category)  # type: ignore[assignment]
            client, holder = begin_a_renewal()
            eventually(lambda: gc.collect() >= 0 and client() is None, "something keeps the client alive")
            eventually(lambda: gc.collect() >= 0 and holder() is None, "something keeps the holder alive")
        assert warned == [ResourceWarning]
        other = opened(provider, "other", 3)
        eventually(lambda: renewed(server, other, 1))
        assert server.requests["forgotten"] == 1


def test_callbacks_that_raise_system_exit_do_not_end_the_workers() -> None:
    def leave(client: SessionClient, error: SessionNotFoundError) -> None:
        left.append(client.session_id)
        sys.exit(1)

    left: list[str] = []
    with RenewalServer(lasts=3) as server, connect(server) as provider:
        clients = [opened(provider, f"s{n}", 0.2, auto_renew=False, on_lock_lost=leave) for n in range(40)]
        eventually(lambda: len(left) == len(clients))
        client = opened(provider, "other", 3)
        eventually(lambda: renewed(server, client, 1))


# Outages


def relayed(server: AzsessionServer, relay: Relay) -> ServiceBusProvider:
    return ServiceBusProvider.from_connection_string(server.connection_string.replace(server.url, relay.url))


def relay_to(server: AzsessionServer) -> Relay:
    return Relay(urlsplit(server.url).port or 0)


@pytest.mark.parametrize("gone", ["refused", "cut"])
def test_a_lock_survives_a_short_outage(
    azsession_server: AzsessionServer, caplog: pytest.LogCaptureFixture, gone: str
) -> None:
    azsession_server.create_queue("orders", lock_duration=5)
    lost: list[object] = []
    with relay_to(azsession_server) as relay, relayed(azsession_server, relay) as provider:
        provider.send_message("orders", Message(b"0", session_id="s"))
        session = provider.create_session_client("orders", "s", on_lock_lost=lambda *told: lost.append(told))
        message = session.receive_message(timeout=10)
        assert message is not None
        expiry = session.session_expires_at
        (relay.refuse if gone == "refused" else relay.cut)()
        eventually(lambda: "could not be renewed yet" in caplog.text)
        (relay.listen if gone == "refused" else relay.mend)()
        eventually(lambda: session.session_expires_at > expiry + timedelta(seconds=1))
        session.complete_message(message)
        assert not session.is_lock_lost
    assert lost == []


def test_a_lock_is_lost_in_a_long_outage(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders", lock_duration=1)
    lost: list[tuple[SessionClient, SessionNotFoundError]] = []
    with relay_to(azsession_server) as relay, relayed(azsession_server, relay) as provider:
        provider.send_message("orders", Message(b"0", session_id="s"))
        session = provider.create_session_client("orders", "s", on_lock_lost=lambda *told: lost.append(told))
        message = session.receive_message(timeout=10)
        assert message is not None
        relay.refuse()
        eventually(lambda: lost)
        # All connections are closed, so that a request needs a new one.
        relay.listen()
        so_far = relay.accepted
        calls = (
            session.receive_message,
            session.renew_session_lock,
            session.get_session_state,
            lambda: session.complete_message(message),
            lambda: session.abandon_message(message),
            lambda: session.complete_messages([message]),
            lambda: session.dead_letter_session("late"),
        )
        for call in calls:
            with pytest.raises(SessionNotFoundError, match="expired"):
                call()
        session.close_session()
        assert relay.accepted == so_far
    assert [client for client, _ in lost] == [session]
