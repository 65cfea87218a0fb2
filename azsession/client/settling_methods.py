"""`SettlingMethods`: the methods of `SessionClient` that settle messages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from ..azure_names import NoArguments, refuse
from . import settling
from .holder import Holder
from .settling import Receipt

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SettlingMethods:
    """A part of `SessionClient`. Use that class."""

    _holder: Holder

    def complete_message(self, receipt: Receipt) -> None:
        """Complete a message. The server deletes it. Blocks.

        Args:
            receipt: The message, its receipt, or the receipt's text.

        Raises:
            InvalidReceiptError: The message was not received here, is already settled, or its lock is lost.
            SessionNotFoundError: The lock is lost, or the session was closed.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError, ThrottledError, ProviderError: No answer came, or the server was busy or failed.
        """
        settling.settle(self._holder, receipt)

    def abandon_message(self, receipt: Receipt, delay: float | timedelta | None = None) -> None:
        """Give a message back. It comes again, before later messages. At the queue's limit it is dead-lettered. Blocks.

        With a delay, the server gives no message of the session to anybody until the delay has passed. Then the session goes
        on with this message. Meanwhile this client keeps the lock until it is closed; other clients find the session locked.

        Args:
            receipt: The message, its receipt, or the receipt's text.
            delay: Seconds (or a timedelta), 0 or more. `None` or 0: the message comes again at once.

        Raises:
            InvalidReceiptError: The message was not received here, is already settled, or its lock is lost.
            SessionNotFoundError: The lock is lost, or the session was closed.
            UnsupportedOperationError: There is a delay, and the server speaks the plain dialect, or on Azure another process
                or gateway holds the session.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError, ThrottledError, ProviderError: No answer came, or the server was busy or failed.
            ValidationError: `delay` is out of its range.
        """
        settling.abandon(self._holder, receipt, delay)

    def defer_message(self, receipt: Receipt) -> None:
        """Defer a message. Only `receive_deferred_messages` returns it again, by its sequence number. Blocks.

        Args:
            receipt: The message, its receipt, or the receipt's text.

        Raises:
            InvalidReceiptError: The message was not received here, is already settled, or its lock is lost.
            SessionNotFoundError: The lock is lost, or the session was closed.
            UnsupportedOperationError: The server speaks the plain dialect.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError, ThrottledError, ProviderError: No answer came, or the server was busy or failed.
        """
        settling.defer(self._holder, receipt)

    def dead_letter_message(
        self, receipt: Receipt, reason: str, description: str | None = None, **others: Unpack[NoArguments]
    ) -> None:
        """Move a message to the dead-letter queue. Blocks.

        Args:
            receipt: The message, its receipt, or the receipt's text.
            reason: Why, up to 4096 characters.
            description: More about it, up to 4096 characters.

        Raises:
            InvalidReceiptError: The message was not received here, is already settled, or its lock is lost.
            SessionNotFoundError: The lock is lost, or the session was closed.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError, ThrottledError, ProviderError: No answer came, or the server was busy or failed.
            ValidationError: `reason` or `description` is too long, or not text.
        """
        refuse(others, "dead_letter_message")
        settling.dead_letter(self._holder, receipt, reason, description)

    def complete_messages(self, receipts: Iterable[Receipt]) -> None:
        """Complete many messages, 1000 in one request. Blocks.

        Args:
            receipts: For each message: the message, its receipt, or the receipt's text.

        Raises:
            InvalidReceiptError: Some messages could not be completed. The others are completed.
            SessionNotFoundError: The lock is lost, or the session was closed.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError, ThrottledError, ProviderError: No answer came, or the server was busy or failed.
        """
        settling.complete_many(self._holder, receipts)

    def dead_letter_session(self, reason: str, description: str | None = None) -> int:
        """Move all messages of the session to the dead-letter queue: also deferred and unsettled ones. Blocks.

        Args:
            reason: Why, up to 4096 characters.
            description: More about it, up to 4096 characters.

        Returns:
            How many messages were moved.

        Raises:
            SessionNotFoundError: The lock is lost, or the session was closed.
            SessionLockedError, QueueNotFoundError: Another client holds the session, or the queue does not exist.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError, ThrottledError, ProviderError: No answer came, or the server was busy or failed.
            ValidationError: `reason` or `description` is too long, or not text.
        """
        return settling.dead_letter_session(self._holder, reason, description)
