"""The state of a queue in memory. `Core` keeps one `Queue` for each queue."""

from __future__ import annotations

from collections import OrderedDict

import attrs

from ...queues import QueueSettings
from .message_keys import message_key
from .session_locks import Acceptors, SessionKey


@attrs.define(eq=False)
class Queue:
    """A queue in memory: its settings, its next sequence number, and the accepts that wait for a session."""

    id: int
    name: str
    settings: QueueSettings
    next_sequence: int
    #: `False`: only readers have named this queue; see `QueueCreation`.
    is_stored: bool = True
    acceptors: Acceptors = attrs.field(factory=Acceptors)
    accepts: OrderedDict[str, tuple[SessionKey, str]] = attrs.field(factory=OrderedDict)
    clear_out_at: int = 64

    def next_key(self) -> int:
        key = message_key(self.id, self.next_sequence)
        self.next_sequence += 1
        return key
