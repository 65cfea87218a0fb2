"""`LockProbe`: finds out how long the locks of a namespace last, although the wall clock may be wrong.

`ServiceClock` counts on 5 seconds for each lock until a late renewal shows that locks last longer. A holder must not
renew late. So the probe takes the lock of an empty session with a new id, which nobody uses. It renews this lock only once,
shortly before its end by the wall clock. If the lock was lost, the wall clock is behind Azure's, and the probe tries again
with half of the time.

`SessionRegistry` has one `LockProbe`. Everything here runs in the loop's thread.
"""

from __future__ import annotations

import time
import uuid

from ....amqp import Attach, Condition, Response
from ....errors import QueueError
from ....logs import SessionLogger, get_logger
from ..authorized_connection import AuthorizedConnection
from ..lock_clock import MIN_LOCK_DURATION, ServiceClock, locked_until
from ..namespace import Namespace
from ..operation import Operation
from ..transport.task import LocalFuture, done_within
from .session_link import SessionLink

logger: SessionLogger = get_logger(__name__)

#: How many renewals of locks that may last longer come before a probe. Processes that hold sessions briefly need none.
RENEWALS = 4
#: Seconds until the next probe may begin.
PAUSE = 3600.0
#: The part of a lock's time by the wall clock after which the probe renews its lock.
RENEW_PART = 0.9
#: Seconds for Azure's answers.
ANSWER_TIME = 10.0


class LockProbe:
    """Probes the locks of a namespace, one at a time.

    Args:
        namespace: The namespace.
        clock: Learns what the probe shows.
    """

    def __init__(self, namespace: Namespace, clock: ServiceClock) -> None:
        self._namespace = namespace
        self._clock = clock
        self._renewals = 0
        self._not_before = 0.0

    def on_renewed(self, entity: str, instant: float) -> None:
        """Note that a lock was renewed until `instant` by Azure's clock. Probe if locks may last longer than known."""
        may_last = self._clock.left(instant)
        if may_last < 2.0 * max(self._clock.sure_left(instant), MIN_LOCK_DURATION / 2.0):
            return
        self._renewals += 1
        if self._renewals >= RENEWALS and time.monotonic() >= self._not_before:
            self._renewals, self._not_before = 0, time.monotonic() + PAUSE
            self._namespace.loop.spawn(self._probe(entity, may_last * RENEW_PART))

    async def _probe(self, entity: str, seconds: float) -> None:
        try:
            while seconds > MIN_LOCK_DURATION and not await self._lasts(entity, seconds):
                seconds /= 2.0
        except QueueError as error:
            logger.info("%s: the duration of its locks is not known: %s", entity, error, queue=entity)

    async def _lasts(self, entity: str, seconds: float) -> bool:
        """Return whether the lock of a new session lasts so long, and tell the clock."""
        connection = await self._namespace.connect(entity, Operation())
        probe = _Probe()
        link = SessionLink(probe, entity, f"azsession-probe-{uuid.uuid4()}", ANSWER_TIME)
        connection.attach(link)
        try:
            await done_within(probe.granted, ANSWER_TIME)
            until = probe.locked_until
            if until is None or await done_within(probe.ended, seconds):
                return False
            sent = time.monotonic()
            answer = await self._renew(connection, entity, link)
            if isinstance(answer, Response):
                self._clock.alive(until, sent)
            return isinstance(answer, Response)
        finally:
            link.detach()

    async def _renew(self, connection: AuthorizedConnection, entity: str, link: SessionLink) -> Response | Condition | None:
        renewed: LocalFuture[Response | Condition] = LocalFuture()
        body = {"session-id": link.session_id}
        connection.manage(entity, "renew-session-lock", body, renewed.set_result, link.name)
        return renewed.result() if await done_within(renewed, ANSWER_TIME) else None


class _Probe:
    """The owner of the probe's link.

    Attributes:
        locked_until: The end of the lock by Azure's clock, in seconds since 1970.
        granted: Is done when the lock is granted or refused.
        ended: Is done when the link has ended.
    """

    def __init__(self) -> None:
        self.locked_until: float | None = None
        self.granted: LocalFuture[None] = LocalFuture()
        self.ended: LocalFuture[None] = LocalFuture()

    def on_attached(self, link: SessionLink, attach: Attach) -> None:
        """Note the end of the lock."""
        self.locked_until = locked_until(attach.properties)
        self.granted.set_result(None)

    def on_message(self, link: SessionLink, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        """Do nothing: the link has no credit."""

    def on_drained(self, link: SessionLink) -> None:
        """Do nothing: the link has no credit."""

    def on_link_ended(self, link: SessionLink, error: Condition | None) -> None:
        """Note the end of the link."""
        if not self.granted.done():
            self.granted.set_result(None)
        self.ended.set_result(None)
