"""How a session moves to another process: `SessionClient` and `ProviderCore` call these functions."""

from __future__ import annotations

from datetime import datetime, timezone

from .. import interrupts
from ..errors import QueueError, UnsupportedOperationError
from ..logs import SessionLogger, get_logger
from . import background, fetched_ahead
from .holder import Holder
from .lock_handle import LockHandle

logger: SessionLogger = get_logger(__name__)

#: Seconds for which a lock that was handed over is believed to last at least, until its first renewal: Azure's shortest.
MIN_RESUMED = 5.0


def check_portable(*, uses_amqp: bool) -> None:
    """Check that a lock can be handed over.

    Raises:
        UnsupportedOperationError: The lock belongs to a link of this process.
    """
    if uses_amqp:
        raise UnsupportedOperationError(
            "straight to Azure a session's lock belongs to an AMQP link of one process and cannot be handed over: connect "
            "the processes to a gateway (azsession serve --azure)"
        )


def lock_handle(holder: Holder) -> LockHandle:
    """Return the lock for another process. Takes the lock if it is not held yet."""
    holder.check()
    check_portable(uses_amqp=holder.connection.config.uses_amqp)
    holder.require_lock("hand over a session's lock")
    holder.lock.is_shared = True
    return LockHandle(holder.queue_name, holder.session_id, holder.lock.lock_id, holder.lock.term.expires_at)


def resume(holder: Holder, handle: LockHandle) -> None:
    """Hold the lock of a handle."""
    left = (handle.expires_at - datetime.now(timezone.utc)).total_seconds()
    # The clocks of the processes can differ. A server that has ended the lock says so.
    holder.resume(handle.lock_id, max(MIN_RESUMED, min(left, holder.options.session_timeout)))


def detach(holder: Holder) -> None:
    """Close the client, and leave the lock to another process. Messages fetched ahead go back uncounted. Idempotent."""
    background.finish(holder.lock.background)
    if holder.lock.is_live and holder.lock.ahead_count and holder.transport.speaks_v1:
        try:
            fetched_ahead.give_back(holder)
        except QueueError as error:
            if interrupts.raised_by_handler(error):
                raise
            logger.warning(
                "messages fetched ahead were not given back; they return when the lock ends: %s", error, **holder.about
            )
    holder.detach()
