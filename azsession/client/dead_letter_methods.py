"""`DeadLetterMethods`: the methods of `ServiceBusProvider` about dead letters."""

from __future__ import annotations

from ..messages import PeekedMessage
from . import management
from .provider_core import ProviderCore


class DeadLetterMethods:
    """A part of `ServiceBusProvider`, which describes the errors that each method can raise."""

    _core: ProviderCore

    def dead_letters(
        self,
        queue_name: str,
        max_message_count: int = 100,
        from_sequence_number: int = 0,
        *,
        session_id: str | None = None,
    ) -> list[PeekedMessage]:
        """Return the dead letters of a queue, by sequence number.

        Args:
            queue_name: The queue or subscription.
            max_message_count: The largest number of messages, 1 to 1000.
            from_sequence_number: The first sequence number, 0 or more.
            session_id: Return only dead letters of this session. `None`: of all sessions.

        Raises:
            QueueNotFoundError: The queue does not exist.
        """
        return management.dead_letters(self._core, queue_name, max_message_count, from_sequence_number, session_id)

    def resubmit(self, queue_name: str, sequence_number: int) -> None:
        """Move a dead letter to the end of its session, as a new message. The sender's message stays unchanged.

        Args:
            queue_name: The queue or subscription. On Azure, a subscription's dead letter is sent to its topic.
            sequence_number: The sequence number of the dead letter, as `dead_letters` returns it.

        Raises:
            ProviderError: There is no such dead letter (`code` is ``"MessageNotFound"``). Or Azure's duplicate detection
                dropped the copy, and the dead letter stays (``"Conflict"``). Or the server failed.
            QueueNotFoundError: The queue does not exist.
        """
        management.resubmit(self._core, queue_name, sequence_number)

    def resubmit_session(self, queue_name: str, session_id: str) -> int:
        """Move all dead letters of a session to its end, in their order, as new messages.

        Args:
            queue_name: The queue or subscription.
            session_id: The session.

        Returns:
            How many dead letters were moved.

        Raises:
            ProviderError: The server failed. `accepted` says how many dead letters were moved before the error.
            QueueNotFoundError: The queue does not exist.
        """
        return management.resubmit_session(self._core, queue_name, session_id)

    def delete_dead_letter(self, queue_name: str, sequence_number: int) -> None:
        """Delete a dead letter.

        Args:
            queue_name: The queue.
            sequence_number: The sequence number of the dead letter, as `dead_letters` returns it.

        Raises:
            ProviderError: There is no such dead letter (`code` is ``"MessageNotFound"``), or the server failed.
            QueueNotFoundError: The queue does not exist.
        """
        management.delete_dead_letter(self._core, queue_name, sequence_number)
