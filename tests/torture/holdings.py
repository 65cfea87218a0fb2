"""Who held which session, and which messages were delivered, according to a history."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable

import attrs

from .history import OK, History, Operation

#: Operations that remove a message from the order of its session.
FINAL = ("complete", "dead_letter", "defer")
#: Operations that settle messages. For some time, a repeated settlement is confirmed again.
SETTLING = (*FINAL, "abandon")
#: Operations that only the holder of a session gets confirmed.
HOLDING = ("receive", "receive_deferred", *SETTLING, "set_state", "get_state", "renew")
#: Operations that return messages. ``receive_ahead`` returns a message that was fetched ahead, without a request.
RECEIVING = ("receive", "receive_deferred", "receive_ahead")

NEVER = float("inf")


@attrs.frozen
class Delivery:
    """A message that was delivered to a holder.

    Attributes:
        message: Its id.
        sequence: Its sequence number.
        count: Its delivery count.
        receive: The operation that returned the message.
        since: When the message came to the holder, at the earliest.
        until: When it came, at the latest: the end of the request that fetched it.
    """

    message: str
    sequence: int
    count: int
    receive: Operation
    since: float
    until: float

    def may_come_before(self, other: Delivery) -> bool:
        """Return whether this delivery can have come before one whose latest time is earlier."""
        return self.since <= other.until


@attrs.frozen
class Holding:
    """The operations of one session client, and how it stopped holding its session. A time can be `NEVER`.

    Attributes:
        name: The name of the session client.
        session: The session.
        operations: Its operations, by their begin.
        closed: When the client began to close the session.
        lock_until: The time until which the client had its lock, as it knew when it closed the session.
        lost: When the client lost its lock. If it reported that after the expiry, this is the time of the expiry.
        killed: When its process was killed.
    """

    name: str
    session: str
    operations: list[Operation]
    closed: float = NEVER
    lock_until: float = NEVER
    lost: float = NEVER
    killed: float = NEVER

    @property
    def ended(self) -> float:
        """The time from which another holder may have the session.

        A client that closes its session reports no lost lock any more, although its lock may have expired before, for example
        while its process was paused. The server never ends a lock before the client's own time for it.
        """
        return min(self.closed, self.lock_until, self.lost, self.killed)


def find_deliveries(history: History) -> dict[int, list[Delivery]]:
    """Return the deliveries of each message by sequence number, in the order of the latest times at which they came."""
    found: dict[int, list[Delivery]] = defaultdict(list)
    fetched: dict[str, tuple[float, float]] = {}
    for one in history.operations:
        if one.name == "receive" or one.fetches:
            # An accept can wait for long until another holder releases the session. Its client reckons that the lock was
            # granted earlier than it was, by the time for which the request was on its way.
            fetched[one.holder] = min(one.end, max(one.begin, one.result.get("granted", one.begin))), one.end
        if one.name in RECEIVING and one.outcome == OK:
            own = one.begin, one.end
            since, until = fetched.get(one.holder, own) if one.name == "receive_ahead" else own
            for message, sequence, count in one.result["messages"]:
                found[sequence].append(Delivery(message, sequence, count, one, since, until))
    for each in found.values():
        each.sort(key=lambda delivery: delivery.until)
    return found


def put_in_order(deliveries: list[Delivery], is_reversed: Callable[[Delivery, Delivery], bool]) -> None:
    """Move each delivery in front of its neighbour, and of the next one, as long as `is_reversed` is true for the two."""
    for last in range(1, len(deliveries)):
        at = last
        while at and is_reversed(deliveries[at - 1], deliveries[at]):
            deliveries[at - 1 : at + 1] = deliveries[at], deliveries[at - 1]
            at -= 1


def find_settlings(history: History) -> dict[int, list[Operation]]:
    """Return the operations that settle each message, by sequence number."""
    found: dict[int, list[Operation]] = defaultdict(list)
    for one in history.operations:
        for sequence in one.about.get("sequences", ()):
            found[sequence].append(one)
    return found


def find_holdings(history: History) -> dict[str, Holding]:
    """Return the holdings by the names of their session clients."""
    lost = {
        event.fields["holder"]: event.at + min(0.0, event.fields["left"])
        for event in reversed(history.events)
        if event.name == "lost"
    }
    killed = {event.fields["victim"]: event.at for event in history.events if event.name == "killed"}
    operations: dict[str, list[Operation]] = defaultdict(list)
    for one in history.operations:
        if one.holder:
            operations[one.holder].append(one)
    found = {}
    for name, own in operations.items():
        session = next((one.session for one in own if one.session and one.outcome == OK), "")
        close = next((one for one in own if one.name == "close"), None)
        found[name] = Holding(
            name,
            session,
            own,
            NEVER if close is None else close.begin,
            NEVER if close is None else close.about.get("lock_until", NEVER),
            lost.get(name, NEVER),
            killed.get(own[0].process, NEVER),
        )
    return found


def is_any_in(instants: list[float], began: float, ended: float) -> bool:
    """Return whether one of the sorted `instants` is between two times."""
    at = bisect_left(instants, began)
    return at < len(instants) and instants[at] <= ended
