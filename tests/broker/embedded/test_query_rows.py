"""The results of queries end without code of the package, in which Python would ignore an exception of a signal handler."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FrameType

import pytest

from azsession import Message
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.database_file import ACTIVE
from azsession.broker.embedded.queue_rows import QueueRows
from azsession.broker.embedded.store import Store

QUERIES: dict[str, Callable[[Store, int, int], Iterable[object]]] = {
    "active_after": lambda store, session, _: store.active_after(session, -1),
    "of_status": lambda store, session, _: store.of_status(session, ACTIVE, 0),
    "free_sessions": lambda store, _, queue: store.free_sessions(queue),
    "expired": lambda store, *_: store.expired(1e12),
    "expired_in": lambda store, session, _: store.expired_in(session, 1e12),
    "dead": lambda store, _, queue: store.dead(queue, 0),
    "messages": lambda store, *_: QueueRows(store._connection).messages(_all_keys(store)),
}


def _all_keys(store: Store) -> list[int]:
    return [key for (key,) in store._run("SELECT key FROM messages")]


@pytest.mark.parametrize("name", list(QUERIES))
def test_results_that_an_interrupt_left_end_without_code(name: str) -> None:
    broker = EmbeddedBroker(auto_create=True)
    try:
        messages = [Message(str(number), session_id="s", time_to_live=1000) for number in range(3)]
        broker.send("q", messages).result(20)
        store = broker._core.store
        session, queue = store._run("SELECT id, queue FROM sessions").fetchone()
        if name == "dead":
            store._run("UPDATE messages SET status = 3")
        results = QUERIES[name](store, session, queue)
        iterator = iter(results)
        assert next(iterator) is not None
        ran: list[str] = []

        def note(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code is not note.__code__:
                ran.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")

        sys.setprofile(note)
        try:
            del results, iterator
        finally:
            sys.setprofile(None)
        assert ran == []
    finally:
        broker.close()
