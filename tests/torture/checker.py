"""Decides whether a history keeps azsession's promises. `check` returns what breaks them, a line for each; none is good.

Nothing that was accepted is lost, and nothing is invented; a session has one holder at a time; its messages are completed in
the order in which they were accepted; a message is delivered again only if its holder lost it.

A history has, of senders, ``send`` (with the ids of the messages, in order); of consumers, under the name of one session
client each, ``accept``, ``receive`` and ``receive_deferred`` (which gave messages: id, sequence number, delivery count),
``complete``, ``abandon``, ``defer`` and ``dead_letter`` (of sequence numbers), ``set_state``, ``get_state``, ``renew`` and
``close``; of the scene, events: ``killed`` processes, ``gateway-down``, ``link-down`` between the gateway and Azure, and
``left``, what was in the queue at the end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import attrs

from .history import FAILED, OK, UNKNOWN, Event, History, Operation

#: What takes a message out of its session's order for good.
FINAL = ("complete", "dead_letter", "defer")
#: What settles messages: the same again is confirmed for a while.
SETTLING = (*FINAL, "abandon")
#: What only the holder of a session gets confirmed.
HOLDING = ("receive", "receive_deferred", *SETTLING, "set_state", "get_state", "renew")
#: What gives messages. The last kind gives what was fetched ahead, without asking the gateway.
RECEIVING = ("receive", "receive_deferred", "receive_ahead")


@attrs.frozen
class Rules:
    """What a broker promises.

    Attributes:
        doubled_sends: A send that was under way while the gateway was killed may come twice, as in front of Azure.
        counts_all: Every delivery is counted; on Azure not one that was released, as by the end of its link.
        locks_outlast: Nobody but the holder, the clock and the end of the gateway ends a lock. On Azure a lost link does.
    """

    doubled_sends: bool = False
    locks_outlast: bool = True
    counts_all: bool = True


@attrs.frozen
class Violation:
    """A promise that was broken."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@attrs.frozen
class _Delivery:
    """A message in a holder's hands."""

    message: str
    sequence: int
    count: int
    receive: Operation


@attrs.frozen
class _Holding:
    """One session client: what it did in its session, and when its hold ended."""

    name: str
    session: str
    operations: list[Operation]
    ended: float


def check(history: History, rules: Rules | None = None) -> list[Violation]:
    """Return every violation of the promises in a history."""
    return list(_Check(history, rules or Rules()).run())


class _Check:
    def __init__(self, history: History, rules: Rules) -> None:
        self._rules = rules
        self._operations = history.operations
        self._events = history.events
        self._sends = [one for one in history.operations if one.name == "send"]
        self._deliveries: dict[int, list[_Delivery]] = defaultdict(list)
        self._settlings: dict[int, list[Operation]] = defaultdict(list)
        self._left: dict[int, Event] = {}
        self._copies: dict[str, set[int]] = defaultdict(set)
        self._session_of: dict[int, str] = {}
        self._downs = [event.at for event in history.events if event.what == "gateway-down"]
        self._link_downs = [event.at for event in history.events if event.what == "link-down"]
        self._lost = {event.fields["holder"]: event.at for event in reversed(history.events) if event.what == "lost"}
        self._killed = {event.fields["whom"]: event.at for event in history.events if event.what == "killed"}
        for one in history.operations:
            if one.name in RECEIVING and one.outcome == OK:
                for message, sequence, count in one.result["messages"]:
                    self._deliveries[sequence].append(_Delivery(message, sequence, count, one))
                    self._copies[message].add(sequence)
                    self._session_of[sequence] = one.session
            for sequence in one.about.get("sequences", ()):
                self._settlings[sequence].append(one)
        for event in history.events:
            if event.what == "left":
                for message, sequence, _ in event.fields["messages"]:
                    self._left[sequence] = event
                    self._copies[message].add(sequence)
                    self._session_of[sequence] = event.fields["session"]

    def run(self) -> Iterator[Violation]:
        yield from self._lost_or_invented()
        yield from self._accepted_order()
        yield from self._completed_order()
        yield from self._two_holders()
        yield from self._redeliveries()
        yield from self._states()
        yield from self._losses()

    # Nothing lost, nothing invented, nothing doubled

    def _lost_or_invented(self) -> Iterator[Violation]:
        sent: dict[str, Operation] = {}
        for send in self._sends:
            sent.update(dict.fromkeys(send.about["ids"], send))
        for message, send in sent.items():
            copies = self._copies.get(message, set())
            if send.outcome == OK and not copies:
                yield Violation("lost", f"{message} of {send.session} was accepted, and never seen again")
            if send.outcome == FAILED and copies:
                yield Violation("invented", f"{message} of {send.session} was refused, and is there")
            if len(copies) > 1 and not (self._rules.doubled_sends and self._down_in(send.begin, send.end)):
                yield Violation("doubled", f"{message} of {send.session} was accepted as {sorted(copies)}")
            for sequence in copies:
                yield from self._kept(message, sequence, send)
        for message, copies in self._copies.items():
            if message not in sent:
                yield Violation("invented", f"{message}, number {min(copies)}, was never sent")

    def _kept(self, message: str, sequence: int, send: Operation) -> Iterator[Violation]:
        if self._session_of[sequence] != send.session:
            yield Violation("misplaced", f"{message} was sent to {send.session}, and is in {self._session_of[sequence]}")
        settlings = self._settlings.get(sequence, [])
        gone = [one for one in settlings if one.name == "complete" and one.may_have_acted]
        if sequence not in self._left:
            # Deferred ones and dead letters are among what is left.
            if not gone:
                yield Violation("lost", f"{message}, number {sequence} of {send.session}, is gone, and nobody completed it")
            return
        if any(one.outcome == OK for one in gone):
            yield Violation("undone", f"{message}, number {sequence} of {send.session}, was completed, and is there")
        left = self._left[sequence].fields
        if left["where"] == "active" or any(one.name != "abandon" and one.may_have_acted for one in settlings):
            return
        count = next(count for _, number, count in left["messages"] if number == sequence)
        if left["where"] != "dead" or count < left["max_delivery_count"]:
            yield Violation("misplaced", f"{message}, number {sequence}, is {left['where']}, and nobody put it there")

    # Order

    def _accepted_order(self) -> Iterator[Violation]:
        """Whoever was answered before another asked is in front of it; and a request's messages stay in its order."""
        by_session: dict[str, list[tuple[Operation, list[int]]]] = defaultdict(list)
        for send in self._sends:
            numbers = [min(self._copies[message]) for message in send.about["ids"] if message in self._copies]
            if numbers != sorted(numbers) and not self._rules.doubled_sends:
                yield Violation("misordered", f"the messages of one send to {send.session} have the numbers {numbers}")
            if numbers and send.outcome == OK:
                by_session[send.session].append((send, numbers))
        for session, sends in by_session.items():
            ended = sorted(sends, key=lambda one: one[0].end)
            highest, at = -1, 0
            for send, numbers in sorted(sends, key=lambda one: one[0].begin):
                while at < len(ended) and ended[at][0].end < send.begin:
                    highest = max(highest, *ended[at][1])
                    at += 1
                if min(numbers) < highest:
                    yield Violation("misordered", f"{session}: number {min(numbers)} was sent after {highest} was accepted")

    def _completed_order(self) -> Iterator[Violation]:
        """A message is settled for good only when all before it are, or are on their way to be."""
        first: dict[str, list[tuple[int, float, Operation | None]]] = defaultdict(list)
        for sequence, session in self._session_of.items():
            final = [one for one in self._settlings.get(sequence, []) if one.name in FINAL and one.may_have_acted]
            if final:
                first[session].append((sequence, final[0].begin, final[0]))
            elif sequence in self._left and self._left[sequence].fields["where"] == "active":
                first[session].append((sequence, float("inf"), None))
        for session, settled in first.items():
            latest, begun = -1, 0.0
            for sequence, at, settling in sorted(settled, key=lambda one: one[0]):
                if settling is not None and settling.outcome == OK and settling.end < begun:
                    yield Violation(
                        "misordered",
                        f"{session}: {settling.holder} had {settling.name} of {sequence} confirmed before {latest}",
                    )
                if at > begun:
                    latest, begun = sequence, at

    # One holder

    @cached_property
    def _holdings(self) -> dict[str, _Holding]:
        operations: dict[str, list[Operation]] = defaultdict(list)
        for one in self._operations:
            if one.holder:
                operations[one.holder].append(one)
        holdings = {}
        for name, own in operations.items():
            session = next((one.session for one in own if one.session and one.outcome == OK), "")
            ends = [one.begin for one in own if one.name == "close"]
            ends += [at for at in (self._lost.get(name), self._killed.get(own[0].process)) if at is not None]
            holdings[name] = _Holding(name, session, own, min(ends, default=float("inf")))
        return holdings

    def _two_holders(self) -> Iterator[Violation]:
        """Nothing is confirmed to a holder after something was to another one: a lock that was lost does not come back.

        What was confirmed took effect between its begin and its end: only what surely came before or after counts.
        """
        by_session: dict[str, list[Operation]] = defaultdict(list)
        for holding in self._holdings.values():
            confirmed = [one for one in holding.operations if one.outcome == OK and one.name in ("accept", *HOLDING)]
            by_session[holding.session] += [one for one in confirmed if not _was_tried(one, holding.operations)]
        for session, operations in by_session.items():
            operations.sort(key=lambda one: one.begin)
            own: dict[str, list[Operation]] = defaultdict(list)
            for one in operations:
                own[one.holder].append(one)
            begins = [one.begin for one in operations]
            for name, confirmed in own.items():
                held_at = min(one.end for one in confirmed)
                taken: Operation | None = None
                for other in operations[bisect_right(begins, held_at) :]:
                    if taken is not None and other.begin > taken.end:
                        break
                    if other.holder != name and (taken is None or other.end < taken.end):
                        taken = other
                for one in confirmed:
                    if taken is not None and one.begin > taken.end:
                        yield Violation(
                            "two holders",
                            f"{session}: {one.name} of {name} was confirmed after {taken.name} of {taken.holder} was",
                        )

    # Deliveries

    def _redeliveries(self) -> Iterator[Violation]:
        holdings = self._holdings
        for sequence, deliveries in self._deliveries.items():
            deliveries.sort(key=lambda one: one.receive.begin)
            settlings = self._settlings.get(sequence, [])
            for before, after in pairwise(deliveries):
                name = f"number {sequence} of {after.receive.session}"
                if after.count < before.count + self._rules.counts_all:
                    yield Violation("count", f"{name} was delivered as its {before.count}., and then as its {after.count}.")
                if not self._is_explained(before, after, settlings, holdings):
                    yield Violation(
                        "duplicate",
                        f"{name} was given to {before.receive.holder}, and again to {after.receive.holder}, without cause",
                    )
            done = next((one for one in settlings if one.name == "complete" and one.outcome == OK), None)
            for delivery in deliveries:
                if done is not None and delivery.receive.begin > done.end and delivery.receive.name != "receive_ahead":
                    yield Violation("undone", f"number {sequence} was completed, and then given to {delivery.receive.holder}")

    def _is_explained(
        self, before: _Delivery, after: _Delivery, settlings: list[Operation], holdings: dict[str, _Holding]
    ) -> bool:
        began, ended = before.receive.begin, after.receive.end
        if self._down_in(began, ended) or _is_any_in(self._link_downs, began, ended):
            return True
        if any(one.name in ("abandon", "defer") and one.may_have_acted and began <= one.begin <= ended for one in settlings):
            return True
        holder = holdings[before.receive.holder]
        # Whose lock the server ended hears of it only with its next call.
        return before.receive.holder != after.receive.holder and (holder.ended <= ended or holder.name in self._lost)

    def _down_in(self, began: float, ended: float) -> bool:
        return _is_any_in(self._downs, began, ended)

    # The session's state, and locks

    def _states(self) -> Iterator[Violation]:
        """A state that is read was the last one set, or one whose setting nobody saw fail."""
        sets: dict[str, list[Operation]] = defaultdict(list)
        for one in self._operations:
            if one.name == "set_state" and one.may_have_acted:
                sets[one.session].append(one)
        for one in self._operations:
            if one.name != "get_state" or one.outcome != OK:
                continue
            confirmed = [each for each in sets[one.session] if each.outcome == OK and each.end < one.begin]
            last = max(confirmed, key=lambda each: each.begin, default=None)
            possible = {each.about["value"] for each in sets[one.session] if last is None or each.end >= last.begin}
            if last is None:
                possible.add(None)
            if one.result["value"] not in possible:
                yield Violation("state", f"{one.session}: {one.holder} read {one.result['value']!r}, which is not the last")

    def _losses(self) -> Iterator[Violation]:
        """A lock that a holder believed in is not taken away by the server without cause."""
        if not self._rules.locks_outlast:
            return
        holdings = self._holdings
        for event in self._events:
            if event.what != "lost" or event.fields["left"] <= 0:
                continue
            holding = holdings[event.fields["holder"]]
            began = holding.operations[0].begin
            if not self._down_in(began, event.at) and not any(one.name == "close" for one in holding.operations):
                yield Violation(
                    "lock taken", f"{holding.session}: {holding.name} lost its lock with {event.fields['left']:.2f} s left"
                )


def _is_any_in(instants: list[float], began: float, ended: float) -> bool:
    at = bisect_left(instants, began)
    return at < len(instants) and instants[at] <= ended


def _was_tried(one: Operation, own: list[Operation]) -> bool:
    """Tell whether an operation repeats one whose outcome was unknown: its confirmation may be of the earlier one."""
    return one.name in SETTLING and any(
        each.name == one.name and each.outcome == UNKNOWN and each.begin < one.begin and each.about == one.about
        for each in own
    )
