"""Log records of the actions of users. A message that is deleted leaves no other trace."""

from __future__ import annotations

from ...logs import About, SessionLogger, get_logger
from .page_request import PageRequest
from .rights import rights_of

logger: SessionLogger = get_logger(__name__)


def note(
    request: PageRequest, action: str, queue: str, *, session_id: str | None = None, sequence_number: int | None = None
) -> None:
    """Log an action that a user has done, with the name of the user's key.

    Args:
        request: The request of the user.
        action: The action, for example ``"deleted dead letter 7"``.
        queue: The queue or subscription.
        session_id: The session that the action was limited to.
        sequence_number: The number of the message.
    """
    name = rights_of(request).key.name
    about: About = {"queue": queue, "session_id": session_id, "sequence_number": sequence_number}
    if session_id is None:
        logger.info("the key %r %s of %r in the Explorer", name, action, queue, **about)
    else:
        logger.info("the key %r %s of the session %r of %r in the Explorer", name, action, session_id, queue, **about)
