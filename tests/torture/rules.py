"""The guarantees that a history is checked for, and their violations."""

from __future__ import annotations

import attrs


@attrs.frozen
class Rules:
    """The guarantees that depend on the broker.

    Attributes:
        doubled_sends: A send during a kill of the gateway may be stored twice. True for Azure.
        locks_outlast: A lock ends only by its holder, by expiry, or with the gateway. False for Azure, where a lost link ends
            a lock.
        kills_count: A kill of the gateway counts as a failed delivery of the messages in the hands of holders. False for
            Azure, which then releases them, or counts them when their lock expires.
        fetches_ahead: The gateway may fetch a message before it is received. If the lock expires then, this counts. True for
            Azure.
    """

    doubled_sends: bool = False
    locks_outlast: bool = True
    kills_count: bool = True
    fetches_ahead: bool = False


@attrs.frozen
class Violation:
    """A guarantee that was not kept."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"
