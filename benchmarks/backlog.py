"""The time of receive + complete, and of accepting the next session, with a thousand to a million messages in the queue.

A data file is filled for each size. All sizes are measured in turn, through the broker in this process, and through HTTP with
a gateway in its own process. The peak memory of the gateways is shown.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import attrs

from azsession import Message, NoSessionAvailableError, QueueSettings
from azsession.broker.calls import AcceptRequest, Disposition, ReceiveRequest, Settlement
from azsession.broker.embedded import EmbeddedBroker

from .common import QUEUE, Figure, Gateway, arguments, data_file, gateway, show

#: The size of a message body in bytes.
SIZE = 256
#: The memory limit of the gateway in bytes.
MEMORY = 200 * 1024 * 1024

#: The measured work: receive + complete of a session, which returns its seconds, and accept + release.
_Work = tuple[Callable[[str], float], Callable[[], None]]


@attrs.define
class Times:
    """Seconds of one receive + complete, and of one accept + release, for one size of the backlog."""

    size: int
    in_process: dict[str, list[float]] = attrs.field(factory=lambda: {"settle": [], "accept": []})
    over_http: dict[str, list[float]] = attrs.field(factory=lambda: {"settle": [], "accept": []})
    memory: int = 0


def _fill(path: Path, count: int, sessions: int) -> None:
    body = b"x" * SIZE
    names = itertools.cycle(f"s-{number}" for number in range(min(sessions, count)))
    with EmbeddedBroker(path) as broker:
        broker.create_queue(QUEUE, QueueSettings(lock_duration=300)).result()
        for start in range(0, count, 1000):
            part = range(start, min(count, start + 1000))
            broker.send(QUEUE, [Message(body, session_id=next(names)) for _ in part]).result()


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _in_turns(found: list[Times], options: argparse.Namespace, where: str, first: int, work: list[_Work]) -> None:
    """Measure all sizes in turn, so that a slow moment of the machine affects all alike."""
    for number in range(first, first + options.operations):
        for times, (take, accept) in zip(found, work, strict=True):
            kept = getattr(times, where)
            kept["settle"].append(take(f"s-{number}"))
            kept["accept"].append(_timed(accept))


def _through_broker(path: Path, stack: ExitStack) -> _Work:
    broker = stack.enter_context(EmbeddedBroker(path))

    def complete_one(session_id: str) -> None:
        found = broker.receive(ReceiveRequest(QUEUE, session_id, "", max_count=1, timeout=0)).result()
        token = found.messages[0].receipt.handle
        assert broker.settle(QUEUE, session_id, [Settlement(token, Disposition.COMPLETE)]).result() == [None]

    def accept() -> None:
        lock_id = str(uuid.uuid4())
        found = broker.accept(AcceptRequest(QUEUE, None, lock_id, timeout=0)).result()
        assert found is not None
        broker.release(QUEUE, found.session_id, lock_id).result()

    # These sessions are not measured. They fill the caches.
    for number in range(20):
        complete_one(f"s-{number}")
        accept()
    return lambda session_id: _timed(lambda: complete_one(session_id)), accept


def _through_http(server: Gateway, stack: ExitStack) -> _Work:
    provider = stack.enter_context(server.provider())

    def take(session_id: str) -> float:
        with provider.create_session_client(QUEUE, session_id, auto_renew=False) as session:

            def complete_one() -> None:
                message = session.receive_message(0)
                assert message is not None
                session.complete_message(message)

            return _timed(complete_one)

    def accept() -> None:
        try:
            session = provider.create_session_client(QUEUE, accept_timeout=0, auto_renew=False)
        except NoSessionAvailableError:
            raise SystemExit("the backlog has no session left") from None
        session.close()

    take("s-20")
    accept()
    return take, accept


def _ratio(found: list[Times], pick: Callable[[Times], list[float]]) -> float:
    medians = [statistics.median(pick(times)) for times in found]
    return max(medians) / medians[0]


def main() -> None:
    """Measure and print the result."""
    options = arguments("backlog", __doc__ or "", largest=1_000_000, sessions=100_000, operations=200)
    sizes = [size for size in (1_000, 100_000, 1_000_000) if size <= options.largest]
    found = [Times(size) for size in sizes]
    with ExitStack() as files:
        paths = [files.enter_context(data_file()) for _ in sizes]
        for path, size in zip(paths, sizes, strict=True):
            took = _timed(lambda path=path, size=size: _fill(path, size, options.sessions))  # type: ignore[misc]
            print(f"{size} messages sent in {took:.0f} s", flush=True)
        # Otherwise the file that was filled last would be measured while the system writes it.
        os.sync()
        with ExitStack() as stack:
            _in_turns(found, options, "in_process", 30, [_through_broker(path, stack) for path in paths])
        with ExitStack() as stack:
            servers = [stack.enter_context(gateway(path)) for path in paths]
            first = 30 + options.operations
            _in_turns(found, options, "over_http", first, [_through_http(server, stack) for server in servers])
            for times, server in zip(found, servers, strict=True):
                times.memory = server.peak_memory()
    figures = []
    for what, name in (("receive + complete", "settle"), ("accept the next session + release", "accept")):
        for where in ("in_process", "over_http"):

            def pick(times: Times, where: str = where, name: str = name) -> list[float]:
                return getattr(times, where)[name]  # type: ignore[no-any-return]

            ratio = _ratio(found, pick)
            shown = [f"{statistics.median(pick(times)) * 1e3:.2f} ms at {times.size}" for times in found]
            where_shown = "through the broker" if where == "in_process" else "over HTTP"
            figures.append(
                Figure(f"{what}, {where_shown}", shown[0], ", ".join(shown[1:]), ratio, "at most 1.5", ratio <= 1.5)
            )
    shown = [f"{times.memory / 2**20:.0f} MB at {times.size}" for times in found]
    most = max(times.memory for times in found)
    figures.append(
        Figure(
            "memory of the gateway's process, at its peak",
            shown[0],
            ", ".join(shown[1:]),
            None,
            "under 200 MB",
            most < MEMORY,
        )
    )
    show("backlog", figures)


if __name__ == "__main__":
    main()
