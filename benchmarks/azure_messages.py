"""Messages a second of one session, received and completed by one thread: one by one, in batches, through a gateway.

The peer completes each message with a disposition that nobody confirms; ours waits until Azure has confirmed each
(`complete_message`) or all (`complete_messages`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from azure.servicebus import ServiceBusReceiver

from azsession import SessionClient

from .common import QUEUE, Figure, arguments, fill, interleaved, show
from .standin import PEER, azure_gateway, namespace, sdk_receiver

#: Bytes of a message's body.
SIZE = 256


def _timed(count: int, work: Callable[[int], None]) -> Callable[[], float]:
    """Return what does `work` for `count` messages, and gives messages a second."""

    def measure() -> float:
        began = time.perf_counter()
        work(count)
        return count / (time.perf_counter() - began)

    return measure


def _our_singles(session: SessionClient) -> Callable[[int], None]:
    def work(count: int) -> None:
        for _ in range(count):
            message = session.receive_message(5)
            assert message is not None
            session.complete_message(message)

    return work


def _our_batches(session: SessionClient, size: int) -> Callable[[int], None]:
    def work(count: int) -> None:
        left = count
        while left:
            messages = session.receive_messages(min(left, size), timeout=5)
            assert messages
            session.complete_messages(messages)
            left -= len(messages)

    return work


def _their_batches(receiver: ServiceBusReceiver, size: int) -> Callable[[int], None]:
    def work(count: int) -> None:
        left = count
        while left:
            messages = receiver.receive_messages(min(left, size))
            assert messages
            for message in messages:
                receiver.complete_message(message)
            left -= len(messages)

    return work


def _their_iterator(receiver: ServiceBusReceiver) -> Callable[[int], None]:
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
    """Measure, and print."""
    options = arguments("azure_messages", __doc__ or "", rounds=5, messages=2000, single=300, batch=100, large=1000)
    with (
        namespace(QUEUE) as standin,
        azure_gateway(standin) as server,
        standin.provider() as provider,
        server.provider() as remote,
        standin.sdk() as client,
    ):
        names = {
            "peer_single": options.single,
            "our_single": options.single,
            "peer_batch": options.messages,
            "peer_iterator": options.messages,
            "our_batch": options.messages,
            "our_large": options.messages,
            "gateway_batch": options.messages,
            "gateway_large": options.messages,
        }
        for name, count in names.items():
            # What is prefetched beyond a round must not run out.
            fill(provider, name, (options.rounds + 1) * count + 1000, SIZE)
        receivers = {name: sdk_receiver(client, QUEUE, name) for name in ("peer_single", "peer_batch")}
        receivers["peer_iterator"] = sdk_receiver(client, QUEUE, "peer_iterator", prefetch=options.batch)
        sessions = {
            name: (remote if name.startswith("gateway") else provider).create_session_client(QUEUE, name)
            for name in names
            if name not in receivers
        }
        work = {
            "peer_single": _their_batches(receivers["peer_single"], 1),
            "our_single": _our_singles(sessions["our_single"]),
            "peer_batch": _their_batches(receivers["peer_batch"], options.batch),
            "peer_iterator": _their_iterator(receivers["peer_iterator"]),
            "our_batch": _our_batches(sessions["our_batch"], options.batch),
            "our_large": _our_batches(sessions["our_large"], options.large),
            "gateway_batch": _our_batches(sessions["gateway_batch"], options.batch),
            "gateway_large": _our_batches(sessions["gateway_large"], options.large),
        }
        measures = {name: _timed(count, work[name]) for name, count in names.items()}
        for measure in measures.values():
            measure()
        found = interleaved(options.rounds, **measures)
        for end in (*receivers.values(), *sessions.values()):
            end.close()
    _show(found, options.rounds, options.batch, options.large)


def _show(found: dict[str, float], rounds: int, batch: int, large: int) -> None:
    best = max(found["peer_batch"], found["peer_iterator"])
    peer = (
        f"{best:.0f}/s   the better of receive_messages({batch}) + complete_message each ({found['peer_batch']:.0f}/s) and "
        f"the iterator with prefetch_count={batch} ({found['peer_iterator']:.0f}/s)"
    )
    single = found["our_single"] / found["peer_single"]
    figures = [
        Figure(
            f"messages of {SIZE} bytes a second, one by one, in process ({rounds} rounds)",
            f"{found['peer_single']:.0f}/s   receive_messages(1) + complete_message ({PEER})",
            f"{found['our_single']:.0f}/s   receive_message + complete_message, confirmed",
            single,
            "at least 0.8 of the peer's",
            single >= 0.8,
        )
    ]
    for where, prefix, target in (("in process", "our", 2.0), ("through the gateway", "gateway", 1.2)):
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
