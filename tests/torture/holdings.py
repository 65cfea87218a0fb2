"""Who held which session, and which messages were delivered, according to a history."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

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
#: Seconds by which a lock on Azure can have been granted later than its client reckons: the time that the broker allows for
#: the way of the answer (`ANSWER_MARGIN` in `azsession.broker.azure.session.lock_timer`), and a little for its caution.
GRANT_DOUBT = 0.75


@attrs.frozen
class Delivery:
    """A message that was delivered to a holder.

    Attributes:
        message: Its id.
        sequence: Its sequence number.
        count: Its delivery count.
        receive: The operation that returned the message.
        since: When the request that fetched the message began, at the earliest.
    """

    message: str
    sequence: int
    count: int
    receive: Operation
    since: float


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


def find_deliveries(history: History, grant_doubt: float = 0.0) -> dict[int, list[Delivery]]:
    """Return the deliveries of each message in their order, by sequence number.

    Args:
        history: The history.
        grant_doubt: Seconds by which a lock can have been granted later than its client reckons.
    """
    found: dict[int, list[Delivery]] = defaultdict(list)
    fetched: dict[str, float] = {}
    for one in history.operations:
        if one.name == "receive" or one.fetches:
            # An accept can wait for long until another holder releases the session.
            granted = one.result.get("granted")
            fetched[one.holder] = one.begin if granted is None else min(one.end, max(one.begin, granted + grant_doubt))
        if one.name in RECEIVING and one.outcome == OK:
            since = fetched.get(one.holder, one.begin) if one.name == "receive_ahead" else one.begin
            for message, sequence, count in one.result["messages"]:
                found[sequence].append(Delivery(message, sequence, count, one, since))
    for each in found.values():
        each.sort(key=lambda delivery: delivery.since)
    return found


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
