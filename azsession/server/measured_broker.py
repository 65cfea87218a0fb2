"""Counts the messages that pass a broker. `metrics` wraps the broker of a gateway with it."""

from __future__ import annotations

import threading
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter

from ..broker.base import Broker
from ..broker.calls import BLOCKING, AcceptRequest, CallContext, Delivery, Disposition, ReceiveRequest, Settled, Settlement
from ..broker.dead_letter_reasons import counted_as
from ..messages import Message, ReceivedMessage

T = TypeVar("T")

#: The dispositions that are counted, and their label values.
DISPOSITIONS = {
    Disposition.COMPLETE: "complete",
    Disposition.ABANDON: "abandon",
    Disposition.DEFER: "defer",
    Disposition.DEAD_LETTER: "dead_letter",
}
#: Entities that are remembered because a request has named them.
MAX_ENTITIES = 1000


class BrokerCounters:
    """The counters of messages, and the entities that requests have used. Thread-safe.

    Args:
        registry: Gets the counters.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sent: Counter = Counter("azsession_messages_sent", "Messages that clients sent or scheduled.", registry=registry)
        self.delivered: Counter = Counter(
            "azsession_messages_delivered", "Messages that clients received.", registry=registry
        )
        settled = Counter("azsession_messages_settled", "Messages that clients settled.", ["disposition"], registry=registry)
        self.settled: dict[Disposition, Counter] = {
            disposition: settled.labels(name) for disposition, name in DISPOSITIONS.items()
        }
        self._lock = threading.Lock()  # Guards changes of the attributes below.
        self._dead_letters: Counts[str] = Counts()
        self._entities: dict[str, None] = {}

    def dead_lettered(self, reason: str | None, count: int = 1) -> None:
        """Count messages that clients dead-lettered."""
        with self._lock:
            self._dead_letters[counted_as(reason)] += count

    def dead_letters(self) -> dict[str, int]:
        """Return how many messages clients dead-lettered, by reason."""
        with self._lock:
            return dict(self._dead_letters)

    def used(self, entity: str) -> None:
        """Remember an entity that exists."""
        if entity not in self._entities:
            with self._lock:
                if len(self._entities) < MAX_ENTITIES:
                    self._entities[entity] = None

    def entities(self) -> list[str]:
        """Return the entities that requests have used, the first `MAX_ENTITIES` of them."""
        with self._lock:
            return list(self._entities)


class _MeasuredBroker:
    """Forwards everything to a broker, and counts the results of some operations."""

    def __init__(self, broker: Broker, counters: BrokerCounters) -> None:
        self._broker = broker
        self._counters = counters

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def _counted(self, future: Future[T], entity: str, count: Callable[[T], object]) -> Future[T]:
        def on_done(done: Future[T]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._counters.used(entity)
                count(done.result())

        future.add_done_callback(on_done)
        return future

    def send(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[None]:
        sent = len(messages)
        future = self._broker.send(entity, messages, request_id, context=context)
        return self._counted(future, entity, lambda _: self._counters.sent.inc(sent))

    def schedule(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[list[int]]:
        future = self._broker.schedule(entity, messages, request_id, context=context)
        return self._counted(future, entity, lambda numbers: self._counters.sent.inc(len(numbers)))

    def receive(self, request: ReceiveRequest, *, context: CallContext = BLOCKING) -> Future[Delivery]:
        future = self._broker.receive(request, context=context)
        return self._counted(future, request.entity, self._delivered_with)

    def accept(self, request: AcceptRequest, *, context: CallContext = BLOCKING) -> Future[Delivery | None]:
        future = self._broker.accept(request, context=context)
        return self._counted(future, request.entity, self._delivered_with)

    def receive_deferred(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        sequence_numbers: Sequence[int],
        *,
        context: CallContext = BLOCKING,
    ) -> Future[list[ReceivedMessage]]:
        future = self._broker.receive_deferred(entity, session_id, lock_id, sequence_numbers, context=context)
        return self._counted(future, entity, self._delivered)

    def _delivered_with(self, delivery: Delivery | None) -> None:
        if delivery is not None:
            self._delivered(delivery.messages)

    def _delivered(self, messages: Sequence[ReceivedMessage]) -> None:
        if messages:
            self._counters.delivered.inc(len(messages))

    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], *, context: CallContext = BLOCKING
    ) -> Future[list[str | None]]:
        future = self._broker.settle(entity, session_id, settlements, context=context)
        return self._counted(future, entity, partial(self._settled, settlements))

    def settle_and_receive(
        self, settlements: Sequence[Settlement], request: ReceiveRequest, *, context: CallContext = BLOCKING
    ) -> Future[Settled]:
        def count(result: Settled) -> None:
            self._settled(settlements, result.codes)
            self._delivered_with(result.delivery)

        future = self._broker.settle_and_receive(settlements, request, context=context)
        return self._counted(future, request.entity, count)

    def release(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        settlements: Sequence[Settlement] = (),
        *,
        context: CallContext = BLOCKING,
    ) -> Future[Sequence[str | None]]:
        future = self._broker.release(entity, session_id, lock_id, settlements, context=context)
        return self._counted(future, entity, partial(self._settled, settlements)) if settlements else future

    def _settled(self, settlements: Sequence[Settlement], codes: Sequence[str | None]) -> None:
        for settlement, code in zip(settlements, codes, strict=True):
            counter = self._counters.settled.get(settlement.disposition)
            if code is None and counter is not None:
                counter.inc()
                if settlement.disposition is Disposition.DEAD_LETTER:
                    self._counters.dead_lettered(settlement.reason)

    def dead_letter_session(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        reason: str,
        description: str | None,
        request_id: str = "",
        *,
        context: CallContext = BLOCKING,
    ) -> Future[int]:
        future = self._broker.dead_letter_session(
            entity, session_id, lock_id, reason, description, request_id, context=context
        )

        def count(moved: int) -> None:
            self._counters.settled[Disposition.DEAD_LETTER].inc(moved)
            self._counters.dead_lettered(reason, moved)

        return self._counted(future, entity, count)


def measured(broker: Broker, counters: BrokerCounters) -> Broker:
    """Return the broker with counters around it."""
    # Everything that is not counted is forwarded, also what only one kind of broker has.
    return cast("Broker", _MeasuredBroker(broker, counters))
