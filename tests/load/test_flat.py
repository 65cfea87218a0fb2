"""The memory of a gateway and a client does not grow with the number of operations."""

from __future__ import annotations

import functools
import gc
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack, closing

import psutil
import pytest

from azsession import Message, ServiceBusProvider
from azsession.broker.embedded import session_locks

from ..conftest import eventually
from ..server.raw import Gateway, connections, fresh_id, serving, waiters

#: Objects by which two counts may differ, because of caches and threads.
NOISE = 150


def objects() -> int:
    """Return the number of objects that the garbage collector tracks."""
    clear_caches()
    for _ in range(3):
        gc.collect()
    return len(gc.get_objects())


def clear_caches() -> None:
    """Clear the bounded caches of the package, which fill up slowly.

    Caches without a bound stay: they have what is made once in a process. This is a function of its own, because its loop
    variable keeps the last object, which can be a part of a stopped gateway, and all that the object refers to.
    """
    for cached in gc.get_objects():
        # Not `isinstance`: it would evaluate lazy objects of frameworks that other tests left behind.
        # The cache of a method in C, for example of a compiled pattern, has no module.
        is_ours = type(cached) is functools._lru_cache_wrapper and (cached.__module__ or "azsession").startswith("azsession")
        if is_ours and cached.cache_parameters()["maxsize"] is not None:
            cached.cache_clear()


def growth(operation: Callable[[int], None], times: int) -> int:
    """Return how many more objects there are after `times` operations, after a warm-up."""
    for number in range(times // 4):
        operation(number)
    before = objects()
    for number in range(times // 4, times + times // 4):
        operation(number)
    return objects() - before


@pytest.fixture(autouse=True)
def _few_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limits of bounded caches, so that the tests reach them."""
    monkeypatch.setattr(session_locks, "MAX_LOST", 30)
    monkeypatch.setattr(session_locks, "MAX_REFUSED", 30)


def test_a_gateway_does_not_grow_over_two_thousand_operations() -> None:
    with serving() as gateway, ExitStack() as stack:
        queue = gateway.queue(lock_duration=300, max_delivery_count=1000)
        kept = stack.enter_context(closing(gateway.connect()))
        gateway.ask("GET", "/healthz", connection=kept)

        def operation(number: int) -> None:
            def ask(method: str, path: str, body: object = None, **headers: str) -> int:
                return gateway.ask(method, path, body, headers or None, connection=kept).status

            name = f"s-{number % 50}"
            holder = gateway.holder(queue, name, fresh_id())
            sent = {"BrokerProperties": f'{{"SessionId": "{name}"}}', "Azsession-Request-Id": fresh_id()}
            for _ in range(2):
                assert gateway.ask("POST", f"/{queue}/messages", b"x", sent, connection=kept).status == 201
            first = holder.receive("timeout=0", {"Azsession-Request-Id": fresh_id()}, connection=kept)
            if number % 4 == 0:
                assert ask("PUT", f"{holder.path}/messages/{first.token}") == 204
                first = holder.receive(connection=kept)
            assert ask("POST", f"{holder.path}/renewlock", **holder.headers) == 204
            if number % 4 == 1:
                assert ask("PUT", f"{holder.path}/state", b"state", **holder.headers) == 204
                assert ask("DELETE", f"{holder.path}/state", **holder.headers) == 204
            assert ask("DELETE", f"{holder.path}/messages/{first.token}") == 204
            assert ask("POST", f"{holder.path}/release", **holder.headers) == 204
            gateway.clock.forward(20)

        assert growth(operation, 120) < NOISE


def test_a_gateway_does_not_grow_over_clients_that_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(max_waiting=64) as gateway:
        queue = gateway.queue(lock_duration=300)

        def poll(number: int) -> None:
            name = f"s-{number % 30}"
            holder = gateway.holder(queue, name, fresh_id())
            with holder.start_receive(60):
                eventually(lambda: waiters(gateway, queue, name) == 1)
            eventually(lambda: waiters(gateway, queue, name) == 0)
            holder.release()
            with gateway.open_socket(b"GET / HT"):
                pass
            assert gateway.ask("GET", f"/{queue}/nothing").status == 404

        # The broker clears out ended waits at every 64th. Both counts are made at the same point between two clear-outs.
        assert growth(poll, 256) < NOISE
        eventually(lambda: connections(gateway) == 0)


def test_a_client_does_not_grow_over_sessions_that_come_and_go() -> None:
    with serving() as gateway:
        queue = gateway.queue(lock_duration=300)
        with ServiceBusProvider.from_connection_string(gateway.service.connection_string()) as provider:

            def operation(number: int) -> None:
                name = f"s-{number % 50}"
                provider.send_messages(queue, [Message(body, session_id=name) for body in ("a", "b")])
                with provider.create_session_client(queue, accept_timeout=0) as session:
                    first, second = session.receive_messages(2, timeout=0)
                    session.complete_message(first)
                    session.renew_session_lock()
                    session.defer_message(second)
                    (again,) = session.receive_deferred_messages([second.sequence_number])
                    session.dead_letter_message(again, "done")
                (letter,) = provider.dead_letters(queue)
                provider.delete_dead_letter(queue, letter.sequence_number)

            assert growth(operation, 120) < NOISE


def test_an_embedded_provider_does_not_grow() -> None:
    def operation(number: int) -> None:
        with ServiceBusProvider.embedded(queues=["q"]) as provider:
            provider.send_message("q", Message("x", session_id="s"))
            with provider.create_session_client("q", "s") as session:
                message = session.receive_message(timeout=0)
                assert message is not None
                session.complete_message(message)

    assert growth(operation, 100) < NOISE


def test_started_and_stopped_gateways_leave_no_objects() -> None:
    here = psutil.Process()
    files = here.num_fds()

    def operation(number: int) -> None:
        with serving(max_waiting=2) as gateway:
            assert gateway.ask("GET", "/healthz").status == 200

    assert growth(operation, 40) < NOISE
    assert here.num_fds() <= files + 2


def test_long_paths_and_queries_are_not_cached() -> None:
    with serving() as gateway:
        ask_for_long_names(gateway, 20)
        tracemalloc.start()
        try:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            ask_for_long_names(gateway, 200)
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] - before < 10_000_000  # The standard library keeps 128 parsed URLs.
        finally:
            tracemalloc.stop()


def ask_for_long_names(gateway: Gateway, count: int) -> None:
    with closing(gateway.connect()) as connection:
        for _ in range(count):
            long = "x" * 30_000 + fresh_id()
            for path in (f"/q/sessions?after={long}", f"/{long}", f"/q/sessions/{long}/state"):
                assert gateway.ask("GET", path, connection=connection).status in (400, 404)
