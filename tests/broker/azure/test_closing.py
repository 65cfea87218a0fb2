"""The end of a broker on Azure, forks, and the thread that owns its connections."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from azsession import Message, ProviderError, QueueError, ServiceBusProvider
from azsession.broker.azure.transport.loop import Loop

from ...conftest import eventually
from ...standin.require import require_standin
from .holders import QUEUE, Holder, broker_on, completed, in_thread, send, waits_in

if TYPE_CHECKING:
    from tests.standin import StandIn


@pytest.fixture
def namespace() -> Iterator[StandIn]:
    with require_standin()() as namespace:
        namespace.create_queue(QUEUE)
        yield namespace


#: What the threads of a broker on Azure are called; other tests' servers may be running meanwhile.
NAMES = ("azsession-amqp", "azsession-connect", "azsession-tokens", "azsession-restore")


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(NAMES)]


def in_child(run: Callable[[], object]) -> None:
    """Run something in a forked child; what it raises fails the test."""
    with warnings.catch_warnings():
        # From Python 3.12: forking beside threads is what is tested.
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


def test_closing_releases_sessions_ends_waits_and_the_thread(namespace: StandIn) -> None:
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


def test_an_interpreter_that_ends_with_an_open_provider_is_quiet(namespace: StandIn) -> None:
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


# Forks


def test_a_forked_child_has_a_connection_of_its_own_and_the_parent_keeps_its(namespace: StandIn) -> None:
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


def test_descriptors_that_a_child_reuses_are_not_closed_by_what_it_inherited(namespace: StandIn) -> None:
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


def test_a_job_handed_in_while_the_loop_closes_is_done_or_refused() -> None:
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


def test_timers_that_were_cancelled_do_not_pile_up() -> None:
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


# What is written down


def test_no_secret_and_no_body_is_logged(namespace: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = namespace.keys["RootManageSharedAccessKey"][0]
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
