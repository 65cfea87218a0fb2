"""Messages per second of one session and one thread: one by one, with the iterator, in batches, and through a gateway.

The peer completes each message with a disposition that Azure does not confirm. azsession waits until Azure has confirmed each
message (`complete_message`) or all of them (`complete_messages`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from azure.servicebus import ServiceBusReceiver

from azsession import ServiceBusProvider, SessionClient

from .common import QUEUE, Figure, arguments, fill, interleaved, show
from .standin import PEER, SERVERS, azure_gateway, namespace, sdk_receiver

#: The default of `SessionClient.messages`: how many messages are fetched ahead.
PREFETCH = 10
#: Bytes of a message's body, and messages that are received before the clock starts.
SIZE, WARM = 256, 20


#: Receives and completes a number of messages.
Work = Callable[[int], None]


def _measure(count: int, opened: Callable[[], AbstractContextManager[Work]], spent: list[float]) -> Callable[[], float]:
    """Return a function that opens a session, works on `count` messages, and returns messages per second.

    It adds the microseconds of processor time that this process took for each message to `spent`. One session is open at a
    time: the threads of the SDK's receivers would slow the others down.
    """

    def measure() -> float:
        with opened() as work:
            work(WARM)
            began, used = time.perf_counter(), time.process_time()
            work(count)
            spent.append((time.process_time() - used) / count * 1e6)
            return count / (time.perf_counter() - began)

    return measure


def _our_singles(session: SessionClient) -> Work:
    def work(count: int) -> None:
        for _ in range(count):
            message = session.receive_message(5)
            assert message is not None
            session.complete_message(message)

    return work


def _our_iterator(session: SessionClient) -> Work:
    def work(count: int) -> None:
        left = count
        for message in session.messages(5):
            session.complete_message(message)
            left -= 1
            if not left:
                return
        raise AssertionError("the messages ended")

    return work


def _our_batches(session: SessionClient, size: int) -> Work:
    def work(count: int) -> None:
        left = count
        while left:
            messages = session.receive_messages(min(left, size), timeout=5)
            assert messages
            session.complete_messages(messages)
            left -= len(messages)

    return work


def _their_batches(receiver: ServiceBusReceiver, size: int) -> Work:
    def work(count: int) -> None:
        left = count
        while left:
            messages = receiver.receive_messages(min(left, size))
            assert messages
            for message in messages:
                receiver.complete_message(message)
            left -= len(messages)

    return work


def _their_iterator(receiver: ServiceBusReceiver) -> Work:
    def work(count: int) -> None:
        left = count
        for message in receiver:
            receiver.complete_message(message)
            left -= 1
            if not left:
                return
        raise AssertionError("the messages ended")

    return work


def main() -> None:
    """Run the benchmark, and print its figures."""
    options = arguments(
        "azure_messages", __doc__ or "", rounds=5, messages=2000, single=500, batch=100, large=1000, server=SERVERS
    )
    with namespace(QUEUE, server=options.server) as standin, azure_gateway(standin) as server, standin.provider() as provider:
        remote, client = server.provider(), standin.sdk()

        @contextmanager
        def ours(name: str, at: ServiceBusProvider, batch: int) -> Iterator[Work]:
            with at.create_session_client(QUEUE, name) as session:
                yield _our_batches(session, batch) if batch > 1 else _our_singles(session)

        @contextmanager
        def iterated(name: str) -> Iterator[Work]:
            with provider.create_session_client(QUEUE, name) as session:
                yield _our_iterator(session)

        @contextmanager
        def theirs(name: str, batch: int, prefetch: int = 0) -> Iterator[Work]:
            with sdk_receiver(client, QUEUE, name, prefetch) as receiver:
                yield _their_iterator(receiver) if prefetch else _their_batches(receiver, batch)

        work: dict[str, Callable[[], AbstractContextManager[Work]]] = {
            "peer_single": lambda: theirs("peer_single", 1),
            "our_single": lambda: ours("our_single", provider, 1),
            "peer_batch": lambda: theirs("peer_batch", options.batch),
            "peer_iterator": lambda: theirs("peer_iterator", 1, options.batch),
            "peer_few_single": lambda: theirs("peer_few_single", 1, PREFETCH),
            "our_iterator_single": lambda: iterated("our_iterator_single"),
            "our_batch": lambda: ours("our_batch", provider, options.batch),
            "our_large": lambda: ours("our_large", provider, options.large),
            "gateway_batch": lambda: ours("gateway_batch", remote, options.batch),
            "gateway_large": lambda: ours("gateway_large", remote, options.large),
        }
        measures, spent = {}, {name: list[float]() for name in work}
        for name, opened in work.items():
            count = options.single if name.endswith("single") else options.messages
            # A receiver may prefetch messages beyond a round.
            fill(provider, name, (options.rounds + 1) * (count + WARM) + options.batch, SIZE)
            measures[name] = _measure(count, opened, spent[name])
        for measure in measures.values():
            measure()
        found = interleaved(options.rounds, **measures)
        remote.close()
        client.close()
    _show(found, options.server, options.rounds, options.batch, options.large)
    print("\nprocessor time of this process for each message (medians; on a busy machine it varies less than the rates)")
    for name, each in spent.items():
        print(f"  {name:<20} {statistics.median(each[1:]):.0f} us")


def _show(found: dict[str, float], server: str, rounds: int, batch: int, large: int) -> None:
    best = max(found["peer_batch"], found["peer_iterator"])
    peer = (
        f"{best:.0f}/s   the better of receive_messages({batch}) + complete_message each ({found['peer_batch']:.0f}/s) and "
        f"the iterator with prefetch_count={batch} ({found['peer_iterator']:.0f}/s)"
    )
    single, iterated = found["our_single"] / found["peer_single"], found["our_iterator_single"] / found["peer_few_single"]
    figures = [
        Figure(
            f"messages of {SIZE} bytes a second, one by one, in process, server {server} ({rounds} rounds)",
            f"{found['peer_single']:.0f}/s   receive_messages(1) + complete_message ({PEER})",
            f"{found['our_single']:.0f}/s   receive_message + complete_message, confirmed",
            single,
            "at least 1.0 of the peer's",
            single >= 1.0,
        ),
        Figure(
            f"one by one with {PREFETCH} messages fetched ahead, in process",
            f"{found['peer_few_single']:.0f}/s   the iterator with prefetch_count={PREFETCH} + complete_message",
            f"{found['our_iterator_single']:.0f}/s   messages() + complete_message, confirmed",
            iterated,
        ),
    ]
    for where, prefix, target in (("in process", "our", 5.0), ("through the gateway", "gateway", 4.0)):
        by_size = {batch: found[f"{prefix}_batch"], large: found[f"{prefix}_large"]}
        ours = max(by_size.values())
        figures.append(
            Figure(
                f"in batches, {where}",
                peer,
                "; ".join(f"{rate:.0f}/s by {size} ({rate / best:.2f})" for size, rate in by_size.items())
                + "   receive_messages + complete_messages, confirmed",
                ours / best,
                f"at least {target} of the peer's",
                ours / best >= target,
            )
        )
    show("azure_messages", figures)


if __name__ == "__main__":
    main()
