"""Forked children. Each test runs a script in a new process, so that the forked process has no other threads and sockets."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from azsession import Message, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService
from azsession.testing import AzsessionServer

from .fork_script import run
from .servers import Handler, QuietHTTPServer


def test_parent_and_children_use_the_same_provider_at_once(azsession_server: AzsessionServer) -> None:
    run(
        """
work_through("before")
children = [fork(lambda n=n: work_through(f"child-{n}")) for n in range(4)]
work_through("parent")
join(*children)
provider.close()
""",
        azsession_server.connection_string,
    )


def test_a_child_does_not_use_the_sockets_of_its_parent(azsession_server: AzsessionServer) -> None:
    run(
        """
threads = [threading.Thread(target=work_through, args=(f"t{n}", 5)) for n in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
had = sockets()
assert had
read, write = os.pipe()

def child():
    assert not sockets(), "the child came with sockets"
    work_through("child", 5)
    os.write(write, " ".join(sockets()).encode())

join(fork(child))
work_through("parent", 5)
childs = set(os.read(read, 65536).decode().split())
assert childs and sockets()
assert not childs & (had | sockets())
provider.close()
""",
        azsession_server.connection_string,
    )


def test_only_the_parent_renews_its_session(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("q", lock_duration=3)
    run(
        """
provider.send_message("q", Message(b"1", session_id="parents"))
parents = provider.create_session_client("q", "parents")
assert parents.receive_message(timeout=5).body == b"1"

def child():
    refused(SessionNotFoundError, parents.receive_message)
    refused(SessionNotFoundError, parents.renew_session_lock)
    assert threading.active_count() == 1, threading.enumerate()
    with provider.create_session_client("q", "childs") as childs:
        childs.receive_message(timeout=0)
        time.sleep(5)
        childs.receive_message(timeout=0)
        assert not childs.is_lock_lost
        refused(SessionNotFoundError, parents.receive_message)

children = [fork(child)]
time.sleep(5)
assert not parents.is_lock_lost
parents.receive_message(timeout=0)
join(*children)
provider.close()
""",
        azsession_server.connection_string,
    )


def test_a_child_does_not_keep_the_session_of_a_parent_that_died(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("q", lock_duration=3)
    run(
        """
ready, go = os.pipe()

def parent():
    session = provider.create_session_client("q", "s")
    session.receive_message(timeout=0)

    def child():
        # It renews its own session, and no other.
        with provider.create_session_client("q", "childs") as childs:
            childs.receive_message(timeout=0)
            os.write(go, b"x")
            time.sleep(5)
            with provider.create_session_client("q", "s") as other:
                other.receive_message(timeout=0)
            childs.receive_message(timeout=0)
        os.write(go, b"y")

    fork(child)
    os.read(ready, 1)
    os._exit(0)

join(fork(parent))
assert os.read(ready, 1) == b"y"
provider.close()
""",
        azsession_server.connection_string,
    )


@pytest.mark.parametrize("leave", ["os._exit", "sys.exit"])
def test_a_fork_while_other_threads_work_does_not_hang(azsession_server: AzsessionServer, leave: str) -> None:
    run(
        f"""
over = threading.Event()

def hammer(n):
    with provider.create_session_client("q", f"t{{n}}") as client:
        while not over.is_set():
            provider.send_message("q", Message(b"x", session_id=f"t{{n}}"))
            client.complete_message(client.receive_message(timeout=10))
            client.renew_session_lock()

threads = [threading.Thread(target=hammer, args=(n,), daemon=True) for n in range(8)]
[thread.start() for thread in threads]

def child():
    over.set()
    gc.collect()
    work_through(f"child-{{os.getpid()}}", 2)
    provider.close()
    gc.collect()

for _ in range(12):
    join(fork(child, leave={leave}))
over.set()
[thread.join(20) for thread in threads]
assert not any(thread.is_alive() for thread in threads)
provider.close()
""",
        azsession_server.connection_string,
    )


def test_a_fork_while_a_thread_waits_in_a_receive(azsession_server: AzsessionServer) -> None:
    run(
        """
client = provider.create_session_client("q", "s")
ended = []

def wait():
    try:
        client.receive_message(timeout=300)
    except SessionNotFoundError:
        ended.append(1)

thread = threading.Thread(target=wait)
thread.start()
while not any(call.in_flight and call.in_flight.written for call in list(holder_of(client).pending._calls)):
    time.sleep(0.01)

def child():
    refused(SessionNotFoundError, client.receive_message)
    provider.close()

join(fork(child))
work_through("other", 3)
assert thread.is_alive()
client.close()
thread.join(20)
assert ended
provider.close()
""",
        azsession_server.connection_string,
    )


class _NoMessages(Handler):
    def answer(self) -> None:
        self.give(204)


def test_a_fork_while_a_token_is_fetched() -> None:
    with QuietHTTPServer(_NoMessages) as server:
        run(
            """
from collections import namedtuple
fetching, go = threading.Event(), threading.Event()
parent = os.getpid()

class Credential:
    def get_token(self, *scopes, **options):
        fetching.set()
        if os.getpid() == parent:
            go.wait(20)
        return namedtuple("T", "token expires_on")("t", int(time.time()) + 3600)

provider = ServiceBusProvider.from_connection_string(sys.argv[1], credential=Credential())
thread = threading.Thread(target=lambda: provider.create_session_client("q", "s").receive_message(timeout=0))
thread.start()
assert fetching.wait(20)
join(fork(lambda: provider.create_session_client("q", "other").receive_message(timeout=0)))
go.set()
thread.join(20)
assert not thread.is_alive()
provider.close()
""",
            server.connection_string,
        )


def test_a_child_settles_what_the_parent_received(azsession_server: AzsessionServer) -> None:
    run(
        """
provider.send_messages("q", [Message(str(n), session_id="s") for n in range(4)])
client = provider.create_session_client("q", "s")
messages = client.receive_messages(4)

def child():
    client.complete_message(messages[0])
    client.dead_letter_message(messages[1], "why not")
    client.complete_messages([messages[2]])
    refused(InvalidReceiptError, lambda: client.complete_message(messages[0]))
    with provider.session_from_receipt(str(messages[3].receipt)) as settling:
        settling.complete_message(messages[3])

join(fork(child))
assert provider.peek_messages("q", "s") == []
assert len(provider.dead_letters("q")) == 1
provider.close()
""",
        azsession_server.connection_string,
    )


def test_a_client_that_was_unused_before_the_fork_is_an_own_holder_in_each_process(azsession_server: AzsessionServer) -> None:
    run(
        """
client = provider.create_session_client("q", "s")
ready, go = os.pipe()

def child():
    os.read(ready, 1)
    refused(SessionLockedError, lambda: client.receive_message(timeout=0))
    os.kill(os.getppid(), signal.SIGUSR1)
    os.read(ready, 1)
    client.receive_message(timeout=0)
    client.close()

refusal = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: refusal.set())
children = [fork(child)]
client.receive_message(timeout=0)
os.write(go, b"x")
assert refusal.wait(20)
client.close()
os.write(go, b"y")
join(*children)
provider.close()
""",
        azsession_server.connection_string,
    )


@pytest.mark.parametrize("end", ["client.close()", "provider.close()", "del client; gc.collect()"])
def test_closing_in_a_child_does_not_release_the_parents_session(azsession_server: AzsessionServer, end: str) -> None:
    run(
        f"""
provider.send_message("q", Message(b"1", session_id="s"))
client = provider.create_session_client("q", "s")
message = client.receive_message(timeout=5)

def child():
    global client
    {end}

join(fork(child, leave=sys.exit))
with ServiceBusProvider.from_connection_string(sys.argv[1]) as other:
    refused(SessionLockedError, lambda: other.create_session_client("q", "s").receive_message(timeout=0))
client.complete_message(message)
client.renew_session_lock()
provider.close()
""",
        azsession_server.connection_string,
    )


def test_multiprocessing_workers_that_are_forked_use_the_provider(azsession_server: AzsessionServer) -> None:
    run(
        """
import multiprocessing
context = multiprocessing.get_context("fork")
work_through("before", 3)
session = provider.create_session_client("q", "mine")
session.receive_message(timeout=0)
processes = [context.Process(target=work_through, args=(f"p{n}", 10)) for n in range(3)]
[process.start() for process in processes]
work_through("parent", 10)
[process.join(30) for process in processes]
assert [process.exitcode for process in processes] == [0, 0, 0]
with context.Pool(2) as pool:
    pool.map(work_through, ["a", "b", "c"])
assert session.receive_message(timeout=0) is None
provider.close()
""",
        azsession_server.connection_string,
    )


def test_a_childs_exit_does_not_break_the_parents_tls_connections(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    broker = EmbeddedBroker(auto_create=True)
    with GatewayService(
        broker, [AccessKey.generate()], max_waiting=16, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem"
    ) as service:
        run(
            """
work_through("before", 5)
had = sockets()
for leave in (os._exit, sys.exit):
    join(fork(lambda: work_through("child", 5), leave))
    work_through("parent", 5)
    assert had and sockets() == had, "the parent had to connect again"
provider.close()
""",
            service.connection_string(),
            str(tmp_path / "ca.pem"),
        )
        with ServiceBusProvider.from_connection_string(
            service.connection_string(), ca_bundle=str(tmp_path / "ca.pem")
        ) as provider:
            provider.send_message("q", Message(b"still well", session_id="s"))


def test_a_child_settles_in_its_parents_loop_without_fetching_or_releasing(azsession_server: AzsessionServer) -> None:
    run(
        """
from azsession.client import settling
provider.send_messages("q", [Message(str(n), session_id="s") for n in range(3)])
session = provider.create_session_client("q", "s")
messages = session.messages(timeout=5, prefetch=1)
first = next(messages)
join(fork(lambda: session.complete_message(first)))
second = next(messages)
assert second.text() == "1", second
join(fork(lambda: settling.settle_and_close(holder_of(session), second)))
assert provider.list_sessions("q")[0].locked_until is not None
third = next(messages)
assert (third.text(), third.delivery_count) == ("2", 1), third
session.complete_message(third)
session.close_session()
assert provider.peek_messages("q", "s") == []
provider.close()
""",
        azsession_server.connection_string,
    )
