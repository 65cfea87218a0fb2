"""Waiting receives use no thread and little memory each."""

from __future__ import annotations

from contextlib import ExitStack

import psutil

from ..conftest import eventually
from ..server.raw import fresh_id, places_left, read_reply, serving
from .figures import MB

WAITS = 500


def test_five_hundred_waiting_receives_add_at_most_twelve_threads() -> None:
    process = psutil.Process()
    with serving(max_waiting=WAITS) as gateway, ExitStack() as stack:
        queue = gateway.queue()
        gateway.holder(queue, "first").receive()
        threads, memory = process.num_threads(), process.memory_info().rss
        waiting = [stack.enter_context(gateway.holder(queue, f"s{n}", fresh_id()).start_receive(100)) for n in range(WAITS)]
        eventually(lambda: places_left(gateway) == 0)
        assert process.num_threads() <= threads + 12
        # The clients' sockets are part of this process.
        grown = process.memory_info().rss - memory
        print(f"{WAITS} waiting receives: {process.num_threads() - threads} threads, {grown / MB:.1f} MB more")
        assert grown < 40 * MB
        assert gateway.holder(queue, "late", fresh_id()).receive("timeout=60").status == 429
        for number in (0, WAITS // 2, WAITS - 1):
            gateway.send(queue, f"s{number}", str(number))
            assert read_reply(waiting[number]).body == str(number).encode()
        gateway.service.broker.stop_waiting()
        assert read_reply(waiting[1]).status == 204
