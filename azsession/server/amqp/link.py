"""The server's end of a link: its life from the attach to the detach. The kinds of links are in the other modules."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from ... import amqp
from ...amqp import Attach, Condition, Disposition, Flow, Transfer
from ...errors import QueueError
from ...logs import SessionLogger, get_logger
from ...messages import Message, PeekedMessage
from ...protocol.routes import Operation, Route
from ..access_keys import AccessKey
from .broker_calls import when_done
from .claims import Claims
from .conditions import INTERNAL, NOT_ALLOWED, STOLEN, UNAUTHORIZED, LinkFaultError, RefusedError, refusal_of
from .entities import existing_entity
from .services import Services
from .states import LinkState

logger: SessionLogger = get_logger(__name__)


class SessionHolder(Protocol):
    """A link that holds a message session, for the requests of its connection."""

    @property
    def lock_id(self) -> str: ...
    @property
    def link_name(self) -> str: ...
    @property
    def locked_for(self) -> float: ...
    def renewed(self, seconds: float) -> None: ...
    def forget(self, tokens: Iterable[str]) -> None: ...


class LinkConnection(Protocol):
    """The connection, as its links use it; see `connection.Connection`."""

    @property
    def services(self) -> Services: ...
    @property
    def claims(self) -> Claims: ...
    @property
    def held(self) -> dict[tuple[str, str], SessionHolder]: ...
    @property
    def links(self) -> list[Link]: ...
    @property
    def client(self) -> Sequence[Any] | None: ...
    def hold(self, size: int) -> None: ...
    def let_go(self, size: int) -> None: ...
    def watch_tokens(self) -> None: ...


class LinkChannel(Protocol):
    """The AMQP session, as its links use it; see `channel.Channel`."""

    @property
    def number(self) -> int: ...
    @property
    def connection(self) -> LinkConnection: ...
    @property
    def has_room(self) -> bool: ...
    def send(self, frame: bytes) -> None: ...
    def send_flow(
        self, handle: int | None = None, delivery_count: int = 0, credit: int = 0, *, drain: bool = False
    ) -> None: ...
    def transfer(self, link: Link, tag: bytes, payload: bytes, key: str | None) -> int: ...
    def settle_outgoing(self, numbers: list[int], outcome: bytes) -> None: ...
    def settle_incoming(self, number: int, error: Condition | None) -> None: ...
    def forget(self, link: Link) -> None: ...
    def forget_deliveries(self, keys: Iterable[str]) -> None: ...


class Link:
    """A link, seen from the server. Only the event loop uses it.

    Args:
        channel: The AMQP session of the link.
        attach: The client's attach.
        path: The path of the node: an entity, ``$cbs``, or ``$management`` of an entity.
        entity: The queue or subscription; ``""`` if the node belongs to none.

    Attributes:
        operations: The link needs the right to one of these operations.
        can_be_stolen: Whether a link of the same client with the same name takes the place of this one.
    """

    operations: tuple[Operation, ...] = ()
    can_be_stolen: bool = False

    def __init__(self, channel: LinkChannel, attach: Attach, path: str, entity: str) -> None:
        self.channel = channel
        self.attach = attach
        self.path = path
        self.entity: str = entity
        self.state: LinkState = LinkState.ATTACHING
        self._tasks: set[asyncio.Task[None]] = set()
        self._revocation: Future[None] | None = None
        #: The key that gives the right to the link, and the operation. The revocation is about them.
        self._claimed: tuple[AccessKey, Operation] | None = None
        self._began = time.monotonic()
        #: Seconds that the link waited for a session.
        self._waited = 0.0

    @property
    def handle(self) -> int:
        """The handle of both ends."""
        return self.attach.handle

    @property
    def is_attached(self) -> bool:
        """Whether the attach was granted and the link has not ended."""
        return self.state is LinkState.ATTACHED

    # The life of a link

    def open(self) -> None:
        """Answer the attach, at once or in a task."""
        self.run(self._open())

    async def _open(self) -> None:
        self.entity = await existing_entity(self.channel.connection.services.broker, self.path)
        self._claim()
        if self.can_be_stolen:
            self._steal()
        await self.prepare()
        self.grant()
        self.on_granted()

    def _steal(self) -> None:
        """End a former link of the same name, for example on a connection that the client has lost (§2.6.1).

        Only a client with the right to the entity gets here, and only links of the same entity are compared.
        """
        former = self.channel.connection.services.named_links.get(self._name)
        self.channel.connection.services.named_links[self._name] = self
        if former is not None:
            former.fail(RefusedError(STOLEN, f"The client attached another link with the name '{self.attach.name[:100]}'."))

    @property
    def _name(self) -> Hashable:
        return self.channel.connection.claims.container_id, self.attach.name, self.attach.is_receiver, self.path

    def report(
        self,
        operation: Operation | None,
        status: int,
        began: float,
        *,
        waited: float = 0.0,
        messages: Sequence[Message | PeekedMessage] = (),
        **about: Any,
    ) -> None:
        """Report an operation of the client that has ended; see `Reporter.operation`. `about` has fields of its route."""
        connection = self.channel.connection
        if not connection.services.reporter.is_on:
            return
        route = None if operation is None else Route(operation, self.entity, **about)
        key = None if self._claimed is None else self._claimed[0].name
        connection.services.reporter.operation(
            route, status, began, key=key, client=connection.client, waited=waited, messages=messages
        )

    async def prepare(self) -> None:
        """Do what the link needs before it is granted. Raises `RefusedError` or `QueueError` if it is refused."""

    def check_rights(self, *, is_revoked: bool = False) -> None:
        """Detach the link if its client has lost the right to it: its token expired, or its key was revoked."""
        try:
            self._claim()
        except QueueError as error:
            text = f"ExpiredToken: The token is expired. It was not renewed for '{self.path}'."
            if is_revoked:
                text = f"Unauthorized access. The key of the link was revoked, or has lost the right: {error}"
            self.fail(RefusedError(UNAUTHORIZED, text, 401))

    def _claim(self) -> None:
        """Check the client's rights to the link, now and when its key is revoked. Raises `QueueError`."""
        if not self.operations:
            return
        connection = self.channel.connection
        key, operation = connection.claims.check(self.path, self.entity, *self.operations)
        if self._revocation is not None and self._claimed == (key, operation):
            return
        # The client may have put a token of another key since.
        former, self._claimed = self._revocation, (key, operation)
        # The guard cancels this future, as it does with the waiting operations of HTTP requests.
        self._revocation = Future()
        if former is not None:
            former.cancel()
        when_done(self._revocation, self._on_revoked)
        connection.services.guard.end_when_revoked(self._revocation, key, operation, self.entity)

    def _on_revoked(self, revocation: Future[None]) -> None:
        if revocation is not self._revocation:
            return
        self._revocation = None
        if self.state is not LinkState.DETACHED:
            self.check_rights(is_revoked=True)

    def on_granted(self) -> None:
        """Handle that the attach was answered."""

    def grant(self) -> None:
        """Answer the attach."""
        self.state = LinkState.ATTACHED
        self.channel.send(amqp.attach_answer(self.channel.number, self.attach, **self.answer()))

    def answer(self) -> Mapping[str, Any]:
        """Return the arguments of `amqp.attach_answer` for this link."""
        return {}

    def fail(self, refusal: RefusedError) -> None:
        """Refuse the attach, as Azure does: an answer without the server's end, then a detach. Or detach the link."""
        if self.state is LinkState.DETACHED:
            return
        if self.state is LinkState.ATTACHING:
            self.report(next(iter(self.operations), None), refusal.status, self._began, waited=self._waited, **self.about)
            self.channel.send(amqp.attach_answer(self.channel.number, self.attach, granted=False))
        self.state = LinkState.DETACHED
        self.channel.send(amqp.detach_frame(self.channel.number, handle=self.handle, error=refusal.error))
        self.release()

    def on_detach(self, closed: bool) -> None:
        """Handle the client's detach. The handle is free afterwards."""
        if self.state is LinkState.ATTACHING:
            # The attach is answered first, so that the client can tell which link the detach is about.
            self.channel.send(amqp.attach_answer(self.channel.number, self.attach, granted=False))
        if self.state is not LinkState.DETACHED:
            self.channel.send(amqp.detach_frame(self.channel.number, handle=self.handle, closed=closed))
        self.state = LinkState.DETACHED
        self.release()

    def release(self) -> None:
        """Give back everything that the link has. Called when the link ends in any way, also more than once."""
        self.state = LinkState.DETACHED
        self.channel.forget(self)
        named = self.channel.connection.services.named_links
        if named.get(self._name) is self:
            del named[self._name]
        if self._revocation is not None:
            self._revocation.cancel()
        for task in list(self._tasks):
            task.cancel()

    def run(self, work: Coroutine[Any, Any, None], *, outlives: bool = False) -> None:
        """Run work for the link in a task. An error detaches the link.

        Args:
            work: The work.
            outlives: Whether the work goes on when the link ends. Otherwise the end of the link cancels the task.
        """
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        tasks = self.channel.connection.services.tasks if outlives else self._tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        # A task that is cancelled before it began has not begun its work either.
        task.add_done_callback(lambda _: work.close())

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RefusedError as refusal:
            self.fail(refusal)
        except QueueError as error:
            self.fail(refusal_of(error, self.path, self.session_id))
        except Exception:
            logger.exception("a link failed")
            self.fail(RefusedError(INTERNAL, "The server had an internal error.", 500))

    @property
    def session_id(self) -> str | None:
        """The message session of the link, for texts of errors."""
        return None

    @property
    def about(self) -> dict[str, Any]:
        """The session of the link, as a field of a route."""
        return {} if self.session_id is None else {"session_id": self.session_id}

    # Frames

    def on_flow(self, flow: Flow) -> None:
        """Handle the client's flow frame with this link's handle."""

    def on_transfer(self, transfer: Transfer) -> None:
        """Handle a frame of a delivery."""
        raise LinkFaultError(NOT_ALLOWED, "The client sent a message on a link that it receives by.")

    def on_disposition(self, deliveries: Sequence[tuple[int, str]], disposition: Disposition) -> None:
        """Handle the client's settlement of deliveries: pairs of delivery id and key, as `Channel.transfer` got the key."""

    def on_room(self) -> None:
        """Handle that frames can be sent again."""
