"""The links of clients that send to entities and receive from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cproton import ffi, lib, pn_condition_set_description, pn_condition_set_name
from proton import Condition, Data, Delivery, Terminus, symbol

from tests.standin import wire
from tests.standin.boxes import Box, Message
from tests.standin.state import Queue, Refusal

if TYPE_CHECKING:
    from tests.standin.connection import Peer

SESSION_FILTER = symbol("com.microsoft:session-filter")
LOCKED_UNTIL = symbol("com.microsoft:locked-until-utc")
_EPOCH_TICKS = 621355968000000000
#: Credit that senders get, and are kept at.
_CREDIT = 1000
_NULL = ffi.NULL


def ticks(seconds: float) -> int:
    """Return a time as .NET counts it: in units of 100 ns since the year 1."""
    return int(seconds * 1000) * 10000 + _EPOCH_TICKS


class AnyLink:
    """A link of a client; `path` is the entity that it sends to or receives from, if any."""

    #: It needs one of these.
    rights = ("Listen",)
    #: The path whose token it lives by, if any.
    audience: str | None = None

    def __init__(self, peer: Peer, impl: Any, link: Any, path: str | None = None) -> None:
        self.peer, self.impl, self.link, self.path = peer, impl, link, path
        self.server = peer.server

    def open(self) -> None:
        """Answer the attach in the client's own terms, unless answers get lost."""
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
        """Say more in the answer to the attach."""

    def refuse(self, refusal: Refusal) -> None:
        """Answer as Azure does: with an attach that lacks the client's terminus, and a detach that says why."""
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
        """Take the link from its client."""
        if self.peer.links.get(self.impl) is self:
            self.gone()
            self._end(condition, description)

    def _end(self, condition: str, description: str) -> None:
        self.link.condition = Condition(condition, description)
        self.link.close()
        self.peer.links[self.impl] = AnyLink(self.peer, self.impl, self.link)
        self.server.dirty(self.peer)

    def gone(self) -> None:
        """The client detached it, or went."""

    def flow(self) -> None:
        """The client gave credit."""

    def delivery(self, delivery: Any) -> None:
        """Something came, or was settled."""


class Inbound(AnyLink):
    """A link by which a client sends whole messages."""

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
        """Take a message, and return whether the client is to hear of it."""
        raise NotImplementedError


def settle(delivery: Any, state: int, refusal: Refusal | None = None) -> None:
    """Settle with an outcome, and an error where there is one."""
    if refusal is None:
        lib.pn_delivery_update(delivery, state)
    else:
        condition = lib.pn_disposition_condition(lib.pn_delivery_local(delivery))
        pn_condition_set_name(condition, refusal.condition)
        pn_condition_set_description(condition, refusal.description)
        # Clients count on all three fields of an error.
        Data(lib.pn_condition_info(condition)).put_dict({})
        lib.pn_delivery_update(delivery, state)
    lib.pn_delivery_settle(delivery)


class Sends(Inbound):
    """A client's sender on an entity."""

    def __init__(self, peer: Peer, impl: Any, link: Any, path: str, entity: str) -> None:
        super().__init__(peer, impl, link, path)
        self.entity = self.audience = entity

    def describe(self) -> None:
        self.link.max_message_size = self.server.max_message_size(self.entity)

    def take(self, data: bytes, batched: bool) -> bool:
        self.server.fate("send", throttled=True)
        if len(data) > self.server.max_message_size(self.entity):
            text = f"The received message (size: {len(data)} bytes) exceeds the limit currently allowed on the link."
            raise Refusal("amqp:link:message-size-exceeded", text)
        self.server.enqueue(self.entity, wire.parse_batch(data) if batched else [wire.parse(data)])
        return not self.server.swallowed("send")


class Receives(AnyLink):
    """A client's receiver: what it gets and how it settles."""

    box: Box | None = None

    def __init__(self, peer: Peer, impl: Any, link: Any, path: str, queue: Queue) -> None:
        super().__init__(peer, impl, link, path)
        self.queue = queue
        self.audience = queue.name.lower()
        self.deletes = link.remote_snd_settle_mode == link.SND_SETTLED

    def granted(self, box: Box) -> None:
        """A session came for a waiting link; see the class for sessions."""

    def lost(self) -> None:
        """A session's lock expired; see the class for sessions."""

    def wake(self) -> None:
        self.server.wake(self)

    def flow(self) -> None:
        self.send()

    def send(self) -> None:
        """Send what is there within the credit, and give back what is left of it when the client drains."""
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
        if lib.pn_link_get_drain(impl) and credit > 0:
            lib.pn_link_drained(impl)
            self.server.dirty(self.peer)

    def _transfer(self, message: Message, queue: Queue) -> None:
        token = message.token
        assert token is not None
        data = message.encode(locked=not self.deletes)
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
            server.fate("disposition")
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
        # Who settles frees no credit: only a flow gives more.

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
            queue.bury(token, reason, description, encoded(info))
        else:
            queue.abandon(token, failed=False)


def encoded(values: Any) -> dict[str, bytes]:
    """Return the values of a map as AMQP bytes."""
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
        # The locks of its messages live on, until they expire.
        if self.box is not None:
            self.box.consumers.pop(self, None)
            self.box = None


class SessionReceives(Receives):
    """A receiver of one session, which it may still be waiting for."""

    def __init__(self, peer: Peer, impl: Any, link: Any, path: str, queue: Queue) -> None:
        super().__init__(peer, impl, link, path, queue)
        self._patience: Any = None

    def seek(self, session_id: str | None, patience: float) -> None:
        """Answer with the session that is asked for, or wait for any."""
        if session_id is not None:
            self.granted(self.queue.accept(session_id, self))
            return
        box = self.queue.accept_next(self)
        if box is not None:
            self.granted(box)
        else:
            self._patience = self.peer.loop.after(patience, self._out_of_patience)

    def granted(self, box: Box) -> None:
        self.box = box
        if self._patience is not None:
            self._patience.cancel()
        self.open()

    def describe(self) -> None:
        assert self.box is not None
        filters = self.link.source.filter
        filters.clear()
        filters.put_object({SESSION_FILTER: self.box.name})
        self.link.properties = {LOCKED_UNTIL: ticks(self.box.locked_until)}

    def _out_of_patience(self) -> None:
        self.queue.waiting.pop(self, None)
        text = "The operation did not complete within the allotted timeout: no session was available."
        self.refuse(Refusal("com.microsoft:timeout", text, 408))

    def lost(self) -> None:
        self.box = None
        text = "The session lock has expired on the session. Accept a new session."
        self.detach("com.microsoft:session-lock-lost", text)

    def gone(self) -> None:
        self.queue.waiting.pop(self, None)
        if self._patience is not None:
            self._patience.cancel()
        box, self.box = self.box, None
        if box is not None and box.holder is self:
            self.queue.release(box)
