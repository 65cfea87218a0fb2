"""The stand-in: it listens, holds the entities, and misbehaves when a test says so."""

from __future__ import annotations

import base64
import os
import selectors
import socket
import ssl
from collections import Counter, deque
from types import TracebackType
from typing import Any

from tests.standin.boxes import Options
from tests.standin.connection import Peer
from tests.standin.inside import Inside
from tests.standin.links import Receives, SessionReceives
from tests.standin.loop import Loop
from tests.standin.refusal import STATUS, Refusal
from tests.standin.state import Queue
from tests.standin.tokens import ALL, path_of
from tests.standin.topic import Topic
from tests.standin.wire import Content, parse

Entry = tuple[str | None, int, Any]


class StandIn(Inside):
    """An AMQP 1.0 stand-in for an Azure Service Bus namespace. It listens on a free loopback port during its `with` block.

    Every public method is thread-safe, takes effect before it returns, and does not wait for clients.

    Args:
        tls: The files of a certificate and its key, to serve TLS.
        handle_max: The highest link handle of a channel.
        channel_max: The highest channel of a connection.
        idle_timeout: Seconds of silence after which a client is disconnected. Half of it is announced.
        max_frame_size: The largest frame that the server accepts, in bytes.
    """

    def __init__(
        self,
        *,
        tls: tuple[str, str] | None = None,
        handle_max: int = 255,
        channel_max: int = 4999,
        idle_timeout: float = 240.0,
        max_frame_size: int = 65536,
    ) -> None:
        self.handle_max, self.channel_max = handle_max, channel_max
        self.idle_timeout, self.max_frame_size = idle_timeout, max_frame_size
        self.container = base64.b16encode(os.urandom(16)).decode().lower()
        self.keys: dict[str, tuple[str, frozenset[str]]] = {
            "RootManageSharedAccessKey": (base64.b64encode(os.urandom(32)).decode(), ALL)
        }
        self.log: Counter[str] = Counter()
        self.peers: set[Peer] = set()
        self.answer_delay = 0.0
        self._tls: ssl.SSLContext | None = None
        if tls is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*tls)
        self._queues: dict[str, Queue] = {}
        self._topics: dict[str, Topic] = {}
        self._dirty: set[Peer] = set()
        self._woken: dict[Receives, None] = {}
        self._refusals: dict[str, deque[Refusal]] = {}
        self._swallows: Counter[str] = Counter()
        #: How many requests of each kind the management nodes got.
        self.requests: Counter[str] = Counter()
        self._throttled = 0
        self.loop = Loop(self._after_each)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self.loop.selector.register(self._socket, selectors.EVENT_READ, self._accept)

    def __enter__(self) -> StandIn:
        self.loop.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.loop.call(self._close)
        self.loop.stop()
        if self.loop.errors and error is None:
            raise self.loop.errors[0]

    def _close(self) -> None:
        for peer in list(self.peers):
            peer.drop()
        self.loop.selector.unregister(self._socket)
        self._socket.close()

    @property
    def connection_string(self) -> str:
        """The connection string with the key that has all rights."""
        return self.connection_string_of("RootManageSharedAccessKey")

    def connection_string_of(self, key_name: str) -> str:
        """Return the connection string with one of `keys`."""
        text = f"Endpoint=sb://127.0.0.1:{self.port};SharedAccessKeyName={key_name};SharedAccessKey={self.keys[key_name][0]}"
        return text if self._tls is not None else f"{text};UseDevelopmentEmulator=true"

    def add_key(self, name: str, rights: frozenset[str]) -> None:
        """Add a key with some of the rights in `ALL`."""
        self.keys[name] = (base64.b64encode(os.urandom(32)).decode(), rights)

    # Entities

    def create_queue(self, name: str, **options: Any) -> None:
        """Create a queue with the settings of `Options`."""
        self.loop.call(self._create_queue, name, Options(**options))

    def _create_queue(self, name: str, options: Options) -> None:
        self._queues[name.lower()] = Queue(name, options, self.loop)

    def create_topic(self, name: str, **options: Any) -> None:
        """Create a topic without subscriptions, with the settings of `Options`."""
        self.loop.call(self._create_topic, name, Options(**options))

    def _create_topic(self, name: str, options: Options) -> Topic:
        topic = self._topics[name.lower()] = Topic(name, options, self.loop)
        return topic

    def create_subscription(self, topic: str, name: str, **options: Any) -> None:
        """Create a subscription and, if needed, its topic with the same settings.

        The subscription's entity name is `topic/subscriptions/name`.
        """
        self.loop.call(self._create_subscription, topic, name, Options(**options))

    def _create_subscription(self, topic: str, name: str, options: Options) -> None:
        path = f"{topic}/Subscriptions/{name}"
        queue = self._queues[path.lower()] = Queue(path, options, self.loop)
        found = self._topics.get(topic.lower()) or self._create_topic(topic, options)
        # A subscription that is created again replaces the earlier one.
        found.subscriptions = [*(each for each in found.subscriptions if each.name != path), queue]

    def _find(self, path: str) -> Queue | None:
        base = path.removesuffix("/$deadletterqueue")
        queue = self._queues.get(base)
        return queue if queue is None or base == path else queue.dead_letter

    def check_exists(self, path: str) -> None:
        """Check the path of a token, which may be that of the namespace.

        Raises:
            Refusal: There is no such entity.
        """
        entity = path.removesuffix("/$management")
        if entity and entity not in self._topics and self._find(entity) is None:
            raise Refusal("amqp:not-found", f"The messaging entity '{path}' could not be found.", 404)

    def receivable(self, path: str) -> Queue:
        """Return the queue or subscription at a path.

        Raises:
            Refusal: It does not exist, is disabled, or is a topic.
        """
        queue = self._find(path)
        if queue is None:
            if path in self._topics:
                raise Refusal("amqp:not-allowed", "A topic cannot be received from.")
            raise Refusal("amqp:not-found", f"The messaging entity '{path}' could not be found.", 404)
        if queue.disabled:
            raise Refusal("com.microsoft:entity-disabled", f"Messaging entity '{path}' is disabled.")
        return queue

    def sendable(self, path: str) -> Queue | Topic:
        """Return the queue or topic that takes the messages for a path.

        Raises:
            Refusal: It does not exist, is disabled, or takes no messages.
        """
        topic = self._topics.get(path)
        if topic is None:
            queue = self.receivable(path)
            if queue.dead_letter is None:
                raise Refusal("amqp:not-allowed", "Messages cannot be sent to a dead-letter queue.")
            return queue
        if any(queue.disabled for queue in topic.subscriptions):
            raise Refusal("com.microsoft:entity-disabled", f"Messaging entity '{path}' is disabled.")
        return topic

    def manageable(self, path: str) -> Queue | str:
        """Return the queue or, for a topic, the path."""
        return path if path in self._topics else self.receivable(path)

    def limits(self, path: str) -> Options:
        """Return the settings of the entity that takes the messages for a path."""
        return self.sendable(path).options

    def enqueue(self, path: str, contents: list[Content], envelope: Content | None = None) -> list[int]:
        """Add all messages or none to an entity; return their sequence numbers. `envelope` is that of a batch."""
        entity = self.sendable(path.lower())
        entity.check(contents, envelope)
        return [entity.enqueue(content) for content in contents]

    def put(self, entity: str, encoded: list[bytes]) -> list[int]:
        """Add encoded messages to an entity as if a client had sent them; return their sequence numbers."""
        return self.loop.call(lambda: self.enqueue(path_of(entity), [parse(each) for each in encoded]))

    # Misbehaving

    def detach_links(
        self,
        entity: str | None = None,
        session_id: str | None = None,
        condition: str = "amqp:link:detach-forced",
        description: str = "The link was detached by the server.",
    ) -> int:
        """Detach the links to entities, or only those of one entity or session; return how many."""
        return self.loop.call(self._detach_links, entity and path_of(entity), session_id, condition, description)

    def _detach_links(self, path: str | None, session_id: str | None, condition: str, description: str) -> int:
        found = [
            link
            for peer in self.peers
            for link in peer.links.values()
            if link.path is not None
            and path in (None, link.path)
            and (session_id is None or (isinstance(link, SessionReceives) and link.box and link.box.name == session_id))
        ]
        for link in found:
            link.detach(condition, description)
        return len(found)

    def drop_connections(self, *, polite: bool = False) -> int:
        """Close all sockets, with `polite` after an AMQP close frame; return how many."""
        return self.loop.call(self._drop_connections, polite)

    def _drop_connections(self, polite: bool) -> int:
        peers = list(self.peers)
        for peer in peers:
            if polite:
                peer.close("amqp:connection:forced", "The connection was closed by the server.")
            else:
                peer.drop()
        return len(peers)

    def expire_session_lock(self, entity: str, session_id: str) -> None:
        """Let the lock of a session expire now."""
        self.loop.call(self._expire_session_lock, entity, session_id)

    def _expire_session_lock(self, entity: str, session_id: str) -> None:
        queue = self._queue(entity)
        box = queue.boxes.get(session_id)
        if box is None or box.holder is None:
            raise KeyError(session_id)
        queue.expire_session(box)

    def delay(self, seconds: float) -> None:
        """Delay all output by so many seconds. 0 ends the delay and sends delayed output."""
        self.loop.call(self._delay, seconds)

    def _delay(self, seconds: float) -> None:
        for peer in list(self.peers):
            peer.flush()
        self.answer_delay = seconds
        if not seconds:
            for peer in list(self.peers):
                peer.hurry()

    def throttle(self, n: int) -> None:
        """Refuse the next n attaches, sends and management operations as throttled."""
        self.loop.call(setattr, self, "_throttled", n)

    def refuse(self, operation: str, condition: str, n: int = 1, description: str = "Refused by the test.") -> None:
        """Refuse the next n operations of a kind, for example `attach`, `send`, `disposition` or `renew-session-lock`."""
        refusal = Refusal(condition, description, STATUS.get(condition, 400))
        self.loop.call(lambda: self._refusals.setdefault(operation, deque()).extend([refusal] * n))

    def refusals(self) -> int:
        """Return how many operations `refuse` will still refuse."""
        return self.loop.call(lambda: sum(map(len, self._refusals.values())))

    def refuse_no_more(self) -> None:
        """End what `refuse` began."""
        self.loop.call(self._refusals.clear)

    def swallow(self, operation: str, n: int = 1) -> None:
        """Perform the next n operations of a kind without an answer."""
        self.loop.call(lambda: self._swallows.update({operation: n}))

    def expire_tokens(self) -> None:
        """Let all tokens expire now."""
        self.loop.call(self._expire_tokens)

    def _expire_tokens(self) -> None:
        for peer in list(self.peers):
            peer.grants.clear()
            peer.check_tokens()

    def disable(self, entity: str) -> None:
        """Disable an entity: detach its links and refuse new ones."""
        self.loop.call(self._disable, entity)

    def _disable(self, entity: str) -> None:
        queue = self._queue(entity)
        queue.disabled = True
        self._detach_links(
            path_of(entity), None, "com.microsoft:entity-disabled", f"Messaging entity '{entity}' is disabled."
        )

    def enable(self, entity: str) -> None:
        """Enable a disabled entity."""
        self.loop.call(setattr, self._queue(entity), "disabled", False)

    # For the connections

    def refuse_if_told(self, operation: str, *, throttled: bool = False) -> None:
        """Refuse an operation if the test said so.

        Raises:
            Refusal: `refuse` or `throttle` applies.
        """
        refusals = self._refusals.get(operation)
        if refusals:
            raise refusals.popleft()
        if throttled and self._throttled:
            self._throttled -= 1
            text = "The request was terminated because the entity is being throttled. Wait and try again."
            raise Refusal("com.microsoft:server-busy", text, 503)

    def swallowed(self, operation: str) -> bool:
        """Return whether to leave out the answer of an operation: see `swallow`."""
        if not self._swallows or not self._swallows[operation]:
            return False
        self._swallows[operation] -= 1
        return True

    def dirty(self, peer: Peer) -> None:
        """Flush a connection at the end of the round."""
        self._dirty.add(peer)

    def wake(self, link: Receives) -> None:
        """Let a link send messages at the end of the round."""
        self._woken[link] = None

    def _accept(self, _mask: int) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            self.peers.add(Peer(self, sock))

    def _after_each(self) -> None:
        while self._woken or self._dirty:
            while self._woken:
                link, _ = self._woken.popitem()
                link.send()
            dirty, self._dirty = self._dirty, set()
            for peer in dirty:
                peer.flush()
