"""Single sends per second to a broker with a data file, from 16 threads and from one. Each is on disk when it returns.

Sends that come together share requests and commits. They are measured in the process of the broker, and through a gateway in
another process. Each thread sends to a session of its own.

The benchmark also shows how many sends share a commit, the processor time of a send in each process, and the highest ratio
that these times allow. The threads of a Python process run one at a time, apart from system calls and SQLite. So 16 threads
hardly send faster than the busiest process can work. The highest ratio is the time of a send from one thread, which includes
the wait for the disk, divided by the processor time of a send in that process.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from azsession import Message, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.client.backends import EMBEDDED_URL
from azsession.client.inprocess import InProcessAdapter
from azsession.client.provider import core_of

from .common import QUEUE, Figure, arguments, data_file, gateway, interleaved, show

#: The size of a message body in bytes.
SIZE = 256
TARGET = 8.0


@attrs.frozen
class Sample:
    """One round: sends a second, sends in a commit, and seconds of processor time of a send, by process."""

    rate: float
    shared: float
    work: Mapping[str, float]


@attrs.frozen
class Place:
    """A broker, in this process or behind a gateway.

    Attributes:
        name: Where it is.
        provider: Sends to it.
        commits: Returns how often it has put changes on disk.
        clocks: The processor times of the processes that take part.
        samples: The rounds, by number of threads.
    """

    name: str
    provider: ServiceBusProvider
    commits: Callable[[], int]
    clocks: Mapping[str, Callable[[], float]]
    samples: dict[int, list[Sample]] = attrs.field(factory=dict)

    def measure(self, threads: int, count: int) -> float:
        """Send `count` messages from some threads together. Return the sends a second, and keep the sample."""
        count = count // threads * threads
        start = threading.Barrier(threads + 1)
        workers = [
            threading.Thread(target=self._send, args=(start, number, count // threads), daemon=True)
            for number in range(threads)
        ]
        for worker in workers:
            worker.start()
        before, commits = {name: clock() for name, clock in self.clocks.items()}, self.commits()
        start.wait()
        began = time.perf_counter()
        for worker in workers:
            worker.join()
        rate = count / (time.perf_counter() - began)
        work = {name: (clock() - before[name]) / count for name, clock in self.clocks.items()}
        self.samples.setdefault(threads, []).append(Sample(rate, count / (self.commits() - commits), work))
        return rate

    def _send(self, start: threading.Barrier, number: int, count: int) -> None:
        body = b"x" * SIZE
        start.wait()
        for _ in range(count):
            self.provider.send_messages(QUEUE, [Message(body, session_id=f"s{number}")])

    def figures(self, threads: int) -> Sequence[Figure]:
        """Return the ratio, and the figures that explain it."""
        one, many = self._median(1), self._median(threads)
        ratio, limit = many.rate / one.rate, 1 / one.rate / max(many.work.values())
        title = f"{self.name} ({len(self.samples[1])} rounds)"
        return (
            Figure(
                f"single sends of {SIZE} bytes a second, {title}",
                f"{one.rate:.0f}/s   one thread",
                f"{many.rate:.0f}/s   {threads} threads",
                ratio,
                f"at least {TARGET:g}",
                ratio >= TARGET,
            ),
            Figure(
                f"sends in one commit, and processor time of a send, {title}; the highest possible ratio",
                f"{_shown(one)}; takes {1000 / one.rate:.3f} ms   one thread",
                f"{_shown(many)}   {threads} threads",
                limit,
            ),
        )

    def _median(self, threads: int) -> Sample:
        samples = self.samples[threads]
        work = {name: statistics.median(sample.work[name] for sample in samples) for name in self.clocks}
        rate, shared = (statistics.median(getattr(sample, name) for sample in samples) for name in ("rate", "shared"))
        return Sample(rate, shared, work)


def _shown(sample: Sample) -> str:
    work = ", ".join(f"{1000 * seconds:.3f} ms in the {name}" for name, seconds in sample.work.items())
    return f"{sample.shared:.1f} sends, {work}"


def _inside(provider: ServiceBusProvider) -> Place:
    adapter = core_of(provider).connection.http.adapters[f"{EMBEDDED_URL}/"]
    assert isinstance(adapter, InProcessAdapter)
    broker = adapter.broker
    assert isinstance(broker, EmbeddedBroker)
    return Place("in process", provider, lambda: broker.durable_commits, {"process": time.process_time})


def main() -> None:
    """Measure and print the result."""
    options = arguments("sends", __doc__ or "", rounds=5, threads=16, messages=3200, single=300)
    with (
        data_file() as own_path,
        ServiceBusProvider.embedded(own_path, queues=[QUEUE]) as inside,
        data_file() as path,
        gateway(path) as server,
        server.provider() as outside,
    ):
        clocks = {"client": time.process_time, "gateway": server.cpu}
        places = [_inside(inside), Place("through a gateway", outside, server.commits, clocks)]
        measures = {
            f"{place.name} {threads}": lambda place=place, threads=threads, count=count: place.measure(threads, count)
            for place in places
            for threads, count in ((1, options.single), (options.threads, options.messages))
        }
        for measure in measures.values():
            measure()
        for place in places:
            place.samples.clear()  # Those rounds opened connections and filled caches.
        interleaved(options.rounds, **measures)
    show("sends", [figure for place in places for figure in place.figures(options.threads)])


if __name__ == "__main__":
    main()
