"""The rights of a user: those of the key. Pages check them before they call the broker."""

from __future__ import annotations

from ...protocol.routes import Operation
from ..access_keys import AccessKey, Right
from ..authorization import require
from .page_request import PageRequest


class Rights:
    """The actions that a user may do. Each needs the same right as the operation of the protocol that does it.

    Args:
        key: The user's key.
    """

    def __init__(self, key: AccessKey) -> None:
        self.key = key

    def can_listen(self, entity: str) -> bool:
        """Return whether the user may look at an entity, and handle its dead letters."""
        return self.key.allows(Right.LISTEN) and self.key.covers(entity)

    def can_send(self, entity: str) -> bool:
        """Return whether the user may send to an entity. Nobody sends to a subscription: messages are sent to its topic."""
        is_subscription = entity.lower().split("/")[-2:-1] == ["subscriptions"]
        return not is_subscription and self.key.allows(Right.SEND) and self.key.covers(entity)

    @property
    def can_list(self) -> bool:
        """Return whether the user may look at some queue."""
        return self.key.allows(Right.LISTEN)

    @property
    def named(self) -> frozenset[str] | None:
        """The queues that the key names; `None` if it is not limited to queues."""
        return self.key.queues

    @property
    def names(self) -> str:
        """The rights, for people."""
        return ", ".join(right.value for right in Right if right in self.key.rights)


def rights_of(request: PageRequest) -> Rights:
    """Return the rights of the user of a request."""
    if request.user is None:
        raise RuntimeError("the page needs a user")
    return Rights(request.user.key)


def check_right(request: PageRequest, operation: Operation, entity: str) -> None:
    """Return if the user may do what an operation of the protocol does.

    Raises:
        PermissionDeniedError: The user may not.
    """
    require(rights_of(request).key, operation, entity)
