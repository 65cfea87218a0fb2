"""`QueueMethods`: the methods of `ServiceBusProvider` about scheduled messages, purging, and queues as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime

from ..messages import Message
from ..queues import QueueInfo, QueueSettings, QueueStatistics
from ..validation import check_queue_name
from . import backup, management, sending
from .provider_core import ProviderCore


class QueueMethods:
    """A part of `ServiceBusProvider`, which describes the errors that each method can raise."""

    _core: ProviderCore

    # Scheduled messages

    def schedule_messages(self, queue_name: str, messages: Iterable[Message] | Message, at: datetime) -> list[int]:
        """Send messages that become available at a later time. They can be cancelled until then.

        The server accepts all messages of a request or none of them. If a later request fails, the error's `accepted` says
        how many messages the earlier requests scheduled.

        Args:
            queue_name: The queue, or the topic.
            messages: The messages, or one message. Each needs a `session_id`. `at` replaces their `scheduled_enqueue_time`.
            at: The time at which they become available, a timezone-aware datetime. A past time means now.

        Returns:
            The sequence numbers, for `cancel_scheduled_messages`. A message gets another number when it becomes available.

        Raises:
            MessageTooLargeError: A message is larger than the server accepts.
            QueueNotFoundError: The queue does not exist.
        """
        check_queue_name(queue_name)
        return sending.schedule_messages(self._core, queue_name, messages, at)

    def cancel_scheduled_messages(self, queue_name: str, sequence_numbers: Iterable[int]) -> None:
        """Delete scheduled messages that are not available yet. Needs the right Send.

        Up to 1000 messages are cancelled in one request: all of them, or none and an error. On Azure, the others may be
        cancelled if a number is not there.

        Args:
            queue_name: The queue, or the topic.
            sequence_numbers: The numbers that `schedule_messages` or `peek_messages` returned.

        Raises:
            ProviderError: There is no scheduled message with one of the numbers (`code` is ``"MessageNotFound"``): it has
                become available, or is cancelled already. Or the server failed.
            QueueNotFoundError: The queue does not exist.
        """
        management.cancel_scheduled_messages(self._core, queue_name, sequence_numbers)

    def purge(self, queue_name: str, session_id: str | None = None) -> int:
        """Delete the active, deferred and scheduled messages that are there. Dead letters and session states stay.

        Args:
            queue_name: The queue.
            session_id: The session, 0 to 128 characters. `None` purges all sessions that no client holds; the others are
                left alone.

        Returns:
            How many messages were deleted.

        Raises:
            SessionLockedError: A client holds the session `session_id`.
            QueueNotFoundError: The queue does not exist.
        """
        return management.purge(self._core, queue_name, session_id)

    # Queues

    def create_queue(self, queue_name: str, settings: QueueSettings | None = None) -> bool:
        """Create a queue. Needs the right Manage.

        Args:
            queue_name: The queue.
            settings: Its settings. By default those of ``QueueSettings()``.

        Returns:
            `True` if the queue is new, `False` if it existed with the same settings.

        Raises:
            ProviderError: The queue exists with other settings (`code` is ``"Conflict"``), or the server failed.
            UnsupportedOperationError: The server speaks the plain dialect, or it is Azure.
        """
        return management.create_queue(self._core, queue_name, settings)

    def get_queue(self, queue_name: str) -> QueueInfo:
        """Return a queue with its settings and message counts. Needs the right Manage.

        Args:
            queue_name: The queue.

        Raises:
            QueueNotFoundError: The queue does not exist.
            UnsupportedOperationError: The server speaks the plain dialect, or it is Azure.
        """
        return management.get_queue(self._core, queue_name)

    def queue_statistics(self, queue_name: str) -> QueueStatistics:
        """Return the numbers of messages and sessions of a queue. Needs the right Listen.

        The broker counts as it goes, so a long queue takes no longer. On Azure, all sessions are listed for their number.

        Args:
            queue_name: The queue, or a subscription.

        Raises:
            QueueNotFoundError: The queue does not exist.
            UnsupportedOperationError: The server speaks the plain dialect.
        """
        return management.queue_statistics(self._core, queue_name)

    def list_queues(self) -> list[QueueInfo]:
        """Return all queues, sorted by name, without message counts. Needs the right Manage.

        Raises:
            UnsupportedOperationError: The server speaks the plain dialect, or it is Azure.
        """
        return management.list_queues(self._core)

    def delete_queue(self, queue_name: str) -> None:
        """Delete a queue and everything in it. Needs the right Manage.

        Args:
            queue_name: The queue.

        Raises:
            QueueNotFoundError: The queue does not exist.
            UnsupportedOperationError: The server speaks the plain dialect, or it is Azure.
        """
        management.delete_queue(self._core, queue_name)

    # Backup

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> int:
        """Write a backup of all queues of the server into a file, while the server goes on. Needs the right Manage.

        The backup has every message that the server had stored when it finished making the backup. It is checked, and then
        gets its name, so that an interrupted call leaves no file. ``azsession serve --data`` and
        `ServiceBusProvider.embedded` start from it. Session locks are not part of it. Blocks.

        Args:
            path: The file. It gets the mode 0600.
            overwrite: Replace a file that exists.

        Returns:
            The size of the file in bytes.

        Raises:
            FileExistsError: The file exists.
            OSError: The file cannot be written, for example because the disk is full.
            ProviderError: The server has no room to make the backup, or failed; or the backup is damaged.
            ThrottledError: The server makes another backup already.
            UnsupportedOperationError: The server speaks the plain dialect, or is in front of Azure, which keeps the messages.
        """
        return backup.backup(self._core, path, overwrite=overwrite)
