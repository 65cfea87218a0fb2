"""Checks delivery counts against Azure's rule (message-sessions, "Impact of delivery count").

The delivery count is 1 at the first delivery, and 1 more after each delivery that failed. A delivery failed if the message
was abandoned, or if its lock expired, its holder's process died, or the broker's process died before it was settled. It did
not fail if the session was closed, if the message was deferred, or if it was fetched ahead and given back.

A history does not tell everything: responses are lost, and releases fail without an error. So the check finds the least and
the largest number of failed deliveries that the history permits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import attrs

from .history import OK, History, Operation
from .holdings import NEVER, Delivery, Holding, is_any_in, put_in_order
from .rules import Rules, Violation

#: The reason of a message that was dead-lettered because too many deliveries failed.
EXCEEDED = "MaxDeliveryCountExceeded"
#: Seconds for which a lock in Azure lasts at most after its holder has gone: its last request may be delayed on its way.
LINGER = 10.0
#: Seconds in which somebody gets a session again after an accept whose answer was lost.
SHORT_WHILE = 30.0


@attrs.frozen
class Failures:
    """The least and the largest number of failed deliveries."""

    least: int
    most: int

    def __add__(self, other: Failures) -> Failures:
        return Failures(self.least + other.least, self.most + other.most)

    def or_else(self, other: Failures) -> Failures:
        """Return the range of both numbers."""
        return Failures(min(self.least, other.least), max(self.most, other.most))

    def __contains__(self, number: int) -> bool:
        return self.least <= number <= self.most

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"


NONE, ONE, UNSURE = Failures(0, 0), Failures(1, 1), Failures(0, 1)


class DeliveryCounts:
    """The check of the delivery counts.

    Args:
        history: The history.
        rules: The guarantees.
        deliveries: The deliveries of each message.
        settlings: The operations that settle each message.
        holdings: The holdings by name.
    """

    def __init__(
        self,
        history: History,
        rules: Rules,
        deliveries: Mapping[int, Sequence[Delivery]],
        settlings: Mapping[int, Sequence[Operation]],
        holdings: Mapping[str, Holding],
    ) -> None:
        self._rules = rules
        self._events = history.events
        self._deliveries = deliveries
        self._settlings = settlings
        self._holdings = holdings
        self._sent = {sent: one.begin for one in history.operations if one.name == "send" for sent in one.about["ids"]}
        downs = [event for event in history.events if event.name in ("gateway-down", "link-down")]
        self._downs = [event.at for event in downs]
        self._kills = [event.at for event in downs if rules.kills_count and event.fields.get("how") == "killed"]
        kills = set(self._kills)
        self._other_downs = [at for at in self._downs if at not in kills]
        self._unseen: dict[str, list[Operation]] = defaultdict(list)
        #: Accepts without an answer, and those whose first attempt the end of the gateway may have cut off. They may have
        #: fetched messages of any session.
        self._unseen_accepts = [one for one in history.operations if one.fetches and self._may_have_got_another_session(one)]
        for one in history.operations:
            if one.fetches or (one.name in ("receive", "receive_deferred") and self._may_hide_messages(one)):
                self._unseen[one.session].append(one)

    def _may_have_got_another_session(self, accept: Operation) -> bool:
        """Return whether an accept may have got another session than its answer says. Other operations do not."""
        return accept.name == "accept" and (not accept.session or is_any_in(self._downs, accept.begin, accept.end))

    def _may_hide_messages(self, receive: Operation) -> bool:
        """Return whether the holder may have messages in its hand that the receive did not return."""
        return receive.outcome != OK or receive.about.get("prefetch", 1) > 1 or self._rules.fetches_ahead

    def violations(self) -> Iterator[Violation]:
        """Yield the delivery counts, and the dead letters, that no failed deliveries explain."""
        limit = next((event.fields["max_delivery_count"] for event in self._events if event.name == "left"), None)
        for sequence, found in self._deliveries.items():
            deliveries = list(found)
            put_in_order(deliveries, self._is_reversed)
            name = f"number {sequence} of {deliveries[0].receive.session}"
            first = deliveries[0]
            failed = self._failed_before(first.message, first.receive.session, first.receive)
            if first.count - 1 not in failed:
                yield Violation(
                    "count", f"{name} first came with the delivery count {first.count}, {failed} deliveries failed"
                )
            for before, after in pairwise(deliveries):
                if not self._permits(before, after):
                    yield Violation(
                        "count",
                        f"{name} came with the delivery count {before.count} to {before.receive}, and with {after.count} to "
                        f"{after.receive}; {self._failed_since(before, after)} deliveries failed in between",
                    )
            if limit is not None and max(one.count for one in deliveries) > limit:
                yield Violation("count", f"{name} was delivered more than {limit} times")
        yield from self._dead_letters()

    def _is_reversed(self, before: Delivery, after: Delivery) -> bool:
        """Return whether two deliveries with the same count came in the other order, because only this explains the count.

        For example, the response to the first one was delayed, and the second one was abandoned before the response arrived.
        """
        can_be = before.count == after.count and after.may_come_before(before)
        return can_be and not self._permits(before, after) and self._permits(after, before)

    def _permits(self, before: Delivery, after: Delivery) -> bool:
        """Return whether the number of deliveries that failed in between permits the count of the later delivery."""
        return after.count - before.count in self._failed_since(before, after)

    def _dead_letters(self) -> Iterator[Violation]:
        for event in self._events:
            if event.name != "left" or event.fields["where"] != "dead":
                continue
            limit = event.fields["max_delivery_count"]
            for message, sequence, _, reason in event.fields["messages"]:
                failed = self._failed_in_all(message, event.fields["session"], sequence)
                if reason == EXCEEDED and failed.most < limit:
                    yield Violation(
                        "dead letter",
                        f"number {sequence} of {event.fields['session']} was dead-lettered after {failed} failed deliveries, "
                        f"the limit is {limit}",
                    )

    # The numbers of failed deliveries

    def _failed_in_all(self, message: str, session: str, sequence: int) -> Failures:
        """Return how many deliveries of a message failed until the end of the run."""
        deliveries = self._deliveries.get(sequence, ())
        if not deliveries:
            return self._failed_before(message, session, None)
        last = deliveries[-1]
        return Failures(last.count - 1, last.count - 1) + self._failed_since(last, None)

    def _failed_before(self, message: str, session: str, first: Operation | None) -> Failures:
        """Return how many deliveries of a message failed before the first receive that returned it."""
        sent, until = self._sent.get(message, 0.0), NEVER if first is None else first.end
        unseen = [one for one in self._unseen_in(session, until) if self._fetches_until(one) >= sent and one.begin <= until]
        return self._failed_unseen(unseen, until, first)

    def _failed_since(self, before: Delivery, after: Delivery | None) -> Failures:
        """Return how many deliveries of a message failed from one delivery to the next one, or to the end of the run."""
        until = NEVER if after is None else after.receive.end
        # A gateway that fetches ahead may get a returned message again without another receive.
        again = before.receive.holder if self._rules.fetches_ahead else None
        unseen = [
            one
            for one in self._unseen_in(before.receive.session, until)
            if one.begin <= until and (one.begin > before.since or one.holder == again)
        ]
        if not any(one.name in ("abandon", "defer") and one.may_have_acted for one in self._settled_by(before, until)):
            # The holder had the message in its hand all the time.
            unseen = [one for one in unseen if one.holder != before.receive.holder]
        return self._fate(before, until) + self._failed_unseen(unseen, until, None if after is None else after.receive)

    def _unseen_in(self, session: str, until: float) -> list[Operation]:
        """Return the operations that may have got messages of a session that nobody saw, until a time."""
        accepts = [one for one in self._unseen_accepts if until == NEVER or until - SHORT_WHILE <= one.begin <= until]
        return [*self._unseen[session], *accepts]

    def _fetches_until(self, receive: Operation) -> float:
        """Return until when a receive may have got messages."""
        return max(receive.end, self._holdings[receive.holder].ended + LINGER) if self._rules.fetches_ahead else receive.end

    def _settled_by(self, delivery: Delivery, until: float) -> list[Operation]:
        """Return the settlements of a message by its holder that may have taken effect."""
        return [
            one
            for one in self._settlings.get(delivery.sequence, ())
            if one.holder == delivery.receive.holder and delivery.receive.begin <= one.begin <= until and one.may_have_acted
        ]

    def _fate(self, delivery: Delivery, until: float) -> Failures:
        """Return whether a delivery failed, if the message became free again before a time."""
        settled = self._settled_by(delivery, until)
        confirmed = {one.name for one in settled if one.outcome == OK}
        if confirmed:
            return ONE if "abandon" in confirmed else NONE
        failed = self._ended(self._holdings[delivery.receive.holder], delivery.since, until)
        for one in settled:
            failed = failed.or_else(ONE if one.name == "abandon" else NONE)
        return failed

    def _ended(self, holding: Holding, began: float, until: float) -> Failures:
        """Return whether the end of a lock between two times counts as a failed delivery of the unsettled messages."""
        closed = holding.closed if holding.lost > holding.closed else NEVER  # A lost lock is not released.
        if closed <= until:
            if is_any_in(self._downs, began, until):
                return UNSURE  # The gateway may have ended before the release.
            # Before the lock's time, only the release made the message free. Later, the release may have failed.
            return NONE if until < holding.lock_until else UNSURE
        is_known = min(holding.lost, holding.killed) <= until or is_any_in(self._kills, began, until)
        return ONE if is_known and not self._is_down(began, until) else UNSURE

    def _is_down(self, began: float, until: float) -> bool:
        """Return whether messages may have become free without a count, as the gateway or its link ended in order."""
        return is_any_in(self._other_downs, began, until)

    def _failed_unseen(self, unseen: Sequence[Operation], until: float, receive: Operation | None) -> Failures:
        """Return how many deliveries may have failed whose responses nobody read.

        Args:
            unseen: The receives that may have got the message.
            until: When the message was free again.
            receive: The receive that got the message in the end. If its holder got the message in an earlier, lost response,
                it got the same delivery again, unless the gateway ended in between.
        """
        most: dict[str, int] = {}
        for one in unseen:
            if receive is None or one.holder != receive.holder or is_any_in(self._downs, one.begin, until):
                failed = self._ended(self._holdings[one.holder], one.begin, until)
                most[one.holder] = max(most.get(one.holder, 0), failed.most)
        return Failures(0, sum(most.values()))
