"""`OwnNamespace`: azsession's AMQP endpoint on the embedded broker, with faults, in the place of a namespace."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import pytest

from azsession import QueueNotFoundError, QueueSettings
from azsession.amqp.message import HEADER
from azsession.amqp.sections import each_section
from azsession.broker.calls import CallContext, encoded_of
from azsession.queues import QueueFields
from azsession.server import AccessKey, GatewayService, Right
from azsession.server import service as service_module
from azsession.server.amqp.conditions import FORCED, ConnectionFaultError, RefusedError
from azsession.server.amqp.link import Link
from azsession.server.amqp.messages import read_message
from azsession.server.amqp.session_receiver import SessionReceiver
from tests.namespaces.faults import Faults
from tests.namespaces.faulty_endpoint import FaultyEndpoint
from tests.namespaces.namespace import Counts, Entry
from tests.namespaces.recording_broker import RecordingBroker

T = TypeVar("T")

ROOT = "RootManageSharedAccessKey"


class OwnNamespace:
    """The AMQP endpoint on a free loopback port during the ``with`` block. The methods are those of `Namespace`.

    Args:
        tls: The files of a certificate and its key, to serve TLS.
        max_message_size: Bytes of a message at most, unless its queue has another limit.
    """

    def __init__(self, *, tls: tuple[str, str] | None = None, max_message_size: int = 256 * 1024) -> None:
        self.broker = RecordingBroker()
        self._faults = Faults()
        self._keys = {ROOT: AccessKey(ROOT, _new_secret(), frozenset({Right.MANAGE}))}
        self._max_message_size = max_message_size
        cert, key = tls or (None, None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service_module, "Endpoint", partial(FaultyEndpoint, self._faults))
            self._service = GatewayService(
                self.broker,
                self._keys.values(),
                amqp_port=0,
                max_message_size=max_message_size,
                tls_cert=cert,
                tls_key=key,
            )
        endpoint = self._service._endpoint
        assert isinstance(endpoint, FaultyEndpoint)
        self._endpoint = endpoint

    def __enter__(self) -> OwnNamespace:
        before = set(threading.enumerate())
        self._service.start()
        # The broker's thread begins with the first operation that does not block.
        self.broker.list_queues(context=CallContext(blocking=False)).result()
        for thread in set(threading.enumerate()) - before:
            # The fixtures that look for threads mean those of the code under test.
            thread.name = f"namespace of {thread.name}"
        self.port = self._service.amqp_port or 0
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(RuntimeError):  # The loop is closed already.
            self.drop_connections()
        self._service.stop()

    def _call(self, function: Callable[[], T]) -> T:
        """Call a function in the event loop of the endpoint."""

        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), _started(self._service._loop)).result(30)

    # Keys

    @property
    def connection_string(self) -> str:
        """The connection string with the key that has all rights."""
        return self.connection_string_of(ROOT)

    def connection_string_of(self, key_name: str) -> str:
        """Return the connection string with a key."""
        return self._service.amqp_connection_string(self._keys[key_name])

    def add_key(self, name: str, rights: frozenset[str]) -> None:
        """Add a key with some of the rights ``Send``, ``Listen`` and ``Manage``."""
        self._keys[name] = AccessKey(name, _new_secret(), frozenset(Right(right) for right in rights))
        self._service.replace_keys(self._keys.values())

    # Entities

    def create_queue(self, name: str, **options: Any) -> None:
        """Create a queue, in the place of an earlier one.

        Args:
            name: The name.
            options: The fields of `QueueSettings`; `duplicate_detection`, the stand-in's name for the window; and
                `max_message_size`, in bytes, of messages that are sent and not scheduled.
        """
        size = options.pop("max_message_size", None)
        self._call(lambda: self._faults.sizes.update({name: size or self._max_message_size}))
        window = options.pop("duplicate_detection", None)
        if window is not None:
            options |= {"requires_duplicate_detection": True, "duplicate_detection_window": window}
        unknown = options.keys() - QueueFields.__annotations__.keys()
        assert not unknown, f"only the stand-in has the options {unknown}"
        with suppress(QueueNotFoundError):
            self.broker.delete_queue(name).result()
        self.broker.create_queue(name, QueueSettings(**options)).result()

    def create_topic(self, name: str, **options: Any) -> None:
        """Create a topic. Topics exist as soon as they have a subscription."""

    def create_subscription(self, topic: str, name: str, **options: Any) -> None:
        """Create a subscription."""
        self.create_queue(f"{topic}/subscriptions/{name}", **options)

    def put(self, entity: str, encoded: list[bytes]) -> object:
        """Add encoded messages to a queue as if a client had sent them."""
        return self.broker.send(entity, [read_message(each, self._max_message_size) for each in encoded]).result()

    # Looking inside

    @property
    def log(self) -> Counter[str]:
        """How many frames and requests of each kind the clients sent."""
        return self._faults.log

    def counts(self, entity: str) -> Counts:
        """Return the numbers of the messages of a queue."""
        return self.broker.counts(entity)

    def completed(self, entity: str) -> list[Entry]:
        """Return session id, sequence number and message id of the completed messages, in order."""
        return [entry for name, entry in list(self.broker.completed) if name == entity]

    def accepted(self, entity: str) -> list[Entry]:
        """Return session id, sequence number if it was scheduled, and message id of the accepted messages, in order."""
        return [entry for name, entry in list(self.broker.accepted) if name == entity]

    def locked_sessions(self, entity: str) -> set[str]:
        """Return the ids of the locked sessions."""
        return self.broker.locked_sessions(entity)

    def waiting_accepts(self, entity: str) -> int:
        """Return how many links wait for the next available session."""
        return self.broker.waiting_accepts(entity)

    def lock_end(self, entity: str, session_id: str) -> float | None:
        """Return when the lock of a session ends, in seconds since 1970, or `None` if it is not locked."""
        return self.broker.lock_end(entity, session_id)

    def locked_dead_letters(self, entity: str) -> list[str]:
        """Return the lock tokens of the dead letters that are locked."""
        return self._call(lambda: self._endpoint.locked_dead_letters(entity))

    def contents(self, entity: str) -> list[object]:
        """Return the parts of the waiting messages that their senders wrote."""
        found = self.broker.peek(entity, None, 0, 1000, context=CallContext(encoded=True)).result()
        return [(_without_header(encoded_of(message) or b""), message.body) for message in found]

    def _links(self) -> list[Link]:
        return [link for connection in self._endpoint.connections for link in connection.links]

    def links(self) -> int:
        """Return how many links there are, including those of ``$cbs`` and ``$management``."""
        return self._call(lambda: len(self._links()))

    def connections(self) -> int:
        """Return how many connections there are."""
        return self._call(lambda: len(self._endpoint.connections))

    def tokens(self) -> list[float]:
        """Return when the tokens of all connections expire, in seconds since 1970."""
        return self._call(
            lambda: [put.expires_on for each in self._endpoint.connections for put in each.claims._put.values()]
        )

    # Misbehaving

    def detach_links(
        self,
        entity: str | None = None,
        session_id: str | None = None,
        condition: str = "amqp:link:detach-forced",
        description: str = "The link was detached by the server.",
    ) -> int:
        """Detach the links to entities, or only those of one entity or session; return how many."""

        def detach() -> int:
            found = [link for link in self._links() if link.entity and entity in (None, link.entity) and link.is_attached]
            if session_id is not None:
                found = [link for link in found if isinstance(link, SessionReceiver) and link.session_id == session_id]
            else:
                found = [link for link in found if not link.path.lower().endswith("$management")]
            for link in found:
                link.fail(RefusedError(condition, description))
            return len(found)

        return self._call(detach)

    def drop_connections(self, *, polite: bool = False) -> int:
        """Close all sockets, with `polite` after an AMQP close frame; return how many."""

        def drop() -> int:
            found = self._endpoint.connections
            for connection in found:
                if polite:
                    connection.close(ConnectionFaultError(FORCED, "The connection was closed by the server."))
                else:
                    connection.abort()
            return len(found)

        return self._call(drop)

    def expire_session_lock(self, entity: str, session_id: str) -> None:
        """Let the lock of a session expire now."""
        self.broker.expire_session_lock(entity, session_id)

    def delay(self, seconds: float) -> None:
        """Delay all output by so many seconds. 0 ends the delay and sends delayed output."""

        def change() -> None:
            self._faults.delay = seconds
            if not seconds:
                for connection in self._endpoint.connections:
                    connection.hurry()

        self._call(change)

    def throttle(self, n: int) -> None:
        """Refuse the next n attaches, sends and management operations as throttled."""
        self._call(lambda: setattr(self._faults, "throttled", n))

    def refuse(self, operation: str, condition: str, n: int = 1, description: str = "Refused by the test.") -> None:
        """Refuse the next n operations of a kind, for example `attach`, `send`, `disposition` or `renew-session-lock`."""
        self._call(lambda: self._faults.refuse(operation, condition, n, description))

    def refusals(self) -> int:
        """Return how many operations `refuse` will still refuse."""
        return self._call(lambda: self._faults.refusals)

    def refuse_no_more(self) -> None:
        """End what `refuse` began."""
        self._call(self._faults.refuse_no_more)

    def swallow(self, operation: str, n: int = 1) -> None:
        """Perform the next n operations of a kind without an answer."""
        self._call(lambda: self._faults.swallow(operation, n))

    def expire_tokens(self) -> None:
        """Let all tokens expire now."""

        def expire() -> None:
            for connection in self._endpoint.connections:
                connection.claims._put.clear()
                connection.watch_tokens()

        self._call(expire)

    def disable(self, entity: str) -> None:
        """Disable an entity: detach its links and refuse new ones."""
        self._call(lambda: self._faults.disabled.add(entity.lower()))
        self.detach_links(entity, None, "com.microsoft:entity-disabled", f"Messaging entity '{entity}' is disabled.")

    def enable(self, entity: str) -> None:
        """Enable a disabled entity."""
        self._call(lambda: self._faults.disabled.discard(entity.lower()))


def _started(loop: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop:
    assert loop is not None
    return loop


def _without_header(encoded: bytes) -> list[bytes]:
    return [encoded[each.start : each.end] for each in each_section(encoded) if each.code != HEADER]


def _new_secret() -> str:
    return base64.b64encode(os.urandom(32)).decode()
