"""`LockHandle`: the whole lock of a session as text, with which another process holds the session.

`SessionClient.lock_handle` makes the text, and `ServiceBusProvider.session_from_handle` reads it. The text contains the lock
id, so no error and no log line shows it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import datetime, timezone

import attrs

from ..errors import ValidationError
from ..validation import check_queue_name, check_session_id
from .redacted import Redacted

#: The first characters of a handle. The digit is the version of the format.
_PREFIX = "azl1."
_MAX_LENGTH = 4096
_LOCK_ID = r"[A-Za-z0-9-]{1,64}\Z"


@attrs.frozen
class LockHandle:
    """The lock of one session, as one process gives it to another.

    Attributes:
        queue_name: The queue.
        session_id: The session.
        lock_id: The id under which the server knows the holder. A secret.
        expires_at: When the lock expires unless it is renewed (timezone-aware, UTC), as known when the handle was made.
    """

    queue_name: str
    session_id: str
    lock_id: str = attrs.field(repr=False)
    expires_at: datetime

    def text(self) -> str:
        """Return the handle as text. Its `repr` is hidden: the text is enough to hold the session."""
        fields = [self.queue_name, self.session_id, self.lock_id, round(self.expires_at.timestamp(), 3)]
        packed = json.dumps(fields, separators=(",", ":")).encode()
        return Redacted(_PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("="))

    @classmethod
    def parse(cls, text: object) -> LockHandle:
        """Return the handle from its text.

        Raises:
            ValidationError: The text is not a handle, or is damaged.
        """
        if not isinstance(text, str) or not text.startswith(_PREFIX) or len(text) > _MAX_LENGTH:
            raise ValidationError("this is not the text of a lock handle: use session.lock_handle()")
        handle = _decode(Redacted(text[len(_PREFIX) :]))
        if handle is None:
            # Raised here: the error of the decoding would show what it decoded.
            raise ValidationError("the text of the lock handle is damaged: pass the text of session.lock_handle() unchanged")
        return handle


def _decode(packed: Redacted) -> LockHandle | None:
    """Return the handle in base64url without padding, or `None` if it is damaged."""
    padding = "=" * (-len(packed) % 4)
    try:
        queue_name, session_id, lock_id, expires = json.loads(
            base64.b64decode(packed + padding, altchars=b"-_", validate=True)
        )
        if not isinstance(lock_id, str) or not re.match(_LOCK_ID, lock_id):
            return None
        expires_at = datetime.fromtimestamp(expires, timezone.utc)
        return LockHandle(check_queue_name(queue_name), check_session_id(session_id), Redacted(lock_id), expires_at)
    except (ValueError, TypeError, OverflowError, OSError, RecursionError, binascii.Error):
        return None
