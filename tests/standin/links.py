"""The links of clients that send to entities or receive from them. `attach` makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cproton import ffi, lib, pn_condition_set_description, pn_condition_set_name
from proton import Condition, Data, Delivery, Terminus, symbol

from tests.standin import wire
from tests.standin.boxes import Box, Message
from tests.standin.refusal import Refusal
from tests.standin.state import Queue

if TYPE_CHECKING:
    from tests.standin.connection import Peer

SESSION_FILTER = symbol("com.microsoft:session-filter")
LOCKED_UNTIL = symbol("com.microsoft:locked-until-utc")
MAX_BATCH_SIZE = symbol("com.microsoft:max-message-batch-size")
_EPOCH_TICKS = 621355968000000000
#: The credit of senders.
_CREDIT = 1000
_NULL = ffi.NULL


def ticks(seconds: float) -> int:
    """Return a time in .NET's ticks: units of 100 ns since the year 1."""
    return int(seconds * 1000) * 10000 + _EPOCH_TICKS


class AnyLink:
    """A link of a client. `path` is the entity that it sends to or receives from, if there is one."""

    #: The link needs one of these rights.
    rights = ("Listen",)
    #: The path whose token the link needs, if it needs one.
    audience: str | None = None

    def __init__(self, peer: Peer, impl: Any, link: Any, path: str | None = None) -> None:
        self.peer, self.impl, self.link, self.path = peer, impl, link, path
        self.server = peer.server

    def open(self) -> None:
        """Answer the attach with the client's own settings, unless the test swallows answers."""
        if self.server.swallowed("attach"):
            return
        link = self.link
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.snd_settle_mode, link.rcv_settle_mode = link.remote_snd_settle_mode, link.remote_rcv_settle_mode
        self.describe()
        link.open()
        self.server.dirty(self.peer)

    def describe(self) -> None:
        """Add to the answer to the attach."""

    def refuse(self, refusal: Refusal) -> None:
        """Refuse the link as Azure does: with an attach without the peer's terminus, and a detach with the error."""
        link = self.link
        if link.is_sender:
            link.source.type = Terminus.UNSPECIFIED
            link.target.copy(link.remote_target)
        else:
            link.source.copy(link.remote_source)
            link.target.type = Terminus.UNSPECIFIED
        link.open()
        self._end(refusal.condition, refusal.description)

    def detach(self, condition: str, description: str) -> None:
        """Detach the link with an error."""
        if self.peer.links.get(self.impl) is self:
            self.gone()
            self._end(condition, description)

    def _end(self, condition: str, description: str) -> None:
        self.link.condition = Condition(condition, description)
        self.link.close()
        self.peer.links[self.impl] = AnyLink(self.peer, self.impl, self.link)
        self.server.dirty(self.peer)

    def gone(self) -> None:
        """Handle that the client detached the link or is gone."""

    def flow(self) -> None:
        """Handle the client's credit."""

    def delivery(self, delivery: Any) -> None:
        """Handle a delivery that arrived or changed its state."""


class Inbound(AnyLink):
    """A link by which a client sends messages."""

    rights = ("Send",)

    def __init__(self, peer: Peer, impl: Any, link: Any, path: str | None = None) -> None:
        super().__init__(peer, impl, link, path)
        self._parts: list[bytes] = []
        self._size = 0
        self._name = link.name

    def open(self) -> None:
        super().open()
        lib.pn_link_flow(self.impl, _CREDIT)

    def delivery(self, delivery: Any) -> None:
        if lib.pn_link_current(self.impl) != delivery:
            return
        pending = lib.pn_delivery_pending(delivery)
        if pending:
            buffer = bytearray(pending)
            got = lib.pn_link_recv(self.impl, ffi.from_buffer(buffer), pending)
            self._parts.append(bytes(buffer[:got]) if got > 0 else b"")
        if lib.pn_delivery_aborted(delivery):
            self._parts = []
            lib.pn_delivery_settle(delivery)
            return
        if lib.pn_delivery_partial(delivery):
            return
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        raw = lib.pn_delivery_tag(delivery)
        key = (self._name, bytes(ffi.buffer(raw.start, raw.size)))
        batches = self.peer.watch.batches
        batched = key in batches
        if batched:
            batches.discard(key)
        lib.pn_link_advance(self.impl)
        if lib.pn_link_credit(self.impl) < _CREDIT // 2:
            lib.pn_link_flow(self.impl, _CREDIT - lib.pn_link_credit(self.impl))
        settled = lib.pn_delivery_settled(delivery)
        try:
            answered = self.take(data, batched)
        except Refusal as refusal:
            if not settled:
                settle(delivery, lib.PN_REJECTED, refusal)
            else:
                lib.pn_delivery_settle(delivery)
            return
        if answered:
            settle(delivery, lib.PN_ACCEPTED)

    def take(self, data: bytes, batched: bool) -> bool:
        """Accept a whole message, and return whether to send the result to the client."""
        raise NotImplementedError


def settle(delivery: Any, state: int, refusal: Refusal | None = None) -> None:
    """Settle a delivery with an outcome and, if there is one, an error."""
    if refusal is None:
        lib.pn_delivery_update(delivery, state)
    else:
        condition = lib.pn_disposition_condition(lib.pn_delivery_local(delivery))
        pn_condition_set_name(condition, refusal.condition)
        pn_condition_set_description(condition, refusal.description)
        # Clients need all three fields of an error.
        Data(lib.pn_condition_info(condition)).put_dict({})
        lib.pn_delivery_update(delivery, state)
    lib.pn_delivery_settle(delivery)


class Sends(Inbound):
    """A client's sender on an entity."""

    def __init__(self, peer: Peer, impl: Any, link: Any, path: str, entity: str) -> None:
        super().__init__(peer, impl, link, path)
        self.entity = self.audience = entity

    def describe(self) -> None:
        limits = self.server.limits(self.entity)
        self.link.max_message_size = limits.max_message_size
        if limits.announces_batch_size:
            self.link.properties = {MAX_BATCH_SIZE: limits.batch_limit}

    def take(self, data: bytes, batched: bool) -> bool:
        self.server.refuse_if_told("send", throttled=True)
        limits = self.server.limits(self.entity)
        if len(data) > limits.max_message_size:
            text = f"The received message (size: {len(data)} bytes) exceeds the limit currently allowed on the link."
            raise Refusal("amqp:link:message-size-exceeded", text)
        if not batched:
            self.server.enqueue(self.entity, [wire.parse(data)])
        elif len(data) > limits.batch_limit:
            # Azure says this, although the batch has data.
            text = f"The link '{self._name}' is force detached by the broker because the publisher received a batch message"
            self.detach("amqp:not-allowed", f"{text} with no data in it. Detach origin: Publisher.")
            return False
        else:
            self.server.enqueue(self.entity, wire.parse_batch(data), wire.parse(data))
        return not self.server.swallowed("send")


class Receives(AnyLink):
    """A client's receiver."""

    box: Box | None = None
    #: A drain is not answered: see `swallow`.
    ignores_drain = False

    def __init__(self, peer: Peer, impl: Any, link: Any, path: str, queue: Queue) -> None:
        super().__init__(peer, impl, link, path)
        self.queue = queue
        self.audience = queue.name.lower()
        self.deletes = link.remote_snd_settle_mode == link.SND_SETTLED

    def granted(self, box: Box) -> None:
        """Handle that a waiting link got its session; see `SessionReceives`."""

    def lost(self) -> None:
        """Handle that the session's lock expired; see `SessionReceives`."""

    def wake(self) -> None:
        self.server.wake(self)

    def has_credit(self) -> bool:
        """Return whether the client waits for messages."""
        return bool(lib.pn_link_credit(self.impl) > 0)

    def flow(self) -> None:
        if not lib.pn_link_get_drain(self.impl):
            self.ignores_drain = False
        elif self.server.swallowed("drain"):
            self.ignores_drain = True
        self.send()

    def send(self) -> None:
        """Send messages within the credit; give the rest of the credit back if the client drains."""
        box, impl = self.box, self.impl
        if box is None or self.peer.links.get(impl) is not self:
            return
        credit = lib.pn_link_credit(impl)
        if box.available and credit > 0:
            take, queue = self.queue.take, self.queue
            while credit > 0:
                message = take(box, self)
                if message is None:
                    break
                credit -= 1
                self._transfer(message, queue)
            self.server.dirty(self.peer)
        if lib.pn_link_get_drain(impl) and credit > 0 and not self.ignores_drain:
            lib.pn_link_drained(impl)
            self.server.dirty(self.peer)

    def _transfer(self, message: Message, queue: Queue) -> None:
        token = message.token
        assert token is not None
        data = message.encode(locked=not self.deletes, annotated=not self.deletes)
        delivery = lib.pn_delivery(self.impl, (16, ffi.from_buffer(token)))
        lib.pn_link_send(self.impl, ffi.from_buffer(data), len(data))
        lib.pn_link_advance(self.impl)
        if self.deletes:
            queue.complete(token)
            lib.pn_delivery_settle(delivery)

    def delivery(self, delivery: Any) -> None:
        state, settled = lib.pn_delivery_remote_state(delivery), lib.pn_delivery_settled(delivery)
        if state == lib.PN_RECEIVED or (not state and not settled):
            return
        raw = lib.pn_delivery_tag(delivery)
        token = bytes(ffi.buffer(raw.start, raw.size))
        server = self.server
        try:
            server.refuse_if_told("disposition")
            self._apply(token, state, delivery)
        except Refusal as refusal:
            if not settled:
                settle(delivery, lib.PN_REJECTED, refusal)
                return
        if settled:
            lib.pn_delivery_settle(delivery)
        elif not server.swallowed("disposition"):
            if state == lib.PN_MODIFIED:
                remote, local = lib.pn_delivery_remote(delivery), lib.pn_delivery_local(delivery)
                lib.pn_disposition_set_failed(local, lib.pn_disposition_is_failed(remote))
                lib.pn_disposition_set_undeliverable(local, lib.pn_disposition_is_undeliverable(remote))
            settle(delivery, state)
        # A settlement frees no credit; only a flow frame does.

    def _apply(self, token: bytes, state: int, delivery: Any) -> None:
        queue = self.queue
        if state == lib.PN_ACCEPTED:
            queue.complete(token)
        elif state == lib.PN_MODIFIED:
            remote = Delivery.wrap(delivery).remote
            changes = encoded(remote.annotations)
            if remote.undeliverable:
                queue.defer(token, changes)
            else:
                queue.abandon(token, changes)
        elif state == lib.PN_REJECTED:
            condition = Delivery.wrap(delivery).remote.condition
            info = dict(condition.info or {}) if condition is not None else {}
            reason = info.pop("DeadLetterReason", None)
            description = info.pop("DeadLetterErrorDescription", None)
            queue.dead_letter_message(token, reason, description, encoded(info))
        else:
            queue.abandon(token, failed=False)


def encoded(values: Any) -> dict[str, bytes]:
    """Return the values of a map, encoded as AMQP."""
    found = {}
    for name, value in (values or {}).items():
        data = Data()
        data.put_object(value)
        found[str(name)] = bytes(data.encode())
    return found


class PlainReceives(Receives):
    """A receiver on a queue without sessions, or on dead letters."""

    def open(self) -> None:
        super().open()
        self.box = self.queue.plain_box()
        self.box.consumers[self] = None

    def gone(self) -> None:
        # Its messages stay locked until their locks expire.
        if self.box is not None:
            self.box.consumers.pop(self, None)
            self.box = None


class SessionReceives(Receives):
    """A receiver of one session, or one that waits for a session."""

    def __init__(self, peer: Peer, impl: Any, link: Any, path: str, queue: Queue) -> None:
        super().__init__(peer, impl, link, path, queue)
        self._wait_timer: Any = None

    def seek(self, session_id: str | None, seconds: float) -> None:
        """Lock the named session, or wait for the next available one."""
        if session_id is not None:
            if self.queue.options.waits_for_held_sessions and seconds > 0 and self.queue.is_held(session_id):
                self._wait_timer = self.peer.loop.after(min(0.05, seconds), self._try_again, session_id, seconds - 0.05)
            else:
                self.granted(self.queue.accept(session_id, self))
            return
        box = self.queue.accept_next(self)
        if box is not None:
            self.granted(box)
        else:
            self._wait_timer = self.peer.loop.after(seconds, self._waited_too_long)

    def _try_again(self, session_id: str, seconds: float) -> None:
        try:
            self.seek(session_id, seconds)
        except Refusal as refusal:
            self.refuse(refusal)

    def granted(self, box: Box) -> None:
        self.box = box
        if self._wait_timer is not None:
            self._wait_timer.cancel()
        self.open()

    def describe(self) -> None:
        assert self.box is not None
        filters = self.link.source.filter
        filters.clear()
        filters.put_object({SESSION_FILTER: self.box.name})
        self.link.properties = {LOCKED_UNTIL: ticks(self.box.locked_until)}

    def _waited_too_long(self) -> None:
        self.queue.waiting.pop(self, None)
        text = "The operation did not complete within the allotted timeout: no session was available."
        self.refuse(Refusal("com.microsoft:timeout", text, 408))

    def lost(self) -> None:
        self.box = None
        text = "The session lock has expired on the session. Accept a new session."
        self.detach("com.microsoft:session-lock-lost", text)

    def gone(self) -> None:
        self.queue.waiting.pop(self, None)
        if self._wait_timer is not None:
            self._wait_timer.cancel()
        box, self.box = self.box, None
        if box is not None and box.holder is self:
            self.queue.release(box)
