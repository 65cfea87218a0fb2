"""Closing a broker on Azure, forks, and the thread that owns its connections."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

import pytest

from azsession import Message, ProviderError, QueueError, ServiceBusProvider
from azsession.broker.azure import AzureBroker
from azsession.broker.azure.transport.loop import Loop

from ...conftest import eventually
from ...namespaces import Namespace
from .holders import QUEUE, Holder, broker_on, completed, in_thread, send, texts, waiting_accepts, waits_in

#: The names of the threads of a broker on Azure. Servers of other tests may run at the same time.
NAMES = ("azsession-amqp", "azsession-connect", "azsession-tokens")


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(NAMES)]


def in_child(run: Callable[[], object]) -> None:
    """Run `run` in a forked child; an exception there fails the test."""
    with warnings.catch_warnings():
        # Python 3.12 and later warn about a fork beside threads, which is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Closing


def test_close_releases_sessions_and_ends_waits_and_threads(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        send(broker, "one")
        holder = Holder(broker)
        holder.take()
        waiting = in_thread(lambda: holder.receive(timeout=60))
        accepting = in_thread(lambda: Holder(broker).accept_next(timeout=60))
        eventually(lambda: waits_in(holder) == 1 and namespace.links() >= 4)
        broker.close()
        broker.close()
        for pending in (waiting, accepting):
            with suppress(QueueError):
                assert not pending.result(10)
        assert not our_threads()
        assert not namespace.locked_sessions(QUEUE)
        eventually(lambda: not namespace.connections())
        with pytest.raises(ProviderError):
            send(broker, "two")
        with pytest.raises(ProviderError):
            holder.receive()


def test_an_interpreter_that_ends_with_an_open_provider_prints_nothing(namespace: Namespace) -> None:
    code = f"""
from azsession import Message, ServiceBusProvider
provider = ServiceBusProvider.from_connection_string({namespace.connection_string!r})
provider.send_message("orders", Message("x", session_id="s"))
client = provider.create_session_client("orders", "s")
assert client.receive_message(timeout=10).text() == "x"
import threading
threading.Thread(target=lambda: client.receive_message(timeout=60), daemon=True).start()
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_stop_waiting_ends_all_receives_and_accepts_that_wait(namespace: Namespace, broker: AzureBroker) -> None:
    holders = [Holder(broker, f"s{number}") for number in range(20)]
    waits = [in_thread(one.receive) for one in holders]
    eventually(lambda: len(namespace.locked_sessions(QUEUE)) == 20)
    accepts = [in_thread(Holder(broker).accept_next) for _ in range(10)]
    eventually(lambda: waiting_accepts(broker) == 10)
    broker.stop_waiting()
    assert not wait(list[Future[Any]]([*waits, *accepts]), 10).not_done
    assert [waiting.result() for waiting in waits] == [[]] * 20
    assert [accepting.result() for accepting in accepts] == [None] * 10
    # Later calls return the messages that are there, and do not wait.
    send(broker, "a", session_id="s1")
    assert texts(holders[1].receive()) == ["a"]
    assert holders[2].receive(timeout=60) == []
    assert Holder(broker).accept_next(timeout=60) is None


def test_stop_waiting_ends_receives_whose_links_are_lost(namespace: Namespace, broker: AzureBroker) -> None:
    holders = [Holder(broker, f"s{number}") for number in range(5)]
    waits = [in_thread(one.receive) for one in holders]
    eventually(lambda: len(namespace.locked_sessions(QUEUE)) == 5)
    namespace.refuse("attach", "com.microsoft:server-busy", 1000)
    namespace.drop_connections()
    broker.stop_waiting()
    assert not wait(waits, 5).not_done
    assert [waiting.result() for waiting in waits] == [[]] * 5


def test_close_releases_all_sessions_and_ends_all_waits(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        holders = [Holder(broker, f"s{number}") for number in range(50)]
        for holder in holders:
            send(broker, "a", session_id=holder.session_id)
            holder.take()
        waits = [in_thread(one.receive) for one in holders[:20]]
        eventually(lambda: all(waits_in(one) for one in holders[:20]))
        accepts = [in_thread(Holder(broker).accept_next) for _ in range(5)]
        eventually(lambda: waiting_accepts(broker) == 5)
        broker.close()
        assert namespace.locked_sessions(QUEUE) == set()
        assert not wait(list[Future[Any]]([*waits, *accepts]), 10).not_done
        assert [waiting.result() for waiting in waits] == [[]] * 20
        with pytest.raises(QueueError):
            holders[0].receive()
    assert namespace.counts(QUEUE).locked == 0
    eventually(lambda: namespace.connections() == 0)


@pytest.mark.parametrize("how", ["dropped", "silent"])
def test_close_does_not_hang_if_the_namespace_does_not_answer(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("azsession.broker.azure.broker.RELEASE_TIMEOUT", 0.3)
    with broker_on(namespace) as broker:
        holders = [Holder(broker, f"s{number}") for number in range(10)]
        for holder in holders:
            holder.receive(timeout=0)
        waiting = in_thread(holders[0].receive)
        eventually(lambda: waits_in(holders[0]))
        if how == "silent":
            namespace.delay(30)
        else:
            namespace.refuse("attach", "com.microsoft:server-busy", 1000)
            namespace.drop_connections()
        closing = in_thread(broker.close)
        closing.result(20)
        assert waiting.result(20) == []
    namespace.delay(0)


# Forks


def test_a_forked_child_opens_a_connection_and_the_parent_keeps_its_own(namespace: Namespace) -> None:
    with ServiceBusProvider.from_connection_string(namespace.connection_string) as provider:
        provider.send_messages(QUEUE, [Message(text, session_id="s1") for text in ("one", "two")])
        with provider.create_session_client(QUEUE, "s1") as client:
            message = client.receive_message(timeout=10)
            assert message is not None

            def child() -> None:
                provider.send_message(QUEUE, Message("child's", session_id="s2"))
                with provider.create_session_client(QUEUE, "s2") as own:
                    found = own.receive_message(timeout=10)
                    assert found is not None
                    own.complete_message(found.receipt)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    provider.close()
                    gc.collect()

            in_child(child)
            assert namespace.log["open"] == 2
            assert namespace.locked_sessions(QUEUE) == {"s1"}
            client.complete_message(message.receipt)
            assert client.receive_message(timeout=10) is not None
            assert namespace.log["open"] == 2
    assert len(completed(namespace, "s2")) == 1


def test_an_inherited_broker_does_not_close_descriptors_that_a_forked_child_reuses(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        send(broker, "one")

        def child() -> None:
            nonlocal broker
            pipes = [os.pipe() for _ in range(20)]
            del broker
            gc.collect()
            for reader, writer in pipes:
                os.write(writer, b"x")
                assert os.read(reader, 1) == b"x"

        in_child(child)
        send(broker, "two")
        assert namespace.log["open"] == 1


# The loop


def test_a_job_that_fails_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    try:
        with pytest.raises(ZeroDivisionError):
            loop.run(lambda: 1 / 0)
        loop.call(lambda: 1 / 0)
        loop.run(lambda: loop.later(0.0, lambda: 1 / 0))
        assert loop.run(lambda: 7) == 7
        eventually(lambda: len(caplog.records) == 2)
        assert loop.run(threading.get_ident) != threading.get_ident()
    finally:
        loop.close()
    with pytest.raises(ProviderError, match="closed"):
        loop.call(lambda: None)


def test_a_loop_that_was_never_used_is_closed_without_a_thread() -> None:
    loop = Loop()
    loop.close()
    with pytest.raises(ProviderError):
        loop.run(lambda: None)
    assert not our_threads()


def test_a_job_that_comes_while_the_loop_closes_runs_or_is_refused() -> None:
    for _ in range(200):
        loop = Loop()
        loop.run(lambda: None)
        ready = threading.Barrier(3)

        def hand_in(loop: Loop = loop, ready: threading.Barrier = ready) -> bool:
            ready.wait()
            try:
                return loop.submit(lambda: True).result(10)
            except ProviderError:
                return False

        futures = [in_thread(hand_in) for _ in range(2)]
        ready.wait()
        loop.close()
        for future in futures:
            assert future.result(20) in (True, False)


def test_cancelled_timers_are_removed() -> None:
    loop = Loop()

    def many() -> int:
        for _ in range(50_000):
            loop.later(1000.0, lambda: None).cancel()
        return len(loop._timers)

    try:
        assert loop.run(many) < 5_000
        fired = threading.Event()
        loop.run(lambda: loop.later(0.0, fired.set))
        assert fired.wait(10)
    finally:
        loop.close()


# Logging


def test_no_secret_and_no_body_is_logged(namespace: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = namespace.connection_string.partition("SharedAccessKey=")[2].partition(";")[0]
    namespace.refuse("put-token", "amqp:unauthorized-access", description="Bad SharedAccessSignature sr=x&sig=leak&se=1")
    with ServiceBusProvider.from_connection_string(namespace.connection_string) as provider:
        provider.send_message(QUEUE, Message("topsecretbody", session_id="s1", attributes={"a": "topsecretattribute"}))
        with provider.create_session_client(QUEUE, "s1") as client:
            message = client.receive_message(timeout=10)
            namespace.expire_tokens()
            namespace.drop_connections()
            eventually(lambda: not namespace.connections() or namespace.log["open"] > 1)
            assert message is not None
            client.complete_message(message.receipt)
            assert message.receipt.handle not in caplog.text
    assert caplog.records
    for secret in (key, "topsecret", "sig=", "leak"):
        assert secret not in caplog.text
