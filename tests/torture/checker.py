"""Checks whether a history keeps azsession's guarantees. `check` returns the violations.

The guarantees: no accepted message is lost, and none is invented. A session has one holder at a time. The messages of a
session are completed in the order in which they were accepted. A message is delivered again only if its holder lost it. The
delivery counts are right.

A history contains these operations and events:

* of senders: ``send``, with the ids of the messages in order;
* of consumers: ``accept`` (with the time of the grant), ``receive``, ``receive_ahead`` and ``receive_deferred`` (with the
  received messages: id, sequence number, delivery count), ``complete``, ``abandon``, ``defer`` and ``dead_letter`` (with
  sequence numbers; an ``abandon`` also with its delay), all of these with the number of messages that they may fetch, if they
  fetch messages ahead; ``set_state``, ``get_state``,
  ``renew`` and ``close`` (with the time until which the client had its lock), each under the name of a session client;
* of the scene: the events ``killed`` (a process; recorded just before), ``gateway-down`` (recorded before and after; how it
  went down: killed or ended), ``link-down`` (between the gateway and Azure), and ``left`` (the messages in the queue at the
  end, dead letters with their reason).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from .counts import EXCEEDED, DeliveryCounts
from .history import FAILED, OK, UNKNOWN, Event, History, Operation
from .holdings import (
    FINAL,
    HOLDING,
    NEVER,
    SETTLING,
    Delivery,
    find_deliveries,
    find_holdings,
    find_settlings,
    is_any_in,
    put_in_order,
)
from .rules import Rules, Violation


def check(history: History, rules: Rules | None = None) -> list[Violation]:
    """Return all violations in a history."""
    return list(_Check(history, rules or Rules()).run())


class _Check:
    def __init__(self, history: History, rules: Rules) -> None:
        self._rules = rules
        self._history = history
        self._operations = history.operations
        self._events = history.events
        self._sends = [one for one in history.operations if one.name == "send"]
        self._deliveries = find_deliveries(history)
        self._settlings = find_settlings(history)
        self._holdings = find_holdings(history)
        self._left: dict[int, Event] = {}
        self._copies: dict[str, set[int]] = defaultdict(set)
        self._session_of: dict[int, str] = {}
        self._downs = [event.at for event in history.events if event.name == "gateway-down"]
        self._link_downs = [event.at for event in history.events if event.name == "link-down"]
        for sequence, delivered in self._deliveries.items():
            put_in_order(delivered, self._is_reversed)
            for delivery in delivered:
                self._copies[delivery.message].add(sequence)
                self._session_of[sequence] = delivery.receive.session
        for event in history.events:
            if event.name == "left":
                for message, sequence, *_ in event.fields["messages"]:
                    self._left[sequence] = event
                    self._copies[message].add(sequence)
                    self._session_of[sequence] = event.fields["session"]

    def run(self) -> Iterator[Violation]:
        yield from self._lost_or_invented()
        yield from self._accepted_order()
        yield from self._completed_order()
        yield from self._two_holders()
        yield from self._redeliveries()
        yield from DeliveryCounts(self._history, self._rules, self._deliveries, self._settlings, self._holdings).violations()
        yield from self._delays()
        yield from self._states()
        yield from self._taken_locks()

    # Lost, invented and doubled messages

    def _lost_or_invented(self) -> Iterator[Violation]:
        sent: dict[str, Operation] = {}
        for send in self._sends:
            sent.update(dict.fromkeys(send.about["ids"], send))
        for message, send in sent.items():
            copies = self._copies.get(message, set())
            if send.outcome == OK and not copies:
                yield Violation("lost", f"{message} of {send.session} was accepted, but was never seen again")
            if send.outcome == FAILED and copies:
                yield Violation("invented", f"{message} of {send.session} was refused, but exists")
            if len(copies) > 1 and not (self._rules.doubled_sends and self._down_in(send.begin, send.end)):
                yield Violation("doubled", f"{message} of {send.session} was stored as {sorted(copies)}")
            for sequence in copies:
                yield from self._kept(message, sequence, send)
        for message, copies in self._copies.items():
            if message not in sent:
                yield Violation("invented", f"{message}, number {min(copies)}, was not sent")

    def _kept(self, message: str, sequence: int, send: Operation) -> Iterator[Violation]:
        if self._session_of[sequence] != send.session:
            yield Violation("misplaced", f"{message} was sent to {send.session}, but is in {self._session_of[sequence]}")
        settlings = self._settlings.get(sequence, [])
        gone = [one for one in settlings if one.name == "complete" and one.may_have_acted]
        if sequence not in self._left:
            # `_left` includes deferred messages and dead letters.
            if not gone:
                yield Violation("lost", f"{message}, number {sequence} of {send.session}, is gone, but was not completed")
            return
        if any(one.outcome == OK for one in gone):
            yield Violation("undone", f"{message}, number {sequence} of {send.session}, was completed, but still exists")
        left = self._left[sequence].fields
        if left["where"] == "active" or any(one.name != "abandon" and one.may_have_acted for one in settlings):
            return
        reason = next(reason for _, number, _, reason in left["messages"] if number == sequence)
        if left["where"] != "dead" or reason != EXCEEDED:
            yield Violation("misplaced", f"{message}, number {sequence}, is {left['where']}, but no operation moved it there")

    # Order

    def _accepted_order(self) -> Iterator[Violation]:
        """A send confirmed before another send began is stored before it. The messages of one send keep their order."""
        by_session: dict[str, list[tuple[Operation, list[int]]]] = defaultdict(list)
        for send in self._sends:
            numbers = [min(self._copies[message]) for message in send.about["ids"] if message in self._copies]
            if numbers != sorted(numbers) and not self._rules.doubled_sends:
                yield Violation("misordered", f"one send to {send.session} was stored with the sequence numbers {numbers}")
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
        """A message is settled only when all earlier messages are settled or are being settled.

        The failure that dead-letters a message at its limit has no time here. Settlements of it came later, without effect.
        """
        first: dict[str, list[tuple[int, float, Operation | None]]] = defaultdict(list)
        for sequence, session in self._session_of.items():
            final = [one for one in self._settlings.get(sequence, []) if one.name in FINAL and one.may_have_acted]
            if final and not self._is_exceeded(sequence):
                first[session].append((sequence, final[0].begin, final[0]))
            elif sequence in self._left and self._left[sequence].fields["where"] == "active":
                first[session].append((sequence, float("inf"), None))
        for session, settled in first.items():
            latest, begun = -1, 0.0
            for sequence, at, settling in sorted(settled, key=lambda one: one[0]):
                if settling is not None and settling.outcome == OK and settling.end < begun:
                    yield Violation(
                        "misordered",
                        f"{session}: {settling.holder} settled {sequence} ({settling.name}) before {latest} was settled",
                    )
                if at > begun:
                    latest, begun = sequence, at

    def _is_exceeded(self, sequence: int) -> bool:
        """Tell whether a message was dead-lettered because too many deliveries failed."""
        left = self._left.get(sequence)
        return left is not None and any(each[1] == sequence and each[3] == EXCEEDED for each in left.fields["messages"])

    # One holder

    def _two_holders(self) -> Iterator[Violation]:
        """After an operation of one holder was confirmed, no operation of the previous holder is confirmed.

        An operation took effect between its begin and its end, so only operations that cannot overlap are compared.
        """
        by_session: dict[str, list[Operation]] = defaultdict(list)
        for holding in self._holdings.values():
            confirmed = [one for one in holding.operations if one.outcome == OK and one.name in ("accept", *HOLDING)]
            by_session[holding.session] += [one for one in confirmed if not _is_retry(one, holding.operations)]
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
        for sequence, deliveries in self._deliveries.items():
            settlings = self._settlings.get(sequence, [])
            for before, after in pairwise(deliveries):
                if not self._is_explained(before, after, settlings):
                    yield Violation(
                        "duplicate",
                        f"number {sequence} of {after.receive.session} was delivered to {before.receive} and, without a "
                        f"cause, to {after.receive}",
                    )
            done = next((one for one in settlings if one.name == "complete" and one.outcome == OK), None)
            for delivery in deliveries:
                if done is not None and delivery.since > done.end:
                    yield Violation(
                        "undone", f"number {sequence} was completed, but then was delivered to {delivery.receive.holder}"
                    )

    def _is_reversed(self, before: Delivery, after: Delivery) -> bool:
        """Return whether two deliveries came in the other order: they can have, and their counts or their causes tell it."""
        if not after.may_come_before(before) or before.count < after.count:
            return False
        settlings = self._settlings.get(before.sequence, [])
        return before.count > after.count or (
            not self._is_explained(before, after, settlings) and self._is_explained(after, before, settlings)
        )

    def _is_explained(self, before: Delivery, after: Delivery, settlings: list[Operation]) -> bool:
        began, ended = before.since, after.receive.end
        if self._down_in(began, ended) or is_any_in(self._link_downs, began, ended):
            return True
        if any(one.name in ("abandon", "defer") and one.may_have_acted and began <= one.begin <= ended for one in settlings):
            return True
        holder = self._holdings[before.receive.holder]
        if before.receive.holder == after.receive.holder:
            return False
        # In front of Azure, a lock can end early. Its holder learns of it only with its next request.
        return holder.ended <= ended or (not self._rules.locks_outlast and holder.lost < NEVER)

    def _delays(self) -> Iterator[Violation]:
        """Until the delay of an abandon has passed, the session's messages come to nobody.

        At its limit, the abandoned message is dead-lettered, and the session goes on without a delay.
        """
        if not self._rules.locks_outlast:
            return
        by_session: dict[str, list[Operation]] = defaultdict(list)
        for one in self._operations:
            if one.name == "receive" and one.outcome == OK and one.result["messages"]:
                by_session[one.session].append(one)
        for abandon in self._operations:
            over = abandon.begin + abandon.about.get("delay", 0.0)
            if abandon.name != "abandon" or abandon.outcome != OK or over <= abandon.end:
                continue
            if any(self._is_dead(sequence) for sequence in abandon.about["sequences"]):
                continue
            for one in by_session[abandon.session]:
                is_early = abandon.end < one.begin and one.end < over
                # A restarted gateway ends a delay by its wall clock.
                if is_early and not self._down_in(abandon.begin, one.end):
                    yield Violation("early", f"{one.session}: {one} got messages during the delay of {abandon}")

    def _is_dead(self, sequence: int) -> bool:
        return sequence in self._left and self._left[sequence].fields["where"] == "dead"

    def _down_in(self, began: float, ended: float) -> bool:
        return is_any_in(self._downs, began, ended)

    # Session states and locks

    def _states(self) -> Iterator[Violation]:
        """A state that is read is the last one that was set, or one whose setting may have taken effect."""
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
                yield Violation(
                    "state", f"{one.session}: {one.holder} read {one.result['value']!r}, which is not the last state"
                )

    def _taken_locks(self) -> Iterator[Violation]:
        """The server does not end a lock before its expiry without a cause."""
        if not self._rules.locks_outlast:
            return
        for event in self._events:
            if event.name != "lost" or event.fields["left"] <= 0:
                continue
            holding = self._holdings[event.fields["holder"]]
            began = holding.operations[0].begin
            if not self._down_in(began, event.at) and not any(one.name == "close" for one in holding.operations):
                yield Violation(
                    "lock taken", f"{holding.session}: {holding.name} lost its lock with {event.fields['left']:.2f} s left"
                )


def _is_retry(one: Operation, own: list[Operation]) -> bool:
    """Tell whether an operation repeats one with an unknown outcome. Its confirmation may belong to the first attempt."""
    return one.name in SETTLING and any(
        each.name == one.name and each.outcome == UNKNOWN and each.begin < one.begin and each.about == one.about
        for each in own
    )
