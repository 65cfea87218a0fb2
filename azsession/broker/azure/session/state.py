"""The states of a session that is held, or is about to be held, and the transitions between them.

`HeldSession` calls `next_state` for each event. Nothing else decides in which state a session is::

    The lock is taken
        CLAIMED     --connect-->    OPENING
        OPENING     --grant-->      HELD
        OPENING     --contest-->    CONTENDING
        CONTENDING  --contest-->    CONTENDING
        CONTENDING  --grant-->      HELD
        OPENING     --pass_on-->    OPENING
        CONTENDING  --pass_on-->    OPENING

    The link is lost, and the lock is taken again
        HELD        --detach-->     LINK_LOST
        LINK_LOST   --connect-->    RELOCKING
        LINK_LOST   --grant-->      VERIFYING
        RELOCKING   --grant-->      VERIFYING
        RELOCKING   --detach-->     LINK_LOST
        VERIFYING   --verify-->     HELD
        VERIFYING   --detach-->     LINK_LOST

    The lock is given back
        CLAIMED     --release-->    RELEASED
        OPENING     --release-->    RELEASING
        CONTENDING  --release-->    RELEASING
        HELD        --release-->    RELEASING
        LINK_LOST   --release-->    RELEASED
        RELOCKING   --release-->    RELEASING
        VERIFYING   --release-->    RELEASING
        RELEASING   --detach-->     RELEASED

    The lock is lost
        HELD        --lose-->       LOST
        LINK_LOST   --lose-->       LOST
        RELOCKING   --lose-->       LOST
        VERIFYING   --lose-->       LOST

    The lock is not taken
        CLAIMED     --refuse-->     REFUSED
        OPENING     --refuse-->     REFUSED
        CONTENDING  --refuse-->     REFUSED
        OPENING     --detach-->     INTERRUPTED
        CONTENDING  --detach-->     INTERRUPTED
        CLAIMED     --withdraw-->   NOT_GRANTED
        OPENING     --withdraw-->   NOT_GRANTED
        CONTENDING  --withdraw-->   NOT_GRANTED
        CLAIMED     --supersede-->  SUPERSEDED
        OPENING     --supersede-->  SUPERSEDED
        CONTENDING  --supersede-->  SUPERSEDED
        NOT_GRANTED --supersede-->  SUPERSEDED
        INTERRUPTED --supersede-->  SUPERSEDED
"""

from __future__ import annotations

from enum import Enum, auto


class SessionState(Enum):
    """The states of a session. The last six are final, except that a failed accept can still be superseded."""

    #: The session is registered here. Its connection is being opened.
    CLAIMED = auto()
    #: The attach was sent, and Azure has not answered it.
    OPENING = auto()
    #: Azure granted a session that another link of this process seems to hold. That link must end first.
    CONTENDING = auto()
    #: The lock is held, and the link is attached.
    HELD = auto()
    #: The link ended. The lock is taken again when there is a connection.
    LINK_LOST = auto()
    #: The attach that takes the lock again was sent, and Azure has not answered it.
    RELOCKING = auto()
    #: The lock was taken again. It is being checked that no other holder had the session in between.
    VERIFYING = auto()
    #: The lock was given back. Azure has not confirmed the detach.
    RELEASING = auto()
    #: The lock was given back.
    RELEASED = auto()
    #: The lock is lost: it expired, or another holder has or had the session.
    LOST = auto()
    #: The lock could not be taken: Azure refused it, or did not answer.
    REFUSED = auto()
    #: The link was lost before Azure answered. An accept may try again.
    INTERRUPTED = auto()
    #: No session came in time, or nobody waits for the session.
    NOT_GRANTED = auto()
    #: A later attempt of the same accept request took this one's place.
    SUPERSEDED = auto()

    @property
    def is_opening(self) -> bool:
        """Whether the lock may still be granted."""
        return self in _OPENING_STATES

    @property
    def has_lock(self) -> bool:
        """Whether the lock was granted, and is not known to be lost."""
        return self in _LOCK_STATES

    @property
    def is_over(self) -> bool:
        """Whether the session is of no more use to its holder."""
        # In this order: the question comes with each message.
        return self not in _LOCK_STATES and self not in _OPENING_STATES


_OPENING_STATES = (SessionState.CLAIMED, SessionState.OPENING, SessionState.CONTENDING)
_LOCK_STATES = (SessionState.HELD, SessionState.LINK_LOST, SessionState.RELOCKING, SessionState.VERIFYING)


class SessionEvent(Enum):
    """The events of a session."""

    #: There is a connection: the attach is sent.
    CONNECT = auto()
    #: Azure attached the link, and with it granted the lock.
    GRANT = auto()
    #: Azure granted the accept a session that another link of this process seems to hold.
    CONTEST = auto()
    #: The granted link went to the session here that had lost its own. The accept asks for another session.
    PASS_ON = auto()
    #: The check found nothing that another holder changed.
    VERIFY = auto()
    #: The link ended, or was given up.
    DETACH = auto()
    #: The lock is lost.
    LOSE = auto()
    #: The lock cannot be taken.
    REFUSE = auto()
    #: No session came in time, or nobody waits for it.
    WITHDRAW = auto()
    #: The caller tried the accept again.
    SUPERSEDE = auto()
    #: The holder gives the lock back.
    RELEASE = auto()


_S, _E = SessionState, SessionEvent

#: The next state, by state and event. The diagram above shows the same.
TRANSITIONS: dict[tuple[SessionState, SessionEvent], SessionState] = {
    (_S.CLAIMED, _E.CONNECT): _S.OPENING,
    (_S.CLAIMED, _E.REFUSE): _S.REFUSED,
    (_S.CLAIMED, _E.WITHDRAW): _S.NOT_GRANTED,
    (_S.CLAIMED, _E.SUPERSEDE): _S.SUPERSEDED,
    (_S.CLAIMED, _E.RELEASE): _S.RELEASED,
    (_S.OPENING, _E.GRANT): _S.HELD,
    (_S.OPENING, _E.CONTEST): _S.CONTENDING,
    (_S.OPENING, _E.PASS_ON): _S.OPENING,
    (_S.OPENING, _E.DETACH): _S.INTERRUPTED,
    (_S.OPENING, _E.REFUSE): _S.REFUSED,
    (_S.OPENING, _E.WITHDRAW): _S.NOT_GRANTED,
    (_S.OPENING, _E.SUPERSEDE): _S.SUPERSEDED,
    (_S.OPENING, _E.RELEASE): _S.RELEASING,
    (_S.CONTENDING, _E.GRANT): _S.HELD,
    (_S.CONTENDING, _E.CONTEST): _S.CONTENDING,
    (_S.CONTENDING, _E.PASS_ON): _S.OPENING,
    (_S.CONTENDING, _E.DETACH): _S.INTERRUPTED,
    (_S.CONTENDING, _E.REFUSE): _S.REFUSED,
    (_S.CONTENDING, _E.WITHDRAW): _S.NOT_GRANTED,
    (_S.CONTENDING, _E.SUPERSEDE): _S.SUPERSEDED,
    (_S.CONTENDING, _E.RELEASE): _S.RELEASING,
    (_S.HELD, _E.DETACH): _S.LINK_LOST,
    (_S.HELD, _E.LOSE): _S.LOST,
    (_S.HELD, _E.RELEASE): _S.RELEASING,
    (_S.LINK_LOST, _E.CONNECT): _S.RELOCKING,
    # The link of an accept to which Azure granted this session.
    (_S.LINK_LOST, _E.GRANT): _S.VERIFYING,
    (_S.LINK_LOST, _E.LOSE): _S.LOST,
    (_S.LINK_LOST, _E.RELEASE): _S.RELEASED,
    (_S.RELOCKING, _E.GRANT): _S.VERIFYING,
    (_S.RELOCKING, _E.DETACH): _S.LINK_LOST,
    (_S.RELOCKING, _E.LOSE): _S.LOST,
    (_S.RELOCKING, _E.RELEASE): _S.RELEASING,
    (_S.VERIFYING, _E.VERIFY): _S.HELD,
    (_S.VERIFYING, _E.DETACH): _S.LINK_LOST,
    (_S.VERIFYING, _E.LOSE): _S.LOST,
    (_S.VERIFYING, _E.RELEASE): _S.RELEASING,
    (_S.RELEASING, _E.DETACH): _S.RELEASED,
    (_S.NOT_GRANTED, _E.SUPERSEDE): _S.SUPERSEDED,
    (_S.INTERRUPTED, _E.SUPERSEDE): _S.SUPERSEDED,
}

#: Events of callers and of other sessions, which may come too late: the lock is there already, or the session is over.
_LATE = frozenset({_E.CONNECT, _E.WITHDRAW, _E.SUPERSEDE})
_AFTER_THE_END = _LATE | {_E.LOSE, _E.REFUSE, _E.RELEASE}

#: The events that change nothing, by state.
IGNORED: dict[SessionState, frozenset[SessionEvent]] = {
    _S.HELD: _LATE,
    _S.LINK_LOST: _LATE - {_E.CONNECT},
    _S.RELOCKING: _LATE,
    _S.VERIFYING: _LATE,
    _S.RELEASING: _AFTER_THE_END,
    _S.RELEASED: _AFTER_THE_END,
    _S.LOST: _AFTER_THE_END,
    _S.REFUSED: _AFTER_THE_END,
    _S.INTERRUPTED: _AFTER_THE_END - {_E.SUPERSEDE},
    _S.NOT_GRANTED: _AFTER_THE_END - {_E.SUPERSEDE},
    _S.SUPERSEDED: _AFTER_THE_END,
}


class ForbiddenTransitionError(Exception):
    """An event came in a state in which it cannot come: a bug of this package, or a peer that breaks AMQP."""


def next_state(state: SessionState, event: SessionEvent) -> SessionState | None:
    """Return the state that follows, or `None` where the event changes nothing.

    Raises:
        ForbiddenTransitionError: The event cannot come in this state.
    """
    following = TRANSITIONS.get((state, event))
    if following is None and event not in IGNORED.get(state, ()):
        raise ForbiddenTransitionError(f"a session that is {state.name} cannot get the event {event.name}")
    return following
