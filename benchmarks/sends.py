"""Single sends per second to a broker with a data file, from 16 threads and from one. Each is on disk when it returns.

Sends that arrive together share one commit. They are measured in the process of the broker, and through a gateway in another
process. Each thread sends to a session of its own.
"""

from __future__ import annotations

import threading
import time

from azsession import Message, ServiceBusProvider

from .common import QUEUE, Figure, arguments, data_file, gateway, interleaved, show

#: The size of a message body in bytes.
SIZE = 256
TARGET = 8.0


def _rate(provider: ServiceBusProvider, threads: int, count: int) -> float:
    """Return the sends a second of some threads that send `count` messages together."""
    body = b"x" * SIZE
    start = threading.Barrier(threads + 1)

    def send(number: int) -> None:
        start.wait()
        for _ in range(count // threads):
            provider.send_messages(QUEUE, [Message(body, session_id=f"s{number}")])

    workers = [threading.Thread(target=send, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return count // threads * threads / (time.perf_counter() - began)


def _figure(where: str, threads: int, rounds: int, one: float, many: float) -> Figure:
    ratio = many / one
    return Figure(
        f"single sends of {SIZE} bytes a second, {where} ({rounds} rounds)",
        f"{one:.0f}/s   one thread",
        f"{many:.0f}/s   {threads} threads",
        ratio,
        f"at least {TARGET:g}",
        ratio >= TARGET,
    )


def main() -> None:
    """Measure and print the result."""
    options = arguments("sends", __doc__ or "", rounds=5, threads=16, messages=3200, single=300)
    measures = {}
    with (
        data_file() as own_path,
        ServiceBusProvider.embedded(own_path, queues=[QUEUE]) as inside,
        data_file() as path,
        gateway(path) as server,
        server.provider() as outside,
    ):
        for name, provider in (("inside", inside), ("outside", outside)):
            measures[f"{name}_one"] = lambda provider=provider: _rate(provider, 1, options.single)
            measures[f"{name}_many"] = lambda provider=provider: _rate(provider, options.threads, options.messages)
        for measure in measures.values():
            measure()
        found = interleaved(options.rounds, **measures)
    show(
        "sends",
        [
            _figure(where, options.threads, options.rounds, found[f"{name}_one"], found[f"{name}_many"])
            for name, where in (("inside", "in process"), ("outside", "through a gateway"))
        ],
    )


if __name__ == "__main__":
    main()
