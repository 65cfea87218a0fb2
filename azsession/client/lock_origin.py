"""`LockOrigin`: where a client has its lock from, and so for which calls it can be used."""

from __future__ import annotations

from ..errors import UnsupportedOperationError
from ..messages import ReceiptHandle


class LockOrigin:
    """The origin of one client's lock. Usually the client takes the lock itself.

    Attributes:
        handed_over: The queue and the session, if another process handed the lock over. Its receipts can be settled then.
        settles_only: Whether the client was made from a receipt.
    """

    __slots__ = ("handed_over", "settles_only")

    def __init__(self) -> None:
        self.handed_over: tuple[str, str] | None = None
        self.settles_only: bool = False

    def check(self, name: str, *, settling: bool) -> None:
        """Check that a client of this origin has the call.

        Raises:
            UnsupportedOperationError: The client was made from a receipt, and the call does not settle.
        """
        if self.settles_only and not settling:
            raise UnsupportedOperationError(
                f"this client of {name} was made from a receipt: it can only settle messages. To receive, renew or use the "
                "state in another process, make a client from the holder's lock_handle()"
            )

    def may_settle(self, receipt: ReceiptHandle) -> bool:
        """Return whether a receipt that was not received here belongs to the session that was handed over."""
        return self.handed_over == (receipt.queue_name, receipt.session_id)
