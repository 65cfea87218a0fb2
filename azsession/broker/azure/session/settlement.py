"""Settlements as Azure takes them, and their results. `UnsettledMessages` and the broker use them."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import attrs

from .... import amqp
from ....errors import QueueError
from ....protocol.error_codes import CONFLICT
from ...calls import Disposition, Settlement
from ..transport.task import LocalFuture

#: Settlements that are remembered at most, and for how many seconds.
MAX_SETTLED, SETTLED_SECONDS = 100_000, 300.0

#: The values of ``disposition-status`` in Microsoft's "AMQP 1.0 in Azure Service Bus: request-response-based operations".
_STATUSES = {
    Disposition.COMPLETE: "completed",
    Disposition.ABANDON: "abandoned",
    Disposition.DEFER: "defered",  # Azure's spelling.
    Disposition.DEAD_LETTER: "suspended",
    # There is no status for it. Deferring a message that was deferred before changes nothing, and counts no delivery.
    Disposition.RELEASE: "defered",
}


def outcome_of(settlement: Settlement) -> bytes:
    """Return the AMQP outcome of a settlement."""
    if settlement.disposition is Disposition.COMPLETE:
        return amqp.ACCEPTED
    if settlement.disposition is Disposition.ABANDON:
        return amqp.ABANDONED
    if settlement.disposition is Disposition.DEFER:
        return amqp.DEFERRED
    if settlement.disposition is Disposition.RELEASE:
        return amqp.RELEASED
    return amqp.dead_lettered(settlement.reason, settlement.description)


def disposition_body(settlement: Settlement, session_id: str, lock_token: str) -> dict[str, Any]:
    """Return the body of an ``update-disposition`` request; `lock_token` is the one that Azure knows."""
    body: dict[str, Any] = {
        "disposition-status": _STATUSES[settlement.disposition],
        "lock-tokens": amqp.Array([uuid.UUID(lock_token)]),
        "session-id": session_id,
    }
    if settlement.disposition is Disposition.DEAD_LETTER:
        body["deadletter-reason"] = settlement.reason
        body["deadletter-description"] = settlement.description
    return body


class SettlementResults:
    """The results of one call that settles messages: for each `None`, or the protocol's error code.

    Attributes:
        future: Gets all results, or the first `QueueError`, when the last result is there.
    """

    __slots__ = ("_codes", "_error", "_missing", "future")

    def __init__(self, count: int) -> None:
        self.future: LocalFuture[list[str | None]] = LocalFuture()
        self._codes: list[str | None] = [None] * count
        self._missing = count
        self._error: QueueError | None = None
        if count == 0:
            self.future.set_result([])

    def set(self, index: int, code: str | None, error: QueueError | None = None) -> None:
        """Set one result; the last one resolves the future."""
        self._codes[index] = code
        self._error = self._error or error
        self._missing -= 1
        if self._missing == 0:
            if self._error is None:
                self.future.set_result(self._codes)
            else:
                self.future.set_exception(self._error)


@attrs.define(eq=False)
class PendingSettlement:
    """A settlement that Azure has not confirmed.

    Attributes:
        settlement: The settlement.
        callers: The calls that wait for its result, each with the index of its result.
        was_sent: Azure may have it.
    """

    settlement: Settlement
    callers: list[tuple[SettlementResults, int]]
    was_sent: bool = False

    @property
    def abandons(self) -> bool:
        return self.settlement.disposition is Disposition.ABANDON

    @property
    def returns(self) -> bool:
        """Whether the message comes again by the link."""
        return self.settlement.disposition in (Disposition.ABANDON, Disposition.RELEASE)

    def ended(self) -> LocalFuture[None]:
        """Return a future that is done when the settlement has succeeded or failed."""
        ended: LocalFuture[None] = LocalFuture()
        results = SettlementResults(1)
        results.future.add_done_callback(lambda _: ended.set_result(None))
        self.callers.append((results, 0))
        return ended

    def finish(self, code: str | None, error: QueueError | None = None) -> None:
        """Give the result to every caller that waits for it."""
        for results, index in self.callers:
            results.set(index, code, error)


class SettlementHistory:
    """The settlements that Azure confirmed lately, by lock token: the same settlement again succeeds."""

    def __init__(self) -> None:
        self._settled: OrderedDict[str, tuple[Disposition, float]] = OrderedDict()
        #: When old settlements were forgotten last, on the monotonic clock.
        self._cleaned = 0.0

    def add(self, settlements: Iterable[Settlement]) -> None:
        """Remember settlements, and forget the oldest past the limits."""
        now = time.monotonic()
        known: tuple[Disposition, float] | None = None
        for settlement in settlements:
            if known is None or known[0] is not settlement.disposition:
                known = (settlement.disposition, now)  # One object for all messages that were settled together.
            self._settled[settlement.lock_token] = known
        if now < self._cleaned + 1.0 and len(self._settled) <= MAX_SETTLED:
            return
        self._cleaned = now
        while self._settled:
            token, (_, when) = next(iter(self._settled.items()))
            if len(self._settled) <= MAX_SETTLED and now - when < SETTLED_SECONDS:
                break
            del self._settled[token]

    def result_of(self, settlement: Settlement, unknown: str) -> str | None:
        """Return `None` where the message was settled in this way, ``Conflict`` where in another, else `unknown`."""
        known = self._settled.get(settlement.lock_token)
        if known is None:
            return unknown
        return None if known[0] is settlement.disposition else CONFLICT
