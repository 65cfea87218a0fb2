"""Sessions held in one process over one connection: calls beside a waiting receive, and the cost of 1,000 idle sessions.

First, settlements and renewals are timed while a receive waits in the same session. Then sessions are held idle for some
seconds, while their locks are renewed in the background.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil

from azsession import Message, ReceivedMessage, ServiceBusProvider, SessionClient

from .common import QUEUE, Figure, arguments, fill, show
from .standin import SERVERS, namespace

#: Bytes of a message's body.
SIZE = 256


def _timed(count: int, work: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def _overtaking(provider: ServiceBusProvider, count: int) -> dict[str, list[float]]:
    """Return the seconds of settlements and of renewals, each while a receive waits in the session."""
    fill(provider, "waiting", count, SIZE)
    with provider.create_session_client(QUEUE, "waiting", auto_renew=False) as session:
        messages: list[ReceivedMessage] = []
        while len(messages) < count:
            messages += session.receive_messages(count - len(messages), timeout=5)
        waiting = threading.Thread(target=lambda: session.receive_message(30))
        waiting.start()
        # Long enough for the receive to wait: one that finds a message is answered much sooner.
        time.sleep(0.5)
        found = {
            "settle": _timed(count, lambda: session.complete_message(messages.pop())),
            "renew": _timed(count, session.renew_session_lock),
        }
        assert waiting.is_alive()
        provider.send_message(QUEUE, Message(b"x", session_id="waiting"))
        waiting.join()
    return found


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    return statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]


def _hold(provider: ServiceBusProvider, count: int) -> list[SessionClient]:
    with ThreadPoolExecutor(8) as pool:
        clients = [provider.create_session_client(QUEUE, f"idle-{number}") for number in range(count)]
        list(pool.map(lambda client: client.receive_message(0), clients))
    return clients


def main() -> None:
    """Run the benchmark, and print its figures."""
    options = arguments("azure_held", __doc__ or "", sessions=1000, seconds=10, count=500, lock_seconds=15, server=SERVERS)
    own = psutil.Process()
    with ExitStack() as stack:
        standin = stack.enter_context(namespace(QUEUE, lock_duration=options.lock_seconds, server=options.server))
        provider = stack.enter_context(standin.provider())
        found = _overtaking(provider, options.count)
        gc.collect()
        memory, threads = own.memory_info().rss, own.num_threads()
        began = time.perf_counter()
        clients = _hold(provider, options.sessions)
        taken = time.perf_counter() - began
        time.sleep(1.0)
        gc.collect()
        grown, more = own.memory_info().rss - memory, own.num_threads() - threads
        before, began = time.process_time(), time.perf_counter()
        time.sleep(options.seconds)
        share = (time.process_time() - before) / (time.perf_counter() - began)
        lost = sum(client.is_lock_lost for client in clients)
        began = time.perf_counter()
        for client in clients:
            client.close()
        given_back = time.perf_counter() - began
        total = own.num_threads()
    figures = []
    for name, call in (("settle", "complete_message"), ("renew", "renew_session_lock")):
        median, slow = _percentiles(found[name])
        figures.append(
            Figure(
                f"{call} while a receive waits in the same session ({options.count} times)",
                "",
                f"median {median * 1e3:.2f} ms, p99 {slow * 1e3:.2f} ms",
                None,
                "p99 under 20 ms",
                slow < 0.020,
            )
        )
    figures.append(
        Figure(
            f"{options.sessions} idle sessions held for {options.seconds} s, locks of {options.lock_seconds} s",
            "",
            f"{grown / 1e6:.1f} MB ({grown / options.sessions / 1e3:.1f} kB each) and {more} threads more ({total} in all),\n"
            f"          {share:.1%} of a core for their renewals, {lost} locks lost;\n"
            f"          taken in {taken:.1f} s by 8 threads, given back in {given_back:.1f} s by one",
            None,
            "none lost, few threads",
            lost == 0 and more <= 8,
        )
    )
    show("azure_held", figures)


if __name__ == "__main__":
    main()
